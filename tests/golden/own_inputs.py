"""Embeddings of a set's pictures and sounds as our own encoders make them."""

from __future__ import annotations

from torch import Tensor

from tests.golden import stage_pictures, stage_sound
from tests.golden.golden_set import GoldenSet
from tests.golden.report import TENSOR, Report


class _Capture(Report):
    """Keeps what the earlier stages computed from our own input."""

    def __init__(self) -> None:
        super().__init__()
        self.own: dict[str, Tensor] = {}

    def add(
        self,
        key: str,
        ours: Tensor,
        stored: Tensor,
        tolerance: float = TENSOR,
        kind: str = "stored",
    ) -> tuple[float, float]:
        if kind == "own" and key.endswith("embed"):
            self.own[key] = ours
        return super().add(key, ours, stored, tolerance, kind)


def own_embeddings(golden: GoldenSet) -> dict[str, Tensor]:
    """By the key under which the set stores them."""
    capture = _Capture()
    stage_pictures.compare(golden, capture, 1)
    stage_sound.compare(golden, capture, 1)
    return capture.own
