"""What hears: Whisper where there are models of it, else the basic recogniser."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import msgspec

from engine.base import EngineError, Progress
from engine.builtin.interfaces import Recogniser
from engine.builtin.recogniser import WHOLE_PER_CORE, RecogniserPool
from engine.builtin.recogniser_forkserver import RecogniserForkserver
from engine.builtin.speech_models import EarFolder, SpeechModels
from engine.builtin.whisper_recogniser import WhisperRecogniser
from engine.config import BuiltinConfig

WHISPER_MODULE = "engine.builtin.whisper_worker"

logger = logging.getLogger(__name__)


class Ears:
    """Owns the recogniser processes. Models that do not start give way to the basic recogniser,
    unless they are the user's own."""

    def __init__(self, config: BuiltinConfig, models: Sequence[EarFolder]) -> None:
        self._config = config
        self._models = tuple(models)
        self.pool = self._pool()

    @property
    def is_neural(self) -> bool:
        return bool(self._models)

    @property
    def languages(self) -> tuple[str, ...]:
        """Those that are understood."""
        return SpeechModels(ears=self._models).languages or ("en",)

    def recogniser(self, *, commands: bool) -> Recogniser:
        """The ear of a new session. `commands`: those of the rules are what is mostly said."""
        if self._models:
            return WhisperRecogniser(self.pool, commands=commands)
        return self.pool.listen_for(commands=commands)

    async def start(self, progress: Progress) -> None:
        """Raise `EngineError` with what is missing. Call it on the thread that runs the engine to
        its end: the processes die with it."""
        try:
            await self.pool.start(progress)
        except EngineError as error:
            if not self._models or self._config.recogniser_dir:
                raise
            logger.warning("the neural recogniser is not used: %s", error)
            self._models = ()
            self.pool = self._pool()
            await self.pool.start(progress)

    async def close(self) -> None:
        await self.pool.close()

    def _pool(self) -> RecogniserPool:
        if not self._models:
            return RecogniserPool(self._config.recognisers)
        told = msgspec.json.encode(self._models).decode()
        return RecogniserPool(
            self._config.recognisers,
            per_core=WHOLE_PER_CORE,
            start_forkserver=lambda: RecogniserForkserver.start(WHISPER_MODULE, told),
        )
