"""Scaling of pictures with Pillow's antialiased bicubic filter, bit for bit, on any device.

Pillow sums products of bytes and 22-bit fixed-point weights, first along the rows, rounds to bytes,
then along the columns. Here each axis is a product with a matrix in float64, where such sums are
exact whatever their order. Source: Pillow's resampling.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

Size = tuple[int, int]
"""Width and height in pixels."""

COEFFICIENT_BITS = 22
"""Fixed-point digits of Pillow's coefficients for 8-bit pictures."""

BICUBIC_SUPPORT = 2.0

KEPT_ELEMENTS = 1 << 21
"""Larger matrices are made anew for each picture, so that the kept ones take little memory."""

BAND_PIXELS = 1 << 22
"""Pixels that are unfolded to float64 at a time."""


def scale(pictures: Tensor, size: Size) -> Tensor:
    """Pictures of one size [G, height, width, 3] uint8 -> whole numbers [G, 3, h, w], float64."""
    width, height = size
    rows = max(1, BAND_PIXELS // (pictures.shape[0] * pictures.shape[2]))
    bands = [_across(band, width) for band in torch.split(pictures, rows, 1)]
    planes = torch.cat(bands, 2) if len(bands) > 1 else bands[0]
    if planes.shape[2] != height:
        planes = _rounded(_matrix(planes.shape[2], height, planes.device).t() @ planes)
    return planes


def _across(pictures: Tensor, width: int) -> Tensor:
    planes = pictures.permute(0, 3, 1, 2).to(torch.float64, memory_format=torch.contiguous_format)
    if planes.shape[3] == width:
        return planes
    return _rounded(planes @ _matrix(planes.shape[3], width, planes.device))


def _rounded(sums: Tensor) -> Tensor:
    return sums.add_(0.5).floor_().clamp_(0, 255)


def _cubic(x: Tensor) -> Tensor:
    """Keys' kernel with a = -0.5."""
    x, a = x.abs(), -0.5
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return torch.where(x < 1.0, near, torch.where(x < 2.0, far, 0.0))


@lru_cache(maxsize=256)
def taps(source: int, target: int) -> tuple[Tensor, Tensor]:
    """Source positions and fixed-point weights [taps, target] of a scaling along one axis."""
    ratio = source / target
    stretch = max(ratio, 1.0)
    support = BICUBIC_SUPPORT * stretch
    inverse = 1.0 / stretch
    center = (torch.arange(target, dtype=torch.float64) + 0.5) * ratio
    first = (center - support + 0.5).trunc().clamp_min(0)
    end = (center + support + 0.5).trunc().clamp_max(source)
    places = torch.arange(math.ceil(support) * 2 + 1)[:, None] + first
    is_tap = places < end
    values = _cubic((places - center + 0.5) * inverse).where(is_tap, 0.0)
    total = torch.zeros_like(center)
    for row in values:
        # One after the other: another order of the sum would round differently from Pillow's.
        total += row
    fixed = values / total * (1 << COEFFICIENT_BITS)
    weights = (fixed + torch.where(fixed < 0, -0.5, 0.5)).trunc()
    return places.where(is_tap, 0.0).long(), weights.to(torch.int32)


def _matrix(source: int, target: int, device: torch.device) -> Tensor:
    """Weights [source, target] as multiples of 2^-22."""
    make = _kept_matrix if source * target <= KEPT_ELEMENTS else _new_matrix
    return make(source, target, device)


def _new_matrix(source: int, target: int, device: torch.device) -> Tensor:
    places, weights = (part.to(device) for part in taps(source, target))
    matrix = torch.zeros(source, target, dtype=torch.float64, device=device)
    # Unused taps have weight 0 at position 0, so that they change nothing in a sum.
    return matrix.scatter_add_(0, places, weights.double() / (1 << COEFFICIENT_BITS))


@lru_cache(maxsize=32)
def _kept_matrix(source: int, target: int, device: torch.device) -> Tensor:
    return _new_matrix(source, target, device)
