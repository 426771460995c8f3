"""Full duplex: at each unit's end a session's input goes in, and the model listens or speaks."""

from __future__ import annotations

from torch import Tensor

from engine.gpu.timing import Timer
from engine.ipc.protocol import AppendContext, ContextAppended, CreateResponse
from engine.minicpmo.llm.context_window import ContextFull
from engine.minicpmo.llm.duplex_batch import UnitInput
from engine.minicpmo.llm.duplex_state import DuplexState
from engine.minicpmo.llm.duplex_unit import UnitResult
from engine.minicpmo.llm.prompts import DUPLEX_SYSTEM, check_instructions
from engine.minicpmo.modes.mode import Mode
from engine.minicpmo.modes.reading_rota import ReadingRota
from engine.minicpmo.modes.thinning import MOST, Thinning
from engine.minicpmo.modes.told_context import MAX_TOLD_TOKENS, ToldContext
from engine.minicpmo.modes.typed_turns import TypedTurns
from engine.minicpmo.modes.unit_alignment import PHASES, UnitAlignment
from engine.minicpmo.modes.unit_speech import UnitSpeech
from engine.minicpmo.modes.unit_start import (
    Appended,
    DuplexEntry,
    encode_ahead,
    encode_pictures,
    is_worth_starting,
    stepped,
)
from engine.minicpmo.runner import Runner
from engine.minicpmo.session.session import Session, SessionFailed
from engine.minicpmo.session.settings import duplex_settings
from engine.minicpmo.speech.worker import SessionSpeech, SpeechWorker

MAX_APPENDED = 4
MAX_APPENDED_TOKENS = 256
MAX_UNTOLD = 16


