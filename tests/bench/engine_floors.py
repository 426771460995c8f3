"""What a unit's stages need at least: bytes over bandwidth, operations over arithmetic rate."""

from __future__ import annotations

from typing import Any

from torch import nn

from engine.config import KvCacheType
from engine.minicpmo.checkpoint import OmniModel
from engine.minicpmo.llm.rows import CACHES
from tests.bench.gpu import arithmetic, bandwidth, narrow_bytes

UNIT_TOKENS = 81
WORDS = 5
CODES = 25
FLOW_OPERATIONS = 1.68e10
"""Of one Euler step for a second of speech; the encoder's and the vocoder's below."""
ENCODER_OPERATIONS, VOCODER_OPERATIONS = 6.3e9, 3.55e10
PATCHES = 1036


def _bytes(module: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in module.parameters()) + narrow_bytes(module)


class Floors:
    """Of a batch of units that end together: weights are read once for all of them."""

    def __init__(self, model: OmniModel, kv: KvCacheType) -> None:
        self.bytes_per_s = bandwidth(model.device)
        self.operations_per_s = arithmetic(model.device)
        table = _bytes(model.llm.model.embed_tokens)
        self._llm_bytes = _bytes(model.llm) - table
        element = 2 if model.device.type == "cuda" else 4
        self._position = CACHES[kv].bytes_per_position(model.llm.cache_spec(1))
        seeing = 2 * PATCHES * _bytes(model.vision) / element
        hearing = 2 * 50 * _bytes(model.whisper) / element
        self._encode = (seeing + hearing) / self.operations_per_s
        tts = model.speech
        self._tts_bytes = _bytes(tts.model) + _bytes(tts.head_code)
        steps = model.code2wav.flow.steps if model.code2wav is not None else 0
        speech = FLOW_OPERATIONS * steps + ENCODER_OPERATIONS + VOCODER_OPERATIONS
        self._vocoder = speech / self.operations_per_s
        self._flow_bytes = 0
        if model.code2wav is not None:
            self._flow_bytes = steps * _bytes(model.code2wav.flow.decoder)

    def rates(self) -> dict[str, float]:
        return {
            "copy_tb_s": round(self.bytes_per_s / 1e12, 3),
            "product_tflop_s": round(self.operations_per_s / 1e12, 1),
        }

    def beside(
        self, outcome: dict[str, Any], rows: int, speaking: float
    ) -> dict[str, dict[str, float]]:
        """Each stage's floor for `rows` units, a share of which speaks, and measured p50 over it.

        Of pictures that were encoded ahead the measured time of `encode` has none.
        """
        read = self._llm_bytes / self.bytes_per_s
        context = outcome["mean_kv"] * self._position / self.bytes_per_s
        linear = 2 * UNIT_TOKENS * self._llm_bytes / 2 / self.operations_per_s
        words = max(1.0, rows * speaking)
        floors = {
            "encode": rows * self._encode,
            "prefill": max(read, rows * linear) + rows * context,
            "decode": (WORDS + 2) * (read + words * context),
            "tts": (CODES + 1) * self._tts_bytes / self.bytes_per_s,
            "vocoder": max(self._flow_bytes / self.bytes_per_s, words * self._vocoder),
        }
        found: dict[str, dict[str, float]] = {"rows": {"all": rows, "speaking": words}}
        for name, floor in floors.items():
            measured = outcome["stages_ms"].get(f"speak {name}", {}).get("p50")
            found[name] = {"floor": round(floor * 1000, 2)}
            if measured:
                found[name] |= {"p50": measured, "ratio": round(measured / floor / 1000, 2)}
        return found
