"""The full-duplex automaton of one session, without tensors: what to feed, when a unit is over.

Input comes in units: `<unit>`, pictures, sound, then the model's own tokens up to a
terminator, then `</unit>`. `DuplexBatch` drives many sessions through one model.
Source: MiniCPM-o 4.5 inference code; deliberate differences are off with `Parity`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from engine.ipc.protocol import Retention, TokenSplit
from engine.minicpmo.llm.context_window import (
    ContextLimit,
    ContextPolicy,
    Cut,
    DuplexWindow,
    Entry,
    Media,
    Rebuild,
    Slide,
    WindowSettings,
    split,
)
from engine.minicpmo.llm.duplex_unit import SpokenToken, Unit, UnitPhase, UnitResult
from engine.minicpmo.llm.given_words import GivenWords
from engine.minicpmo.llm.rows import Piece
from engine.minicpmo.llm.sampler import Draws, DuplexRow, DuplexSampling
from engine.minicpmo.llm.tokenizer import OmniTokenizer
from engine.minicpmo.models.unit import RELEASED_UNIT

UNIT_END_IDS = 2
"""A unit's terminator and `</unit>`."""
SLIDE_PARTS = 10
"""Which part of the context is freed at once where it is full."""

CONTEXT_MARKER = "\n\nprevious: "


@dataclass(frozen=True)
class DuplexSettings:
    """What a session may choose; may be replaced between units."""

    sampling: DuplexSampling = DuplexSampling()
    force_listen_count: int = 3
    """Units at the start of a session that only listen."""
    max_tokens: int = RELEASED_UNIT.max_tokens
    """See `UnitSpec`, as of `max_chars`."""
    max_chars: int = RELEASED_UNIT.max_chars
    window: WindowSettings = WindowSettings()
    context_policy: ContextPolicy = "slide"
    retention: Retention | None = None
    parity: bool = False
    """Report units exactly as the original does, for comparisons. What is fed is the same."""

    def __post_init__(self) -> None:
        if self.max_tokens < 2 or self.max_chars < 1 or self.force_listen_count < 0:
            raise ValueError(
                f"max_tokens {self.max_tokens}, max_chars {self.max_chars}, "
                f"force_listen_count {self.force_listen_count}"
            )


