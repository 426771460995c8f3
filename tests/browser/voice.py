"""What the built-in engine's voice should sound like, straight from the synthesiser."""

from __future__ import annotations

import asyncio

import numpy as np

from engine.builtin.clauses import ClauseSplitter
from engine.builtin.synthesiser import Synthesiser
from engine.config import BuiltinConfig
from engine.ipc.protocol import OUTPUT_HZ
from tests.speech import Samples, resample


async def spoken(text: str, config: BuiltinConfig, rate: int) -> Samples:
    """`text` as the engine speaks it, at `rate`."""
    synthesiser = Synthesiser(config.voice, config.rate_wpm)
    await synthesiser.start()
    splitter = ClauseSplitter()
    clauses = [*splitter.push(text), *splitter.flush()]
    pcm = [(await synthesiser.speak(clause, config.voice, 1.0)).pcm for clause in clauses]
    joined = (np.concatenate(pcm) / 32768).astype(np.float32)
    return await asyncio.to_thread(resample, joined, OUTPUT_HZ, rate)
