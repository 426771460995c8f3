"""What the engine hears and speaks with: the neural models that there are, else the basic parts."""

from __future__ import annotations

import logging
from typing import Literal

import msgspec

from engine.base import EngineError, Progress
from engine.builtin.clauses import ClauseSplitter
from engine.builtin.ears import Ears
from engine.builtin.interfaces import Recogniser
from engine.builtin.recogniser import RecogniserPool
from engine.builtin.rules import REPEATED
from engine.builtin.speech_models import SpeechModels
from engine.builtin.synthesiser import Synthesiser
from engine.config import BuiltinConfig

logger = logging.getLogger(__name__)


class SpeechParts:
    """Owns the synthesiser and the ears.

    Neural parts that do not start give way to the basic ones, unless they are the user's own.
    """

    def __init__(self, config: BuiltinConfig, models: SpeechModels) -> None:
        self._config = config
        self._models = models
        self._ears = Ears(config, models.ears)
        self.synthesiser = self._synthesiser()

    @property
    def recognisers(self) -> RecogniserPool:
        return self._ears.pool

    @property
    def kind(self) -> Literal["basic", "neural"]:
        return "neural" if self._ears.is_neural and self._models.voices else "basic"

    @property
    def languages(self) -> tuple[str, ...]:
        """Those that are understood."""
        return self._ears.languages

    def recogniser(self, *, commands: bool) -> Recogniser:
        """The ear of a new session. `commands`: those of the rules are what is mostly said."""
        return self._ears.recogniser(commands=commands)

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
        await self._ears.start(progress)

    async def close(self) -> None:
        await self._ears.close()
        await self.synthesiser.close()

    def _synthesiser(self) -> Synthesiser:
        config, voices = self._config, self._models.voices
        return Synthesiser(config.voice, config.rate_wpm, voices, repeated_clauses())


def repeated_clauses() -> set[str]:
    """The clauses of what the rules say over and over."""
    found = set()
    for text in REPEATED:
        splitter = ClauseSplitter()
        found |= {clause.text for clause in splitter.push(text)}
        found |= {clause.text for clause in splitter.flush()}
    return found
