"""A session's ear where Whisper listens: the sound is kept here, and looked at when it is worth it.

A model of this kind hears an utterance as a whole and takes about as long for a word as for a
sentence. So it is asked in every pause of the speaker, for that may be the end: once the end is
known, the words are known, too. Each question is an utterance of its own to the recogniser
processes, which are held only for as long as it takes them to answer.
"""

from __future__ import annotations

from collections.abc import Callable

from engine.builtin.interfaces import Transcript
from engine.builtin.recogniser import RecogniserPool
from engine.builtin.utterance import MAX_BYTES, SpokenUtterance
from engine.ipc.protocol import INPUT_HZ

LEAST_BYTES = 2 * INPUT_HZ * 3 // 10
"""Less sound than this holds no word that could be told."""
AGAIN_BYTES = 2 * INPUT_HZ * 2
"""While somebody goes on speaking, the words so far are asked for whenever so much was added."""
TOO_LONG = Transcript("", error="the utterance is too long")


class WhisperTraits:
    """What a question says of its speaker. Implements `utterance.SpeakerTraits`."""

    cepstral_mean = ""

    def __init__(self, language: str, *, commands: bool = False) -> None:
        self.commands = commands
        self.language = language.replace("_", "-").partition("-")[0].lower()


class WhisperRecogniser:
    """Implements `interfaces.Recogniser`."""

    def __init__(self, pool: RecogniserPool, *, commands: bool = False) -> None:
        """`commands`: those of the rules are what is mostly said."""
        self._pool = pool
        self._commands = commands

    def listen(self, on_partial: Callable[[str], None], language: str = "") -> WhisperUtterance:
        traits = WhisperTraits(language, commands=self._commands)
        return WhisperUtterance(self._pool, traits, on_partial)


class WhisperUtterance:
    """Owns the sound of an utterance and the newest question about it. Implements `Utterance`."""

    def __init__(
        self, pool: RecogniserPool, traits: WhisperTraits, on_partial: Callable[[str], None]
    ) -> None:
        self._pool = pool
        self._traits = traits
        self._on_partial = on_partial
        self._pcm = bytearray()
        self._asked: SpokenUtterance | None = None
        self._asked_bytes = 0
        self._is_paused = self._is_over = self._is_too_long = False

    @property
    def is_owed(self) -> bool:
        return self._asked is not None and not self._asked.is_settled

    def feed(self, pcm: bytes) -> None:
        """Take the next PCM; of what exceeds a minute in all nothing is understood."""
        if self._is_over or self._is_too_long:
            return
        if len(self._pcm) + len(pcm) > MAX_BYTES:
            self._is_too_long = True
            self._drop()
            return
        self._pcm += pcm
        is_long = len(self._pcm) - self._asked_bytes >= AGAIN_BYTES
        if is_long and not self._is_paused and self._pool.has_idle:
            self._ask()

    def pause(self) -> None:
        self._is_paused = True
        # What was found before was not all of it.
        self._on_partial("")
        if not self._is_over and not self._is_too_long and self._pool.has_idle:
            self._ask()

    def resume(self) -> None:
        self._is_paused = False
        self._drop()
        # It was not the end: nobody is to wait for what was asked about it.
        self._on_partial("")

    async def finish(self) -> Transcript:
        """What was found in the pause that is the end, else what is found now."""
        self._is_over = True
        if self._is_too_long:
            return TOO_LONG
        known = self._asked if self._is_paused else None
        if known is None or known.is_dropped:
            known = self._ask()
        if known is None:
            return Transcript("")
        transcript = await known.finish()
        self._pcm.clear()
        return transcript

    def abandon(self) -> None:
        self._is_over = True
        self._pcm.clear()
        self._drop()

    def _ask(self) -> SpokenUtterance | None:
        """Have all of the sound so far looked at; what was asked before is answered no more."""
        self._drop()
        if len(self._pcm) < LEAST_BYTES:
            return None
        self._asked_bytes = len(self._pcm)
        asked = self._asked = self._pool.listen(self._traits, _ignore, self._answered)
        asked.feed(bytes(self._pcm))
        asked.end()
        return asked

    def _answered(self, asked: SpokenUtterance, transcript: Transcript) -> None:
        if asked is self._asked:
            self._on_partial(transcript.text)

    def _drop(self) -> None:
        asked, self._asked = self._asked, None
        if asked is not None:
            asked.abandon()


def _ignore(_: str) -> None:
    """A question has no partial answers."""
