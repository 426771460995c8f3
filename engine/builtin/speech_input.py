"""The user's speech: find utterances, announce them, pass them to the recogniser."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct
from msgspec.structs import replace

from engine.base import Send
from engine.builtin.intents import Intent, find_intent, may_go_on
from engine.builtin.interfaces import Recogniser, Utterance
from engine.hearing.hearing import AnswerCut, Counted, Dismissed, Heard, Hearing
from engine.hearing.turnend import Phrase, phrase_of
from engine.hearing.vad import Offset, Onset, Voice
from engine.ipc.protocol import (
    INPUT_HZ,
    MIN_COMMIT_MS,
    InputTranscript,
    SessionConfig,
    SpeechStarted,
    SpeechStopped,
)

LATE = INPUT_HZ * 3 // 2
"""Samples for which the words of what was dismissed are waited for."""
PAUSE_MS = 120
"""Of silence, after which what was said may be all."""
WORDS_PER_S = 6.5
"""What seems faster was guessed by its beginning: "what can" as "what can you do"."""
POLITE = frozenset(("thanks", "greeting"))
"""Commands that ask for nothing."""
MAX_HALF_WORDS = 3
"""What is no command, where only commands are answered, may be half of one if it is so short."""


class SpokenOver(Struct, frozen=True):
    """The user speaks, and an answer that is given ends by it."""


class Said(Struct, frozen=True):
    """The user finished something; the recogniser may still be at it."""

    utterance: int
    words: Utterance | None
    """None: nothing that sounds like speech was heard, or only steady noise."""
    voiced_ms: int
    endpoint_ms: float
    """Media time from the last voiced sample to the decision that it was the last."""
    wants_answer: bool
    too_long: bool = False
    """It was cut at its longest: the user speaks on, or something else does."""


class _Numbered:
    """What the user says, by its number; 0: not yet known to be an utterance that counts."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.partial = ""
        """The newest words that were not told."""


class _Late:
    """An utterance that was dismissed before its words were known."""

    def __init__(
        self,
        words: Utterance | None = None,
        numbered: _Numbered | None = None,
        until: int = 0,
    ) -> None:
        self._words = words
        self.numbered = numbered
        self.until = until

    def abandon(self) -> None:
        words, self._words, self.numbered = self._words, None, None
        if words is not None:
            words.abandon()


