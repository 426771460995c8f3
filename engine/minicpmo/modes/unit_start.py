"""When units of full duplex start, and with which sound and pictures."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from torch import Tensor

from engine.dsp.logmel import ChunkQueue
from engine.ipc.protocol import INPUT_HZ, AppendContext
from engine.minicpmo.encoders.vision import EncodedPicture, PictureInput
from engine.minicpmo.llm.duplex_state import DuplexState
from engine.minicpmo.models.unit import UnitSpec
from engine.minicpmo.modes.mode import SessionEntry
from engine.minicpmo.modes.told_context import ToldContext
from engine.minicpmo.modes.unit_speech import Cause
from engine.minicpmo.runner import Runner
from engine.minicpmo.session.item_decoding import DecodedItem
from engine.minicpmo.session.session import Session, SessionFailed
from engine.minicpmo.speech.worker import SessionSpeech

SESSIONS_A_START = 4
"""For so many sessions one more unit is awaited before the units that are due are started."""
LONGEST_WAIT = 0.25
"""No unit waits longer for others, as a share of a unit."""
GATHER_S = 0.04
"""How long a unit waits for others that will be complete by then: sound comes in pieces."""
LOOKED_AHEAD = 8
"""Pictures that are encoded ahead at once: a unit that becomes due meanwhile waits for them."""


@dataclass
class Appended:
    """Words of the client's that the model is to say."""

    request: str
    ids: tuple[int, ...]
    since: int | None = None
    """The sample of the user's sound at which they began."""


@dataclass
class AskedTurn:
    """A turn that the model takes because a client asked for it."""

    request: str
    behind: frozenset[str] = frozenset()
    """The items that were not read yet when it was asked for."""
    is_told: bool = False
    """Its response has begun."""


class DuplexEntry(SessionEntry):
    """A full-duplex session and the input of its next unit."""

    def __init__(
        self,
        session: Session,
        speech: SessionSpeech,
        prompt: Iterator[None],
        unit: UnitSpec,
        told: ToldContext,
        state: DuplexState,
    ) -> None:
        super().__init__(session, speech)
        self.state = state
        self.told = told
        self.queue = ChunkQueue(unit.samples(INPUT_HZ))
        self.prompt: Iterator[None] | None = prompt
        """What is not read yet of the system message."""
        self.typed: Iterator[None] | None = None
        """Reads what was typed, encoding its pictures and sounds first."""
        self.typed_items: Sequence[DecodedItem] = ()
        """What is read by it."""
        self.sizes = WeakKeyDictionary[DecodedItem, int]()
        """Positions of messages that wait; of the rest of a long one nearly so many."""
        self.is_amid_message = False
        """A part of a message is in the cache: no unit may follow it."""
        self.appended: deque[Appended] = deque()
        """The first one may be under way."""
        self.untold: deque[AppendContext] = deque()
        """What the system message is to say as well."""
        self.asked: deque[AskedTurn] = deque()
        """The turns that are asked for, and have not begun."""
        self.answering: AskedTurn | None = None
        """What the turn under way, or the one that the next unit begins, answers."""
        self.is_running = False
        self.has_new_settings = False
        self.due = 0.0
        """When the unit under way was complete."""
        self.picture: PictureInput | None = None
        """The newest picture; it is brought to the device with others."""
        self.encoded: tuple[Tensor, ...] | None = None
        """The newest picture, encoded ahead of its unit."""

    @property
    def cause(self) -> Cause:
        """Why the turn that has begun is said."""
        is_given = bool(self.appended) and self.appended[0].since is not None
        answering = self.answering
        return Cause(
            self.appended[0].request if is_given else "",
            None if answering is None or answering.is_told else answering.request,
        )

    @property
    def can_begin(self) -> bool:
        """Whether the next unit lacks nothing but sound, and something may be done before it."""
        is_reading = self.prompt is not None or self.is_amid_message
        return not (self.is_running or self.session.is_over or is_reading)

    @property
    def is_amid_item(self) -> bool:
        """Whether the beginning of a long message is read and the rest is not: until then the
        model only listens."""
        return any(item.is_rest for item in (*self.typed_items, *self.session.given.items))

    @property
    def has_to_read(self) -> bool:
        """Whether something was typed that is not read to its end; turns stay whole."""
        is_waiting = self.typed is not None or bool(self.session.given.items)
        return is_waiting and not self.state.turn_open

    @property
    def can_read(self) -> bool:
        """Whether there is a piece to read now."""
        is_idle = not (self.is_running or self.session.is_over)
        return self.prompt is not None or (is_idle and (bool(self.untold) or self.has_to_read))

    @property
    def may_begin_turn(self) -> bool:
        """Whether the unit that starts may be told to speak: nobody is speaking."""
        session, heard = self.session, self.session.audio_input
        is_user_speaking = heard.is_user_speaking and not heard.has_stopped
        only_listens = session.forced_listen or session.is_interrupted or self.is_amid_item
        return self.state.can_say and not (is_user_speaking or only_listens)


def stepped(reading: Iterator[None]) -> Iterator[None] | None:
    """Read a piece; None if that was the last one."""
    return None if next(reading, reading) is reading else reading


def is_worth_starting(entries: Collection[DuplexEntry], unit: UnitSpec, *, is_busy: bool) -> bool:
    """Return whether to start what is due now: with many sessions a few units share a start.

    Encoding and reading one unit costs nearly as much as a few, and holds up the others.
    """
    ready = [entry for entry in entries if entry.can_begin]
    pending = [entry.session.audio_input.pending_ms for entry in ready]
    waiting = [
        entry.session.audio_input.waiting_s
        for entry, ms in zip(ready, pending, strict=True)
        if ms >= unit.ms
    ]
    if not waiting:
        return False
    lacking_ms = (GATHER_S - max(waiting)) * 1000
    if lacking_ms > 0 and any(unit.ms - lacking_ms <= ms < unit.ms for ms in pending):
        return False
    few = max(1, len(entries) // SESSIONS_A_START)
    return len(waiting) >= few or max(waiting) >= LONGEST_WAIT * unit.ms / 1000 or not is_busy


def encode_pictures(
    runner: Runner, entries: Iterable[DuplexEntry]
) -> dict[int, list[tuple[Tensor, ...]]]:
    """Take the newest pictures of sessions whose units start; embeddings by slot."""
    found: dict[int, list[tuple[Tensor, ...]]] = {}
    slots: list[int] = []
    pictures: list[PictureInput] = []
    for entry in entries:
        if entry.picture is not None:
            slots.append(entry.session.slot)
            pictures.append(entry.picture)
        elif entry.encoded is not None:
            found[entry.session.slot] = [entry.encoded]
        entry.picture = entry.encoded = None
    encoded = runner.look(pictures) if pictures else []
    return found | {slot: [e.images] for slot, e in zip(slots, encoded, strict=True)}


def encode_ahead(runner: Runner, entries: Iterable[DuplexEntry]) -> bool:
    """Encode some pictures before their units are due; returns whether there were any."""
    waiting = [entry for entry in entries if entry.picture is not None][:LOOKED_AHEAD]
    if not waiting:
        return False
    for entry, encoded in zip(waiting, _encode(runner, waiting), strict=True):
        entry.encoded, entry.picture = encoded.images, None
    return True


def _encode(runner: Runner, entries: Sequence[DuplexEntry]) -> list[EncodedPicture]:
    pictures = [entry.picture for entry in entries if entry.picture is not None]
    try:
        return runner.look(pictures)
    except Exception as error:
        if len(entries) > 1:
            raise
        raise SessionFailed(entries[0].session, error) from error
