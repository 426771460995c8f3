"""What was said in a session that takes turns, so that its context can be read again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from engine.ipc.protocol import ROOT
from engine.minicpmo.session.item_decoding import DecodedItem

MAX_HISTORY_BYTES = 64 * 1024 * 1024
"""Of pictures and sound; of older turns only the words are kept."""

MAX_TOLD = 1_024
"""Of what was given and answered; no model here remembers as many turns."""


@dataclass(frozen=True, eq=False)
class SpokenTurn:
    """What the user said into the microphone."""

    names: tuple[str, ...]
    """Of its utterances."""
    sound: Tensor
    """[N], 16 kHz."""

    @property
    def num_bytes(self) -> int:
        return self.sound.nbytes


@dataclass(frozen=True, eq=False)
class ShownPicture:
    """What the camera showed with a turn."""

    rgb: Tensor
    """[height, width, 3] uint8."""
    slices: int

    @property
    def num_bytes(self) -> int:
        return self.rgb.nbytes


@dataclass(eq=False)
class ToldAnswer:
    """An answer of the model's, which ends a turn."""

    names: list[str]
    """Of the response and of its calls."""
    ids: tuple[int, ...] = ()
    """As they stand in the cache, those that open the answer included."""
    has_called: bool = False


Given = DecodedItem | SpokenTurn | ShownPicture
"""What somebody gives the model to read."""


@dataclass
class PastTurn:
    """What was given, and the answer; the last turn has none yet."""

    given: list[Given] = field(default_factory=list)
    answer: ToldAnswer | None = None


def names_of(told: Given | ToldAnswer) -> Sequence[str]:
    match told:
        case DecodedItem():
            return (told.item,)
        case ShownPicture():
            return ()
    return told.names


class TurnHistory:
    """Owned by a session's turns; in the order in which the model reads it."""

    def __init__(self) -> None:
        self._told: list[Given | ToldAnswer] = []
        self.is_stale = False
        """The model's context says something else: it has to be read again."""

    def turns(self) -> list[PastTurn]:
        """Whole turns, oldest first, and what no answer followed."""
        turns = [PastTurn()]
        for told in self._told:
            if isinstance(told, ToldAnswer):
                turns[-1].answer = told
                turns.append(PastTurn())
            else:
                turns[-1].given.append(told)
        return turns

    def add(self, *told: Given | ToldAnswer) -> None:
        self._told += told
        del self._told[:-MAX_TOLD]
        self._forget_media()

    def withdraw(self, told: Sequence[Given]) -> None:
        """Take out what was added and could not be read."""
        self._told = [kept for kept in self._told if not any(kept is gone for gone in told)]

    def insert(self, item: DecodedItem) -> bool:
        """Put an item where it says, among what was read; return whether there is that place."""
        place = 0 if item.after == ROOT else self._behind(item.after)
        if place is None or not self._told:
            return False
        self._told.insert(place, item)
        self.is_stale = True
        self._forget_media()
        return True

    def delete(self, name: str) -> bool:
        """Take out what has this name; an answer with calls stays, for outputs refer to them."""
        for told in self._told:
            if name in names_of(told) and not (isinstance(told, ToldAnswer) and told.has_called):
                self._told.remove(told)
                self.is_stale = True
                return True
        return False

    def keep(self, turns: int) -> None:
        """Forget all but so many of the newest turns; the one without an answer is no turn yet."""
        whole = self.turns()
        kept = whole[max(0, len(whole) - 1 - turns) :]
        self._told = [told for turn in kept for told in _flat(turn)]

    def _behind(self, name: str) -> int | None:
        places = (at for at, told in enumerate(self._told, 1) if name in names_of(told))
        return next(places, None)

    def _forget_media(self) -> None:
        room = MAX_HISTORY_BYTES
        for at in range(len(self._told) - 1, -1, -1):
            told = self._told[at]
            if isinstance(told, ToldAnswer):
                continue
            room -= told.num_bytes
            if room < 0:
                self._told[at] = _words(told)


def _flat(turn: PastTurn) -> Iterator[Given | ToldAnswer]:
    yield from turn.given
    if turn.answer is not None:
        yield turn.answer


def _words(told: Given) -> Given:
    """What is left of something without its pictures and sound; its name stays."""
    match told:
        case DecodedItem():
            return told.words()
        case SpokenTurn():
            return replace(told, sound=told.sound[:0])
        case ShownPicture():
            return replace(told, rgb=told.rgb[:0])
