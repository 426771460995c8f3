"""The recogniser of the built-in engine, beside an engine that writes nothing down."""

from __future__ import annotations

from engine.base import Progress
from engine.builtin.ears import Ears
from engine.builtin.speech_models import find_ears
from engine.config import BuiltinConfig
from engine.scribe import NotWrittenError, WriteDown


class BuiltinScribe:
    """Implements `engine.scribe.Scribe` with the best ears that there are."""

    def __init__(self, config: BuiltinConfig) -> None:
        """Raise `EngineError` for ears of the configuration that cannot be used."""
        self._ears = Ears(config, find_ears(config))

    @property
    def languages(self) -> tuple[str, ...]:
        return self._ears.languages

    async def start(self, progress: Progress) -> None:
        await self._ears.start(progress)

    def for_session(self) -> WriteDown:
        ear = self._ears.recogniser(commands=False)

        async def write_down(pcm: bytes, language: str) -> str:
            spoken = ear.listen(lambda text: None, language)
            # All of it is there, so that nothing need be guessed before its end.
            spoken.pause()
            spoken.feed(pcm)
            transcript = await spoken.finish()
            if transcript.error:
                raise NotWrittenError(transcript.error)
            return transcript.text

        return write_down

    async def close(self) -> None:
        await self._ears.close()
