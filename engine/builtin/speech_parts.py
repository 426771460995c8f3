"""What the engine hears and speaks with: the neural models that there are, else the basic parts."""

from __future__ import annotations

import logging
from typing import Literal

import msgspec

from engine.base import EngineError, Progress
from engine.builtin.clauses import ClauseSplitter
from engine.builtin.interfaces import Recogniser
from engine.builtin.recogniser import WHOLE_PER_CORE, RecogniserPool
from engine.builtin.recogniser_forkserver import RecogniserForkserver
from engine.builtin.rules import REPEATED
from engine.builtin.speech_models import SpeechModels
from engine.builtin.synthesiser import Synthesiser
from engine.builtin.whisper_recogniser import WhisperRecogniser
from engine.config import BuiltinConfig

WHISPER_MODULE = "engine.builtin.whisper_worker"

logger = logging.getLogger(__name__)


class SpeechParts:
    """Owns the synthesiser and the recogniser processes.

    Neural parts that do not start give way to the basic ones, unless they are the user's own.
    """

    def __init__(self, config: BuiltinConfig, models: SpeechModels) -> None:
        self._config = config
        self._models = models
        self.synthesiser = self._synthesiser()
        self.recognisers = self._pool()

    @property
    def kind(self) -> Literal["basic", "neural"]:
        return "neural" if self._models.ears and self._models.voices else "basic"

    @property
    def languages(self) -> tuple[str, ...]:
        """Those that are understood."""
        return self._models.languages or ("en",)

    def recogniser(self, *, commands: bool) -> Recogniser:
        """The ear of a new session. `commands`: those of the rules are what is mostly said."""
        if self._models.ears:
            return WhisperRecogniser(self.recognisers)
        return self.recognisers.listen_for(commands=commands)

    async def start(self, progress: Progress) -> None:
        """Load everything; raise `EngineError` with what is missing."""
        progress("loading the speech synthesiser")
        try:
            await self.synthesiser.start()
        except EngineError as error:
            if not self._models.voices or self._config.voice_dir or self._config.voice:
                raise
            logger.warning("the neural voice is not used: %s", error)
            await self.synthesiser.close()
            self._models = msgspec.structs.replace(self._models, voices=())
            self.synthesiser = self._synthesiser()
            await self.synthesiser.start()
        try:
            await self.recognisers.start(progress)
        except EngineError as error:
            if not self._models.ears or self._config.recogniser_dir:
                raise
            logger.warning("the neural recogniser is not used: %s", error)
            self._models = msgspec.structs.replace(self._models, ears=())
            self.recognisers = self._pool()
            await self.recognisers.start(progress)

    async def close(self) -> None:
        await self.recognisers.close()
        await self.synthesiser.close()

    def _synthesiser(self) -> Synthesiser:
        config, voices = self._config, self._models.voices
        return Synthesiser(config.voice, config.rate_wpm, voices, repeated_clauses())

    def _pool(self) -> RecogniserPool:
        ears = self._models.ears
        if not ears:
            return RecogniserPool(self._config.recognisers)
        told = msgspec.json.encode(ears).decode()
        return RecogniserPool(
            self._config.recognisers,
            per_core=WHOLE_PER_CORE,
            start_forkserver=lambda: RecogniserForkserver.start(WHISPER_MODULE, told),
        )


def repeated_clauses() -> set[str]:
    """The clauses of what the rules say over and over."""
    found = set()
    for text in REPEATED:
        splitter = ClauseSplitter()
        found |= {clause.text for clause in splitter.push(text)}
        found |= {clause.text for clause in splitter.flush()}
    return found
