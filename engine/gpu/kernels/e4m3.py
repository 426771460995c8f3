"""8-bit floats (e4m3, arXiv 2209.05433) with a scale for each row: the largest number of a row is
the largest that e4m3 has, and nothing saturates.
"""

from __future__ import annotations

import torch
from torch import Tensor

LARGEST = 448.0
LEAST = 1e-20
"""A largest number below it counts as this: its scale and one over it stay normal numbers."""


def quantise(x: Tensor) -> tuple[Tensor, Tensor]:
    """x [..., D] as e4m3 [..., D] and scales [...], float32. What is not finite stays so."""
    wide = x.float()
    # A product, as devices divide by a constant: a division on the host would round differently.
    scales = wide.abs().amax(-1).clamp_min(LEAST) * (1 / LARGEST)
    return (wide / scales[..., None]).to(torch.float8_e4m3fn), scales


def dequantise(x: Tensor, scales: Tensor) -> Tensor:
    """e4m3 [..., D] and scales [...] -> float32."""
    return x.float() * scales[..., None]