class FullDuplex(Mode[DuplexEntry, UnitResult]):
    """Drives the full-duplex sessions of a runner."""

    def __init__(self, runner: Runner, speech: SpeechWorker, *, phases: int = PHASES) -> None:
        super().__init__(runner.duplex)
        self._runner = runner
        self._speech = speech
        self._unit = runner.model.config.unit
        self._alignment = UnitAlignment(phases, self._unit.ms / 1000)
        self._thinning = Thinning(self._unit.ms)
        self._unit_speech = UnitSpeech(self._unit_done)
        self._typed = TypedTurns(runner)
        self._rota = ReadingRota()
        self._unspoken = frozenset(runner.model.tokens.duplex_forbidden)
        self._decided: set[int] = set()
        """Slots whose units are over and whose contexts may be full."""

    # ------------------------------------------------------------------ sessions

    def open(self, session: Session) -> None:
        """Begin a conversation in the session's slot; raises `ValueError` for bad settings."""
        settings = duplex_settings(session.config, session.unit)
        slot, prompts = session.slot, self._runner.model.prompts
        max_context = self._runner.max_context
        state = DuplexState(self._runner.model.tokens, settings, session.seed, max_context)
        self._runner.duplex.open(slot, state)
        text = session.config.system_text(DUPLEX_SYSTEM)
        message = prompts.duplex_prefix(text), session.voice.embeddings, prompts.duplex_suffix()
        check_instructions(sum(len(part) for part in message if part is not None), max_context)
        # Prefill the first piece now, so that what does not fit is refused at once.
        prompt = self._runner.duplex.prepare_slowly(slot, *message)
        speech = SessionSpeech(self._runner, self._speech, session)
        told = ToldContext(prompts, min(MAX_TOLD_TOKENS, max_context // 4))
        entry = DuplexEntry(session, speech, prompt, self._unit, told, state)
        self._entries[slot] = entry
        session.audio_input.displace()
        entry.prompt = stepped(prompt)

    def configure(self, session: Session) -> None:
        """Take new settings from the next unit on; raises `ValueError` for bad ones."""
        duplex_settings(session.config, session.unit)
        self._entries[session.slot].has_new_settings = True

    def close(self, slot: int) -> None:
        """End the conversation in a slot, if there is one."""
        super().close(slot)
        self._alignment.leave(slot)

    def hears(self, session: Session, count: int, arrived: float) -> None:
        """Sound of `count` samples has come and is about to be kept."""
        self._alignment.hears(session, count, arrived)

    def saw(self, session: Session) -> None:
        """A picture has come, or the camera is off: the newest counts for the next unit."""
        entry, picture = self._entries[session.slot], session.given.take_picture()
        entry.picture = entry.encoded = None
        units = self._runner.duplex.sessions[session.slot].units
        if picture is not None and self._thinning.looks(session.slot, units):
            slices = session.config.max_image_slices
            # What cannot be cut fails here, where it ends its own session only.
            self._runner.plan_picture(picture, slices)
            entry.picture = picture, slices

    def interrupt(self, session: Session) -> None:
        """Stop speaking: the unit under way or the next one becomes a listen."""
        entry = self._entries[session.slot]
        if entry.is_running:
            self.finish(self._runner.duplex.interrupt([session.slot]))
        else:
            session.interrupt()
        entry.speech.cancel()

    def append(self, session: Session, message: AppendContext) -> None:
        """Have words said as the model's own, once neither it nor the user is speaking; rules and
        knowledge become part of the system message."""
        entry = self._entries[session.slot]
        if message.kind != "commentary":
            if len(entry.untold) == MAX_UNTOLD:
                session.refuse(message.request, "overloaded", "too much waits to be told")
            else:
                entry.untold.append(message)
            return
        tokens = self._runner.model.tokens
        ids = [i for i in tokens.encode_literal(message.text) if i not in self._unspoken]
        if not ids or len(ids) > MAX_APPENDED_TOKENS:
            told = f"from 1 to {MAX_APPENDED_TOKENS} tokens can be said, these are {len(ids)}"
            session.refuse(message.request, "append_too_long", told)
        elif len(entry.appended) == MAX_APPENDED:
            session.refuse(message.request, "overloaded", "too much waits to be said")
        else:
            entry.appended.append(Appended(message.request, tuple(ids)))

    def ask(self, session: Session, message: CreateResponse) -> None:
        """Have the model take a turn, behind all that was typed so far."""
        self._typed.ask(self._entries[session.slot], message)

    def refuse_asked(self, session: Session, code: str, reason: str) -> None:
        """Tell the client that nothing comes of what it asked for or appended and was not said."""
        entry = self._entries[session.slot]
        self._typed.refuse(entry, code, reason)
        requests = [said.request for said in entry.appended]
        requests += [told.request for told in entry.untold]
        entry.appended.clear()
        entry.untold.clear()
        for request in requests:
            session.refuse(request, code, reason)

    def _tell(self, entry: DuplexEntry) -> None:
        """Let the system message say one thing more."""
        session, message = entry.session, entry.untold.popleft()
        suffix = entry.told.with_more(message.kind, message.text)
        if suffix is None:
            session.refuse(message.request, "append_too_long", "there is no room for so much")
            return
        try:
            self._runner.duplex.tell(session.slot, suffix)
        except ContextFull:
            session.refuse(message.request, "context_full", "the model cannot remember more")
            return
        at = session.audio_input.position
        session.send(ContextAppended(session.id, message.request, at, at))

    def _begin_appended(self, slot: int) -> None:
        """Say what was appended, if nobody is speaking."""
        entry = self._entries[slot]
        if entry.appended and entry.may_begin_turn:
            entry.appended[0].since = entry.session.audio_input.position
            entry.state.say(entry.appended[0].ids)

    def _tell_appended(self, entry: DuplexEntry, *, is_whole: bool) -> None:
        """Answer for what was appended, when it was said or cut."""
        session = entry.session
        if not entry.appended or entry.appended[0].since is None or entry.state.says_given:
            return
        said = entry.appended.popleft()
        if not is_whole:
            session.refuse(said.request, "interrupted", "the user spoke, or the client cut it")
            return
        assert said.since is not None
        session.send(
            ContextAppended(session.id, said.request, said.since, session.audio_input.position)
        )

    def is_busy(self) -> bool:
        """Return whether a unit is being decided."""
        return any(entry.is_running for entry in self._entries.values())

    def is_speaking(self) -> bool:
        """Return whether a decided unit is not spoken to its end."""
        return any(entry.speaking for entry in self._entries.values())

    # ------------------------------------------------------------------ between units

    def read_on(self) -> bool:
        """Read a piece of what one session is told between units; returns whether there was
        any."""
        reading = [slot for slot, entry in self._entries.items() if entry.can_read]
        if not reading:
            return False
        entry = self._entries[self._rota.next(reading)]
        try:
            self._read_piece(entry)
        except Exception as error:
            raise SessionFailed(entry.session, error) from error
        return True

    def _read_piece(self, entry: DuplexEntry) -> None:
        if entry.prompt is not None:
            entry.prompt = stepped(entry.prompt)
        elif entry.untold and not entry.is_amid_message:
            self._tell(entry)
        else:
            entry.typed = stepped(entry.typed or self._typed.read(entry))

    def make_room(self) -> bool:
        """Let one full context forget before its next unit comes; returns whether one was full."""
        while self._decided:
            slot = self._decided.pop()
            entry = self._entries.get(slot)
            if entry is None or not entry.can_begin:
                continue
            try:
                if self._runner.duplex.room_ahead(slot):
                    return True
            except ContextFull:
                # Its next unit raises this again.
                continue
            except Exception as error:
                raise SessionFailed(entry.session, error) from error
        return False

    def look_ahead(self) -> bool:
        """Encode pictures before their units are due; returns whether there were any."""
        return encode_ahead(self._runner, self._entries.values())

    # ------------------------------------------------------------------ a unit's start

    def start(self) -> bool:
        """Start the units that are due; returns whether there were any."""
        entries = self._entries.values()
        for entry in entries:
            self._typed.keep_time(entry)
        if not is_worth_starting(entries, self._unit, is_busy=self.is_busy()):
            return False
        due = self._due()
        if not due:
            return False
        with Timer(self._runner.model.device) as encode:
            heard = self._runner.hear(due)
            seen = encode_pictures(self._runner, [self._entries[slot] for slot in due])
        inputs = self._with_room(
            [
                UnitInput(
                    slot,
                    heard[slot],
                    seen.get(slot, ()),
                    self._only_listens(self._entries[slot]),
                )
                for slot in due
            ]
        )
        if inputs:
            for unit in inputs:
                self._entries[unit.slot].is_running = True
            with Timer(self._runner.model.device) as prefill:
                forced = self._runner.duplex.prefill(inputs)
            for unit in inputs:
                self._entries[unit.slot].stages = [("encode", encode), ("prefill", prefill)]
            self.finish(forced)
        return True

    @staticmethod
    def _only_listens(entry: DuplexEntry) -> bool:
        return entry.session.take_forced_listen() or entry.is_amid_item

    def _due(self) -> dict[int, Tensor]:
        """Take the sound of every unit that can start."""
        due: dict[int, Tensor] = {}
        for slot, entry in self._entries.items():
            fresh = entry.session.audio_input.take_unit() if entry.can_begin else None
            if fresh is None:
                continue
            entry.due = entry.session.audio_input.complete_since
            self._alignment.took(entry.session, entry.due)
            if entry.has_new_settings:
                entry.has_new_settings = False
                entry.state.configure(duplex_settings(entry.session.config, entry.session.unit))
            entry.queue.push(fresh)
            chunk = entry.queue.take()
            if chunk is not None:
                due[slot] = chunk
                self._typed.begin(entry)
                self._begin_appended(slot)
        return due

    def _with_room(self, inputs: list[UnitInput]) -> list[UnitInput]:
        """Return the units that their contexts take; the sessions of the others end."""
        fitting = []
        for unit in inputs:
            try:
                self._runner.duplex.room(unit)
            except ContextFull:
                self._entries[unit.slot].session.end("the model cannot remember more")
                continue
            fitting.append(unit)
        return fitting

    # ------------------------------------------------------------------ a unit's end

    def under_way(self) -> list[int]:
        return [slot for slot, entry in self._entries.items() if entry.is_running]

    def finish(self, results: dict[int, UnitResult]) -> None:
        """Request speech for the decided units, and close them."""
        if not results:
            return
        for slot in results:
            self._entries[slot].is_running = False
        aloud = [
            s for s, r in results.items() if r.wants_speech and self._entries[s].session.speaks
        ]
        for slot, result in results.items():
            entry = self._entries[slot]
            if result.is_cut:
                entry.speech.cancel()
                if entry.session.output.is_open:
                    entry.session.output.interrupt()
            if slot in aloud:
                others_follow = slot != aloud[-1] or self.is_busy()
                self._unit_speech.speak(
                    entry, result, entry.due, cause=entry.cause, others_follow=others_follow
                )
            else:
                self._unit_speech.finish_silently(entry, result, entry.due, entry.cause)
            self._typed.passed(entry, result)
            entry.session.warn_context(result.warning)
            self._tell_appended(entry, is_whole=result.end_of_turn)
        self._runner.duplex.finalize(list(results))
        self._decided.update(results)

    def _unit_done(self, total_ms: float) -> None:
        if self._thinning.unit(total_ms):
            self._tell_thinning()

    def _tell_thinning(self) -> None:
        """Tell those who show something how often it is looked at now."""
        step = self._thinning.step
        often = ("all of your pictures are", "every second picture is", "every fourth picture is")
        what = "none of your pictures is" if step == MOST else often[step]
        for entry in self._entries.values():
            if entry.session.given.picture is not None:
                why = "" if step == 0 else "the engine is busy: "
                entry.session.warn("pictures_thinned", f"{why}{what} looked at")