class SpeechInput:
    """Owns the segmenter and the utterance under way."""

    def __init__(
        self,
        session: str,
        config: SessionConfig,
        send: Send,
        recogniser: Recogniser,
        on_spoken_over: Callable[[], None],
        *,
        has_model: bool = False,
    ) -> None:
        """`on_spoken_over` is called where words alone tell that an answer ends. `has_model`: more
        than the rules' commands is answered.
        """
        self._session = session
        self._config = config
        self._send = send
        self._recogniser = recogniser
        self._on_spoken_over = on_spoken_over
        self._has_model = has_model
        self._hearing = Hearing(session, config.turn_detection, send)
        self._utterance = 0
        self._words: Utterance | None = None
        self._is_paused = False
        self._sounding = 0
        """Samples of the utterance to its newest voice, without what lies before its onset."""
        self._numbered = _Numbered(0)
        self._late = _Late()
        self._voiced_ms = 0
        self._endpoint_ms = 0.0
        self._dropped = 0
        self._kept = 0

    @property
    def is_speaking(self) -> bool:
        return self._hearing.is_speaking

    @property
    def _is_turn_based(self) -> bool:
        return self._config.mode == "turn_based"

    @property
    def position(self) -> int:
        """Samples of the stream so far."""
        return self._hearing.position

    def push(
        self, pts: int, pcm: bytes, *, over: bool, played: bytes = b""
    ) -> list[SpokenOver | Said]:
        """Process the next PCM; return what it does to answers. `over`: there is one to be cut;
        `played`: as `Hearing.push` takes it."""
        before = self._hearing.position
        self._dropped += max(0, pts - before)
        news: list[SpokenOver | Said] = []
        for event in self._hearing.push(pts, pcm, over=over, played=played):
            news += self._take(event)
        self._kept += self._hearing.position - before
        if self._hearing.position > self._late.until:
            self._late.abandon()
        return news

    def commit(self) -> Said | None:
        """End the user's turn by hand: all that was said since the last one. None if there was
        too little sound for a turn."""
        if self._kept * 1000 < MIN_COMMIT_MS * INPUT_HZ:
            self._kept = 0
            return None
        ended = self._stop()
        if ended:
            # Where turns are found it is one already; a turn ended by hand is answered on request.
            return replace(ended[-1], wants_answer=False)
        if self._words is None:
            self._utterance += 1
        return self._said(wants_answer=False)

    def clear(self) -> None:
        """Discard the speech since the last turn."""
        for event in self._hearing.stop():
            self._announce(event)
        self._kept = 0
        self._abandon()

    def configure(self, config: SessionConfig) -> list[Said]:
        """Change the settings. A change of mode ends the turn under way; where turns are found by
        the engine it is handed on, where they are committed by hand it is forgotten."""
        ended: list[Said] = []
        if config.mode != self._config.mode and "turn_based" in (config.mode, self._config.mode):
            ended = self._stop()
            self._abandon()
        self._config = config
        self._hearing.configure(config.turn_detection)
        return ended

    def take_dropped_ms(self) -> int:
        """Milliseconds missing in the stream since the last call."""
        dropped_ms, self._dropped = self._dropped * 1000 // INPUT_HZ, 0
        return dropped_ms

    def close(self) -> None:
        self._late.abandon()
        self._abandon()

    def _stop(self) -> list[Said]:
        """End the speech under way; what that ends, where turns are found."""
        events = self._hearing.stop()
        return [said for event in events for said in self._take(event) if isinstance(said, Said)]

    def _take(self, event: Heard) -> list[SpokenOver | Said]:
        self._announce(event)
        match event:
            case Onset(pcm=pcm):
                if self._words is None:
                    self._begin()
                padding = self._config.turn_detection.prefix_padding_ms * INPUT_HZ // 1000
                self._sounding += max(0, len(pcm) // 2 - padding)
                self._feed(pcm)
            case Voice(pcm=pcm, silent_ms=silent_ms):
                self._sounding += 0 if silent_ms else len(pcm) // 2
                self._feed(pcm)
                self._note_pause(silent_ms)
            case AnswerCut() if not self._is_turn_based:
                return [SpokenOver()]
            case Dismissed() if not self._is_turn_based:
                self._dismiss()
            case Offset():
                self._voiced_ms += event.voiced_ms
                self._endpoint_ms = (event.known_pts - event.pts) * 1000 / INPUT_HZ
                if not self._is_turn_based:
                    return [self._said(wants_answer=True, too_long=event.too_long)]
        return []

    def _announce(self, event: Heard) -> None:
        if self._is_turn_based:
            return
        match event:
            case Counted(pts=pts):
                self._utterance += 1
                self._numbered.number = self._utterance
                self._send(SpeechStarted(self._session, self._utterance, pts))
                self._tell_partial(self._numbered)
            case Offset(pts=pts):
                self._send(SpeechStopped(self._session, self._utterance, pts))
            case _:
                pass

    def _begin(self) -> None:
        if self._is_turn_based:
            self._utterance += 1
        numbered = self._numbered = _Numbered(self._utterance if self._is_turn_based else 0)

        def on_partial(text: str) -> None:
            numbered.partial = text
            if numbered is self._numbered:
                found = find_intent(text)
                is_command = found is not None and found.name not in POLITE
                phrase = self._phrase_of(text, found)
                for event in self._hearing.words(text, phrase, is_command=is_command):
                    for _ in self._take(event):
                        self._on_spoken_over()
            elif numbered is self._late.numbered:
                self._take_late(text)
            self._tell_partial(numbered)

        self._is_paused = False
        self._sounding = 0
        self._words = self._recogniser.listen(on_partial, self._config.transcribe_language)

    def _dismiss(self) -> None:
        """Forget the utterance, unless it may turn out, late, to hold a word that always cuts."""
        self._late.abandon()
        if self._words is not None and self._words.is_owed:
            self._late = _Late(self._words, self._numbered, self.position + LATE)
            self._words, self._numbered = None, _Numbered(0)
        self._abandon()

    def _take_late(self, text: str) -> None:
        if self._hearing.cuts(text):
            self._late.abandon()
            self._on_spoken_over()

    def _tell_partial(self, numbered: _Numbered) -> None:
        text = numbered.partial
        if text and numbered.number and self._config.transcribe:
            numbered.partial = ""
            self._send(InputTranscript(self._session, numbered.number, text, False))

    def _note_pause(self, silent_ms: int) -> None:
        if self._words is None or self._is_paused == (silent_ms >= PAUSE_MS):
            return
        if silent_ms >= PAUSE_MS:
            self._is_paused = True
            self._words.pause()
            if self._words.is_owed:
                self._hearing.await_words()
        elif silent_ms == 0:
            self._is_paused = False
            self._words.resume()

    def _phrase_of(self, text: str, found: Intent | None) -> Phrase:
        """What the rules know of the words."""
        is_guessed = len(text.split()) * INPUT_HZ > WORDS_PER_S * self._sounding
        if text and (is_guessed or may_go_on(text)):
            return "open"
        if found is not None:
            return "whole"
        if self._has_model:
            return ""
        # "What is the" is written as "What is that?": where that is no command it is half of one.
        is_short = 0 < len(text.split()) <= MAX_HALF_WORDS
        return "open" if is_short else phrase_of(text.rstrip("?!"))

    def _feed(self, pcm: bytes) -> None:
        if self._words is not None:
            self._words.feed(pcm)

    def _said(self, *, wants_answer: bool, too_long: bool = False) -> Said:
        voiced_ms, endpoint_ms = self._voiced_ms, self._endpoint_ms
        if voiced_ms == 0:
            self._abandon()
        words, self._words = self._words, None
        self._voiced_ms, self._endpoint_ms, self._kept = 0, 0.0, 0
        return Said(self._utterance, words, voiced_ms, endpoint_ms, wants_answer, too_long)

    def _abandon(self) -> None:
        if self._words is not None:
            self._words.abandon()
        self._words, self._voiced_ms, self._endpoint_ms = None, 0, 0.0
