"""The sessions that the model serves: begun, given other settings, and ended."""

from __future__ import annotations

from collections.abc import Iterator

from engine.ipc.protocol import UpdateSession
from engine.minicpmo.modes.half_duplex import HalfDuplex
from engine.minicpmo.modes.modes import Modes
from engine.minicpmo.runner import Runner
from engine.minicpmo.serving.session_voices import SessionVoices
from engine.minicpmo.session.session import Session
from engine.minicpmo.speech.worker import SpeechWorker


class Sessions:
    """Owns which session is in which slot. Changed by the model's thread, iterated by any."""

    def __init__(
        self, runner: Runner, modes: Modes, speech: SpeechWorker, voices: SessionVoices
    ) -> None:
        self.voices = voices
        self._runner = runner
        self._modes = modes
        self._speech = speech
        self._by_slot: dict[int, Session] = {}

    def __iter__(self) -> Iterator[Session]:
        return iter(tuple(self._by_slot.values()))

    def find(self, slot: int, session_id: str) -> Session | None:
        """Return the session in a slot, unless it is another one by now."""
        session = self._by_slot.get(slot)
        return session if session is not None and session.id == session_id else None

    def open(self, session: Session) -> None:
        self._by_slot[session.slot] = session
        self._begin(session)

    def _begin(self, session: Session) -> None:
        self.voices.give(session)
        self._modes.of(session).open(session)

    def switch(self, session: Session, message: UpdateSession) -> None:
        """Take new settings: at once where the model need not begin anew for them."""
        modes = self._modes
        before, was = modes.of(session), session.config
        anew = session.reconfigure(message.config)
        if not anew or (isinstance(before, HalfDuplex) and before is modes.of(session)):
            before.configure(session)
            if session.config.voice != was.voice:
                self.voices.change(session)
            if anew:
                modes.turns.change_system(session)
            return
        session.output.cancel()
        before.refuse_asked(session, "context_restarted", "other settings came first")
        before.close(session.slot)
        self._runner.clear(session.slot)
        self._speech.clear(session.slot)
        self._begin(session)
        session.warn("context_restarted", "these settings begin a new conversation")

    def close(self, slot: int) -> None:
        """End the session in a slot, if there is one, and clear its rows."""
        session = self._by_slot.pop(slot, None)
        if session is not None:
            self.voices.take_away(session)
            self._modes.close(slot)
            self._runner.clear(slot)
            self._speech.clear(slot)
