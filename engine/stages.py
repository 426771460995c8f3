"""How long the stages of recent units took."""

from __future__ import annotations

from collections import deque

from engine.ipc.supervision import Quantiles

KEPT_PER_STAGE = 512
MAX_STAGES = 32


def quantiles(values: list[float]) -> Quantiles:
    """Nearest-rank quantiles of a non-empty list."""
    ordered = sorted(values)
    last = len(ordered) - 1

    def rank(q: float) -> float:
        return round(ordered[min(last, int(q * len(ordered)))], 3)

    return Quantiles(len(ordered), rank(0.5), rank(0.95), rank(0.99))


class Stages:
    """The last `KEPT_PER_STAGE` durations of each stage, in ms."""

    def __init__(self) -> None:
        self._recent: dict[str, deque[float]] = {}
        self.units = 0

    def add(self, stages_ms: dict[str, float]) -> None:
        self.units += 1
        for name, ms in stages_ms.items():
            if name not in self._recent and len(self._recent) >= MAX_STAGES:
                continue
            self._recent.setdefault(name, deque(maxlen=KEPT_PER_STAGE)).append(ms)

    def summary(self) -> dict[str, Quantiles]:
        return {name: quantiles(list(values)) for name, values in self._recent.items() if values}
