"""The recogniser of the built-in engine, beside an engine that writes nothing down."""

from __future__ import annotations

from engine.base import Progress
from engine.builtin.recogniser import RecogniserPool
from engine.scribe import NotWrittenError, WriteDown


class BuiltinScribe:
    """Owns the recogniser processes. Implements `engine.scribe.Scribe`."""

    languages: tuple[str, ...] = ("en",)

    def __init__(self, recognisers: int) -> None:
        self._recognisers = RecogniserPool(recognisers)

    async def start(self, progress: Progress) -> None:
        """Call it on the thread that runs the engine to its end."""
        await self._recognisers.start(progress)

    def for_session(self) -> WriteDown:
        ear = self._recognisers.listen_for(commands=False)

        async def write_down(pcm: bytes, language: str) -> str:
            spoken = ear.listen(lambda text: None)
            spoken.feed(pcm)
            transcript = await spoken.finish()
            if transcript.error:
                raise NotWrittenError(transcript.error)
            return transcript.text

        return write_down

    async def close(self) -> None:
        await self._recognisers.close()
