"""Full duplex: every second each session's unit goes in, and the model listens or speaks."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from engine.dsp.logmel import ChunkQueue
from engine.gpu.timing import Stages, Timer, timed, totals
from engine.minicpmo.encoders.vision import EncodedPicture, PictureInput
from engine.minicpmo.llm.batch import Chosen
from engine.minicpmo.llm.context_window import ContextFull
from engine.minicpmo.llm.duplex_batch import UnitInput
from engine.minicpmo.llm.duplex_state import DuplexState, UnitResult
from engine.minicpmo.llm.prompts import DUPLEX_SYSTEM, check_instructions
from engine.minicpmo.modes.thinning import MOST, Thinning
from engine.minicpmo.modes.unit_alignment import PHASES, UnitAlignment
from engine.minicpmo.runner import Runner
from engine.minicpmo.session.session import Session, SessionFailed
from engine.minicpmo.speech.code2wav import Pcm
from engine.minicpmo.speech.pipeline import NO_SOUND
from engine.minicpmo.speech.worker import SessionSpeech, SpeechChunk, SpeechWorker

UNIT_SAMPLES = 16_000
UNIT_MS = 1_000
SESSIONS_A_START = 4
"""For so many sessions one more unit is awaited before the units that are due are started."""
LONGEST_WAIT_S = 0.25
"""No unit waits longer for others."""
GATHER_S = 0.04
"""For so long a unit waits for others that will be complete by then: sound comes in pieces."""
LOOKED_AHEAD = 8
"""Pictures that are encoded ahead at once: a unit that becomes due meanwhile waits for them."""


@dataclass(eq=False)
class _DuplexUtterance:
    """A unit that is decided and being spoken."""

    slot: int
    mind: DuplexEntry
    result: UnitResult
    generation: int
    due: float
    stages: Stages
    is_open: bool = False
    """Its response was opened before it had a sound."""
    is_told: bool = False
    """A part of its sound is out, and with it its text."""


class DuplexEntry:
    """What full duplex keeps of a session beside its rows."""

    def __init__(self, session: Session, speech: SessionSpeech, prompt: Iterator[None]) -> None:
        self.session = session
        self.speech = speech
        self.queue = ChunkQueue()
        self.prompt: Iterator[None] | None = prompt
        """What is left to read of the system message."""
        self.is_running = False
        self.has_new_settings = False
        self.speaking: deque[_DuplexUtterance] = deque()
        self.due = 0.0
        """When the unit under way was complete."""
        self.stages: Stages = []
        self.picture: PictureInput | None = None
        """The newest picture; it is brought to the device with others."""
        self.seen: tuple[Tensor, ...] | None = None
        """The newest picture, encoded ahead of its unit."""


class FullDuplex:
    """Drives the full-duplex sessions of a runner; an `engine.minicpmo.step.Mode`."""

    def __init__(
        self, runner: Runner, speech: SpeechWorker, max_context: int, *, phases: int = PHASES
    ) -> None:
        self._runner = runner
        self._speech = speech
        self._placing = UnitAlignment(phases)
        self._thinning = Thinning()
        self._max_context = max_context
        self._minds: dict[int, DuplexEntry] = {}
        self._chosen: Chosen[UnitResult] = Chosen()
        """Between `choose` and `fed`."""
        self._decided: set[int] = set()
        """Slots whose units are over and whose contexts may be full."""

    def open(self, session: Session) -> None:
        """Begin a conversation in the session's slot; raises `ValueError` for bad settings."""
        settings = session.duplex_settings()
        slot, prompts = session.slot, self._runner.model.prompts
        talk = DuplexState(self._runner.model.tokens, settings, session.seed, self._max_context)
        self._runner.duplex.open(slot, talk)
        text = session.config.instructions or DUPLEX_SYSTEM
        message = prompts.duplex_prefix(text), session.voice.embeddings, prompts.duplex_suffix()
        check_instructions(
            sum(len(part) for part in message if part is not None), self._max_context
        )
        # The first piece now, so that what does not fit is refused at once.
        prompt = self._runner.duplex.prepare_slowly(slot, *message)
        speech = SessionSpeech(self._runner, self._speech, session)
        self._minds[slot] = DuplexEntry(session, speech, prompt)
        session.audio_input.is_placed = False
        next(prompt, None)

    def configure(self, session: Session) -> None:
        """Take new settings from the next unit on; raises `ValueError` for bad ones."""
        session.duplex_settings()
        self._minds[session.slot].has_new_settings = True

    def close(self, slot: int) -> None:
        mind = self._minds.pop(slot, None)
        if mind is not None:
            # They know each other: without this their tensors would wait for the garbage collector.
            mind.speaking.clear()
        self._placing.leave(slot)

    def hears(self, session: Session, count: int, arrived: float) -> None:
        """Sound of `count` samples has come and is about to be kept."""
        self._placing.hears(session, count, arrived)

    def saw(self, session: Session) -> None:
        """A picture has come, or the camera is off: the newest counts for the next unit."""
        mind, picture = self._minds[session.slot], session.take_picture()
        mind.picture = mind.seen = None
        units = self._runner.duplex.sessions[session.slot].units
        if picture is not None and self._thinning.looks(session.slot, units):
            slices = session.config.max_image_slices
            # What cannot be cut fails here, where it ends its own session only.
            self._runner.plan_picture(picture, slices)
            mind.picture = picture, slices

    def interrupt(self, session: Session) -> None:
        """Stop speaking: the unit under way or the next one becomes a listen."""
        mind = self._minds[session.slot]
        if mind.is_running:
            self._apply(self._runner.duplex.interrupt([session.slot]))
        else:
            session.interrupted = True
        mind.speech.cancel()

    def is_busy(self) -> bool:
        """Whether a unit is being decided."""
        return any(mind.is_running for mind in self._minds.values())

    def is_speaking(self) -> bool:
        """Whether a unit that was decided is not spoken yet."""
        return any(mind.speaking for mind in self._minds.values())

    def choose(self) -> dict[int, int]:
        """Decide one token for every unit under way; the ids to feed, by slot."""
        running = [slot for slot, mind in self._minds.items() if mind.is_running]
        self._chosen = self._runner.duplex.choose(running)
        return self._chosen.feeding

    def fed(self, states: Mapping[int, Tensor], timer: Timer) -> bool:
        """What was chosen is in the caches, with `states` [C] by slot; whether anything was."""
        chosen, self._chosen = self._chosen, Chosen[UnitResult]()
        for slot in chosen.slots:
            self._minds[slot].stages.append(("decode", timer))
        if chosen.slots:
            self._apply(self._runner.duplex.fed(chosen, states))
        return bool(chosen.slots)

    def read_on(self) -> bool:
        """Read a piece of one newcomer's system message; whether there was one."""
        for mind in self._minds.values():
            if mind.prompt is not None:
                try:
                    if next(mind.prompt, self) is self:
                        mind.prompt = None
                except Exception as error:
                    raise SessionFailed(mind.session, error) from error
                return True
        return False

    def make_room(self) -> bool:
        """Let one full context forget before its next unit comes; whether there was one."""
        while self._decided:
            slot = self._decided.pop()
            mind = self._minds.get(slot)
            if mind is None or not self._can_begin(mind):
                continue
            try:
                if self._runner.duplex.room_ahead(slot):
                    return True
            except ContextFull:
                # Its next unit finds that, too.
                continue
            except Exception as error:
                raise SessionFailed(mind.session, error) from error
        return False

    # ------------------------------------------------------------------ a unit's start

    def start(self) -> bool:
        """Start the units that are due; whether there were any."""
        if not self._is_worth_starting():
            return False
        due = self._due()
        if not due:
            return False
        with timed(self._runner.model.device) as encode:
            heard = self._runner.hear(due)
            seen = self._look(due)
        inputs = self._with_room(
            [
                UnitInput(slot, heard[slot], seen.get(slot, ()), self._must_listen(slot))
                for slot in due
            ]
        )
        if inputs:
            for unit in inputs:
                self._minds[unit.slot].is_running = True
            with timed(self._runner.model.device) as prefill:
                forced = self._runner.duplex.prefill(inputs)
            for unit in inputs:
                self._minds[unit.slot].stages = [("encode", encode), ("prefill", prefill)]
            self._apply(forced)
        return True

    def _is_worth_starting(self) -> bool:
        """Whether to start what is due now: with many sessions a few units share a start.

        Encoding and reading one unit costs nearly as much as a few, and holds up the others.
        """
        waiting = [
            mind.session.audio_input.waiting_s
            for mind in self._minds.values()
            if mind.session.audio_input.pending_ms >= UNIT_MS and self._can_begin(mind)
        ]
        if not waiting or self._gathers(max(waiting)):
            return False
        few = max(1, len(self._minds) // SESSIONS_A_START)
        return len(waiting) >= few or max(waiting) >= LONGEST_WAIT_S or not self.is_busy()

    def _gathers(self, waited: float) -> bool:
        """Whether units that will be complete in a moment are to start with those that wait."""
        lacking_ms = (GATHER_S - waited) * 1000
        return lacking_ms > 0 and any(
            UNIT_MS - lacking_ms <= mind.session.audio_input.pending_ms < UNIT_MS
            and self._can_begin(mind)
            for mind in self._minds.values()
        )

    def _can_begin(self, mind: DuplexEntry) -> bool:
        """Whether nothing but sound lacks for the next unit."""
        return not (mind.is_running or mind.session.is_over or mind.prompt is not None)

    def _due(self) -> dict[int, Tensor]:
        """The sound of every unit that can start."""
        due: dict[int, Tensor] = {}
        for slot, mind in self._minds.items():
            if not self._can_begin(mind):
                continue
            fresh = mind.session.audio_input.take_unit(UNIT_SAMPLES)
            if fresh is None:
                continue
            mind.due = mind.session.audio_input.complete_since
            self._placing.took(mind.session, mind.due)
            if mind.has_new_settings:
                mind.has_new_settings = False
                talk = self._runner.duplex.sessions[slot]
                talk.configure(mind.session.duplex_settings())
            mind.queue.push(fresh)
            chunk = mind.queue.take()
            if chunk is not None:
                due[slot] = chunk
        return due

    def _look(self, slots: Iterable[int]) -> dict[int, list[tuple[Tensor, ...]]]:
        found: dict[int, list[tuple[Tensor, ...]]] = {}
        asked: list[int] = []
        pictures: list[PictureInput] = []
        for slot in slots:
            mind = self._minds[slot]
            if mind.picture is not None:
                asked.append(slot)
                pictures.append(mind.picture)
            elif mind.seen is not None:
                found[slot] = [mind.seen]
            mind.picture = mind.seen = None
        seen = self._runner.look(pictures) if pictures else []
        return found | {slot: [s.images] for slot, s in zip(asked, seen, strict=True)}

    def look_ahead(self) -> bool:
        """Encode pictures before their units are due, while there is nothing else to do."""
        waiting = [mind for mind in self._minds.values() if mind.picture is not None]
        now = waiting[:LOOKED_AHEAD]
        if not now:
            return False
        for mind, seen in zip(now, self._see(now), strict=True):
            mind.seen, mind.picture = seen.images, None
        return True

    def _see(self, minds: Sequence[DuplexEntry]) -> list[EncodedPicture]:
        pictures = [mind.picture for mind in minds if mind.picture is not None]
        try:
            return self._runner.look(pictures)
        except Exception as error:
            if len(minds) > 1:
                raise
            raise SessionFailed(minds[0].session, error) from error

    def _must_listen(self, slot: int) -> bool:
        session = self._minds[slot].session
        interrupted, session.interrupted = session.interrupted, False
        return interrupted or session.forced_listen

    def _with_room(self, inputs: list[UnitInput]) -> list[UnitInput]:
        """Those whose context takes the unit; the sessions of the others end."""
        fitting = []
        for unit in inputs:
            try:
                self._runner.duplex.room(unit)
            except ContextFull:
                self._minds[unit.slot].session.end("the model cannot remember more")
                continue
            fitting.append(unit)
        return fitting

    # ------------------------------------------------------------------ a unit's end

    def _apply(self, results: dict[int, UnitResult]) -> None:
        """Have said what was decided, close the units."""
        if not results:
            return
        for slot in results:
            self._minds[slot].is_running = False
        aloud = [s for s, r in results.items() if r.wants_speech and self._minds[s].session.speaks]
        for slot, result in results.items():
            mind = self._minds[slot]
            if result.is_cut:
                mind.speech.cancel()
                if mind.session.output.is_open:
                    mind.session.output.interrupt()
            if slot in aloud:
                self._say(mind, result, others_follow=slot != aloud[-1] or self.is_busy())
            else:
                if result.wants_speech or result.text:
                    self._open(mind, result)
                    self._tell(mind, result, None)
                self._done(mind, result, mind.due, spoke=bool(result.text), stages=mind.stages)
            mind.session.warn_context(result.warning)
        self._runner.duplex.finalize(list(results))
        self._decided.update(results)

    def _say(self, mind: DuplexEntry, result: UnitResult, *, others_follow: bool) -> None:
        slot = mind.session.slot
        utterance = _DuplexUtterance(
            slot, mind, result, mind.speech.generation, mind.due, mind.stages
        )
        if not mind.speaking:
            # A user who speaks now speaks over the answer.
            self._open(mind, result)
            utterance.is_open = True
        mind.speaking.append(utterance)
        mind.speech.say(
            [token.id for token in result.spoken],
            [token.hidden for token in result.spoken if token.hidden is not None],
            partial(self._spoken, utterance),
            is_unit=True,
            ends=result.end_of_turn,
            starts=result.is_turn_start,
            others_follow=others_follow,
        )

    def _spoken(self, utterance: _DuplexUtterance, chunk: SpeechChunk) -> None:
        """Send sound of a unit, or of a part of it."""
        mind, result = utterance.mind, utterance.result
        is_current = utterance.generation == mind.speech.generation and not mind.session.is_over
        if self._minds.get(utterance.slot) is not mind:
            return
        if is_current:
            if not utterance.is_open:
                self._open(mind, result)
                utterance.is_open = True
            self._tell(mind, result, chunk.pcm, again=utterance.is_told, more=not chunk.is_last)
            utterance.is_told = True
        if chunk.is_last:
            mind.speaking.remove(utterance)
            stages = [*utterance.stages, *chunk.stages]
            self._done(mind, result, utterance.due, spoke=True, stages=stages)

    def _open(self, mind: DuplexEntry, result: UnitResult) -> None:
        output = mind.session.output
        if result.is_turn_start and output.is_open:
            output.finish("completed")
        if not output.is_open:
            output.begin("proactive", modality="audio" if mind.session.speaks else "text")

    def _tell(
        self,
        mind: DuplexEntry,
        result: UnitResult,
        pcm: Pcm | None,
        *,
        again: bool = False,
        more: bool = False,
    ) -> None:
        """Send what is said: the text with the first part of the sound."""
        output = mind.session.output
        output.say(
            "" if again else result.text,
            NO_SOUND if pcm is None else pcm,
            tokens=0 if again else result.num_tokens,
            last=result.end_of_turn and not more,
        )
        if result.end_of_turn and not more:
            output.finish("completed", input_tokens=result.kv_length)

    def _done(
        self, mind: DuplexEntry, result: UnitResult, due: float, *, spoke: bool, stages: Stages
    ) -> None:
        total_ms = (time.monotonic() - due) * 1000
        if self._thinning.unit(total_ms):
            self._tell_thinning()
        mind.session.unit_done(
            speaks=spoke,
            stages_ms=totals(stages) | {"unit": round(total_ms, 2)},
            kv_tokens=result.kv_length,
        )

    def _tell_thinning(self) -> None:
        """Tell those who show something how often it is looked at now."""
        step = self._thinning.step
        often = ("all of your pictures are", "every second picture is", "every fourth picture is")
        what = "none of your pictures is" if step == MOST else often[step]
        for mind in self._minds.values():
            if mind.session.picture is not None:
                why = "" if step == 0 else "the engine is busy: "
                mind.session.warn("pictures_thinned", f"{why}{what} looked at")
