"""Which voice each slot speaks with, and the uploaded voices that wait to be taken."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable

from engine.ipc.supervision import VoiceReport
from engine.minicpmo.serving.orders import KeepPrepared, PreferVoice, VoiceOrder, WithdrawVoice
from engine.minicpmo.session.session import Session, SessionVoice
from engine.minicpmo.session.settings import option
from engine.minicpmo.speech.voices import VoiceLibrary
from engine.minicpmo.speech.worker import SpeechWorker

log = logging.getLogger(__name__)


class SessionVoices:
    """Owned by the model's thread."""

    def __init__(
        self, library: VoiceLibrary, speech: SpeechWorker, is_asked: Callable[[int], bool]
    ) -> None:
        """`is_asked` tells whether a slot is about to answer."""
        self._library = library
        self._speech = speech
        self._is_asked = is_asked
        self._prepared: deque[KeepPrepared] = deque()
        self._due: dict[int, Session] = {}
        """Sessions by slot that get another voice as soon as they are silent."""

    def order(self, order: VoiceOrder) -> None:
        match order:
            case KeepPrepared():
                self._prepared.append(order)
            case WithdrawVoice():
                self._library.drop(order.voice)
            case PreferVoice():
                self._library.prefer(order.voice)

    def keep_next(self) -> bool:
        """Take an uploaded voice that waits; return whether there was one."""
        if not self._prepared:
            return False
        order = self._prepared.popleft()
        voice = order.prepared.voice
        try:
            self._library.keep(order.prepared)
        except Exception:  # noqa: BLE001 - the boundary: a voice costs nothing else
            log.exception("a voice cannot be kept")
            order.told(VoiceReport(voice, "failed", "internal error of the engine"))
        else:
            order.told(VoiceReport(voice, "ready"))
        return True

    def give(self, session: Session) -> None:
        """Choose the voice of a session that begins."""
        session.voice = self._choose(session)
        if session.voice.base is not None:
            self._speech.set_voice(session.slot, session.voice.base)

    def change(self, session: Session) -> None:
        """Speak with another voice from the next turn on; the conversation goes on.

        What the model heard of a voice in its prompt stays there.
        """
        heard = session.voice.embeddings
        session.voice = SessionVoice(self._choose(session).base, heard)
        self._due[session.slot] = session
        self.set_due()

    def take_away(self, session: Session) -> None:
        """Let go of the voice's memory: the object may live until garbage is collected."""
        session.voice = SessionVoice(None, None)
        self._due.pop(session.slot, None)

    def set_due(self) -> None:
        """Give voices to slots that are silent: a change drops what is still to be said."""
        for slot, session in tuple(self._due.items()):
            if session.voice.base is None:
                del self._due[slot]
            elif not session.output.is_speaking and not self._is_asked(slot):
                self._speech.set_voice(slot, session.voice.base)
                del self._due[slot]

    def _choose(self, session: Session) -> SessionVoice:
        name, prompt = session.config.voice, option(session.config, "prompt_voice", "")
        voice, problem = self._library.choose(name, prompt)
        if problem:
            session.warn("voice_unknown", problem)
        return voice