class DuplexState:
    """State of one conversation. The order of calls for a unit: `begin`, then `decide` and `fed`
    until one returns the result (`take_result` where it was told to listen), `close_unit`."""

    def __init__(
        self, tokens: OmniTokenizer, settings: DuplexSettings, seed: int, max_context: int
    ) -> None:
        """`max_context`: positions the session's cache may hold."""
        self._tokens = tokens
        self.settings = settings
        self.context = ContextLimit(max_context, settings.context_policy)
        self.row = DuplexRow(settings.sampling, Draws(seed))
        self.phase = UnitPhase.CLOSED
        self.length = 0
        """Positions in the cache."""
        self.turn_open = False
        self.units = 0
        """Units begun since `prepare`."""
        self.tail: list[int] = []
        """Terminator and `</unit>` of the last unit, where they were not fed yet."""
        self.window = DuplexWindow(settings.window, 0, ())
        self._decisions = 0
        self._speech_open = False
        self._unit = Unit(0)
        self._brought = 1
        """Positions that the newest unit's input takes."""
        self._read_for_turn = 0
        """Positions of the units since the newest turn began, and of messages right before it."""
        self._read_between = 0
        """Positions of the messages that no turn has followed yet."""
        self._tail_entry: Entry | None = None
        self._given = GivenWords(tokens)

    def configure(self, settings: DuplexSettings) -> None:
        """Take new settings between units; the window's mode stays."""
        assert self.phase in (UnitPhase.IDLE, UnitPhase.CLOSED), (
            f"settings changed while {self.phase}"
        )
        self.settings = settings
        self.row.settings = settings.sampling
        self.context.policy = settings.context_policy

    # ------------------------------------------------------------------ a session's start

    def prepare(
        self, prefix: Sequence[int], voice: Tensor | None, suffix: Sequence[int]
    ) -> list[Piece]:
        """Forget everything and return the rows of the system message."""
        pieces: list[Piece] = [list(prefix), *([] if voice is None else [voice]), list(suffix)]
        prefix_len = len(prefix) + (0 if voice is None else len(voice))
        context_mode = self.settings.window.mode == "context"
        self.window = DuplexWindow(
            self.settings.window,
            prefix_len,
            tuple(suffix),
            tuple(self._tokens.encode(CONTEXT_MARKER)) if context_mode else (),
            self._tokens.special_ids,
            retention=self.settings.retention,
            room=self.context.limit,
            voice=0 if voice is None else len(voice),
        )
        self.row = DuplexRow(self.settings.sampling, self.row.draws)
        self.phase = UnitPhase.IDLE
        self.length = prefix_len + len(suffix)
        self.turn_open = self._speech_open = False
        self.units = self._decisions = 0
        self.tail, self._tail_entry = [], None
        self._given.forget()
        self._read_between = 0
        self.context.check(self.length)
        return pieces

    # ------------------------------------------------------------------ given words

    @property
    def can_say(self) -> bool:
        """A turn of given words may begin with the next unit."""
        return self.phase is UnitPhase.IDLE and not (self.turn_open or self._given.is_due)

    def say(self, ids: Sequence[int]) -> None:
        """Have the next turn say these words; a cut forgets what of them is left."""
        assert self.can_say, "a turn is under way"
        self._given.give(ids, self.settings.max_chars)

    def speak(self) -> None:
        """Have the next unit begin a turn, in words of the model's own."""
        assert self.can_say, "a turn is under way"
        self._given.begin()

    @property
    def given(self) -> int:
        """The id that has to be chosen next; -1: any."""
        return self._given.next(self._unit, self.settings.max_tokens)

    @property
    def says_given(self) -> bool:
        """The turn that begins with the next unit, or is under way, says what it was given."""
        return self._given.is_saying

    # ------------------------------------------------------------------ the system message

    def lacking_told(self, suffix: Sequence[int]) -> int:
        """Positions short for a system message that ends so, and the next unit behind it."""
        return self._lacking(self._brought + max(0, len(suffix) - len(self.window.suffix_ids)))

    def tell(self, suffix: Sequence[int]) -> Rebuild:
        """End the system message in other words, between units; what follows it stays."""
        assert self.phase is UnitPhase.IDLE, f"the system message changes while {self.phase}"
        window = self.window
        resume, window.suffix_ids = window.protected, tuple(suffix)
        self.length += window.protected - resume
        return Rebuild(window.prefix_len, (*window.previous, *window.suffix_ids), resume)

    # ------------------------------------------------------------------ messages

    def lacking_read(self, positions: int) -> int:
        """Positions short for messages of so many, and the next unit behind them."""
        return self._lacking(self._brought + positions)

    def read(self, positions: int, media: Media) -> list[int]:
        """Take messages in between units; they leave the cache as a unit does.

        Returns the ids to be fed before them.
        """
        assert self.phase is UnitPhase.IDLE, f"messages come while {self.phase}"
        assert not self.turn_open, "a turn is under way"
        tail = self.tail
        self._register_tail()
        self.length += positions
        self.window.register(Entry(positions, media=media))
        self._read_between += positions
        return tail

    # ------------------------------------------------------------------ one unit

    def lacking(self, pictures: Sequence[Sequence[Tensor]], audio: Tensor | None) -> int:
        """Positions short for a unit of this input; raises `ContextFull` where policy is `end`."""
        self._brought = 1 + sum(2 + len(part) for group in pictures for part in group)
        self._brought += 0 if audio is None else len(audio)
        return self._lacking(self._brought)

    def lacking_next(self) -> int:
        """Positions short for a unit like the last one that was asked about; 0 with policy `end`,
        under which nothing is dropped."""
        return 0 if self.context.policy == "end" else self._lacking(self._brought)

    def _lacking(self, brought: int) -> int:
        # turn_eos of a forced listen, the decided tokens, terminator and </unit>
        coming = brought + self.settings.max_tokens + 2
        return self.context.lacking(self.length + len(self.tail), coming)

    def begin(
        self,
        pictures: Sequence[Sequence[Tensor]],
        audio: Tensor | None,
        *,
        force_listen: bool = False,
    ) -> list[Piece]:
        """Start a unit and return its rows, those left over from the last unit in front.

        `pictures`: per picture its embeddings [T, C], the whole one first and then its slices.
        `audio`: [T, C]. Everything must be there; nothing is fed for a unit that lacks input.
        """
        assert self.phase is UnitPhase.IDLE, f"a unit begins while {self.phase}"
        assert not self.must_close, "the last unit must be closed first: its window moves"
        if audio is None and not pictures:
            raise ValueError("a unit needs sound or a picture")
        tokens = self._tokens
        pieces: list[Piece] = [self.tail] if self.tail else []
        self._register_tail()
        seen = sum(len(part) for group in pictures for part in group)
        media = Media(0 if audio is None else len(audio), seen)
        self._unit = Unit(self.length, media=media)
        head: list[Piece] = [[tokens.unit_start]]
        for group in pictures:
            for index, embedding in enumerate(group):
                pair = (
                    (tokens.slice_start, tokens.slice_end)
                    if index
                    else (tokens.image_start, tokens.image_end)
                )
                head += [[pair[0]], embedding, [pair[1]]]
        if audio is not None:
            head.append(audio)
        self.units += 1
        self.phase = UnitPhase.DECIDING
        self.length += sum(len(piece) for piece in head)
        may_be_early = not (self._given.is_due or self.turn_open)
        is_early = may_be_early and self._decisions < self.settings.force_listen_count
        if force_listen or is_early:
            if self.turn_open:
                head.append([tokens.turn_eos])
                self.length += 1
            self._cut()
            self._end(tokens.listen)
        self._decisions += 1
        return pieces + head

    @property
    def needs_decision(self) -> bool:
        """The newest logits are to be sampled from, with `row`."""
        return self.phase is UnitPhase.DECIDING and self._unit.chosen is None

    def decide(self, token: int) -> UnitResult | None:
        """Take the sampled id: it waits to be fed, or ends the unit, which is returned."""
        assert self.needs_decision, f"a decision while {self.phase}"
        tokens, unit = self._tokens, self._unit
        if token == tokens.listen and self.turn_open:
            token = tokens.tts_bos
        if token in (tokens.listen, tokens.chunk_eos, tokens.chunk_tts_eos):
            self._end(token)
            return self.take_result()
        self.turn_open = True
        if unit.step > 0 and len(self._text(token)) >= self.settings.max_chars:
            self._end(tokens.chunk_eos)
            return self.take_result()
        unit.chosen = token
        return None

    @property
    def waiting(self) -> int | None:
        """The id to feed next."""
        return self._unit.chosen

    def fed(self, hidden: Tensor | None) -> UnitResult | None:
        """The waiting id is in the cache, with the state `hidden` [C] after it; returns the unit
        if its last step was that."""
        unit = self._unit
        assert unit.chosen is not None, "nothing was chosen"
        self.length += 1
        unit.ends_turn = unit.chosen == self._tokens.turn_eos
        if unit.ends_turn:
            self.turn_open = False
        if unit.step > 0:
            unit.spoken.append(SpokenToken(unit.chosen, hidden))
        self._given.fed(unit.chosen, unit.step)
        unit.chosen = None
        unit.step += 1
        if unit.step < self.settings.max_tokens - 1:
            return None
        self._end(self._tokens.chunk_eos)
        return self.take_result()

    def interrupt(self) -> list[int]:
        """Break the unit under way off: it becomes a listen; returns ids to feed before its tail.

        The cache then reads as if the model had ended its turn and listened. Between units use
        `begin(force_listen=True)`.
        """
        assert self.needs_decision, f"an interruption while {self.phase}"
        ids = [self._tokens.turn_eos] if self.turn_open else []
        self.length += len(ids)
        self._cut()
        self._end(self._tokens.listen)
        return ids

    def take_result(self) -> UnitResult:
        """Return what the finished unit came to; its terminator and `</unit>` become the tail."""
        assert self.phase is UnitPhase.DONE, f"no result while {self.phase}"
        unit, tokens = self._unit, self._tokens
        assert unit.terminator is not None
        result = self._result(unit, unit.terminator)
        self.tail = [unit.terminator, tokens.unit_end]
        self._tail_entry = Entry(
            self.length + len(self.tail) - unit.start,
            tuple(spoken.id for spoken in unit.spoken),
            result.is_listen,
            unit.media,
        )
        self.phase = UnitPhase.IDLE
        return result

    # ------------------------------------------------------------------ a unit's end

    @property
    def must_close(self) -> bool:
        """The window moves after this unit, so its tail cannot wait for the next one."""
        return self._tail_entry is not None and self.window.is_due(self._tail_entry.length)

    def close_unit(self) -> tuple[list[int], Slide | None]:
        """Return the rows still to be fed and what the window then does to the cache."""
        assert self.phase is UnitPhase.IDLE, f"a unit is closed while {self.phase}"
        tail = self.tail
        self._register_tail()
        slide = self.window.slide()
        self.length = self.window.length
        return tail, slide

    @property
    def droppable(self) -> int:
        """Positions of the units that `make_room` may drop: those that are closed."""
        return sum(entry.length for entry in self.window.entries)

    def make_room(self, positions: int) -> Cut | None:
        """Drop the oldest units to free this many positions; raises `ContextFull`.

        What the last unit still has to be fed stays so.
        """
        # Drop much at once, and seldom: each time everything that stays is moved.
        share, marks = self.context.limit // SLIDE_PARTS, self.window.marks
        if self.window.retention is not None and marks is not None:
            share = self.window.length - marks.low
        closed = self.window.entries if self.tail else self.window.entries[:-1]
        spare = sum(entry.length for entry in closed)
        cut = self.window.make_room(max(positions, min(share, spare)))
        self.length -= 0 if cut is None else cut.count
        self.context.check(self.length)
        return cut

    def _register_tail(self) -> None:
        if self._tail_entry is not None:
            self.length += len(self.tail)
            self.window.register(self._tail_entry)
        self.tail, self._tail_entry = [], None
        # Not before: what was still to be fed was judged by the old one.
        self.window.retention = self.settings.retention
        assert self.length == self.window.length, f"{self.length}, window {self.window.length}"

    def _cut(self) -> None:
        self._unit.is_cut = self.turn_open or self._speech_open
        self.turn_open = self._unit.ends_turn = False
        self._given.forget()

    def _end(self, terminator: int) -> None:
        if self._unit.ends_turn:
            self._given.forget()
        self._unit.terminator = terminator
        self.phase = UnitPhase.DONE

    def _text(self, *more: int) -> str:
        ids = [spoken.id for spoken in self._unit.spoken]
        return self._tokens.decode([*ids, *more], skip_special=True)

    def _made_from(self, starts: bool) -> TokenSplit:
        # The ends of the turn's units before this one were read for it, too.
        if starts:
            self._read_for_turn, self._read_between = self._read_between, 0
        else:
            self._read_for_turn += UNIT_END_IDS
        media = self.window.media + self._unit.media
        self._read_for_turn += self.length - self._unit.start
        return split(self.length, media, max(0, self.length - self._read_for_turn))

    def _result(self, unit: Unit, terminator: int) -> UnitResult:
        is_listen = terminator == self._tokens.listen
        end_of_turn = unit.ends_turn
        if self.settings.parity:
            wants_speech = not is_listen
            end_of_turn = end_of_turn and not is_listen
        else:
            # A turn that ends before a listen is still spoken to its end, and a speech decoder that
            # has neither words nor a turn under way is not asked to make something up.
            has_speech = bool(unit.spoken or self._speech_open) and not unit.is_cut
            end_of_turn = end_of_turn and has_speech
            is_listen = is_listen and not end_of_turn
            wants_speech = has_speech and not is_listen
        starts = wants_speech and not self._speech_open
        if wants_speech or unit.is_cut:
            self._speech_open = wants_speech and not end_of_turn
        return UnitResult(
            unit=self.units - 1,
            is_listen=is_listen,
            text="" if is_listen else self._text(),
            spoken=() if is_listen else tuple(unit.spoken),
            wants_speech=wants_speech,
            is_turn_start=starts,
            end_of_turn=end_of_turn,
            is_cut=unit.is_cut,
            num_tokens=len(unit.spoken),
            terminator=terminator,
            kv_length=self.length,
            made_from=self._made_from(starts),
            warning=self.context.check(self.length),
        )
