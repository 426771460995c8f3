"""Scaling equals integer arithmetic bit for bit, up and down, in bands and in groups."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from engine.dsp import bicubic as scaling
from engine.dsp.bicubic import COEFFICIENT_BITS, scale, taps

SIZES = [
    ((640, 480), (518, 392)),
    ((640, 480), (1092, 364)),
    ((320, 240), (518, 392)),
    ((160, 120), (14, 14)),
    ((33, 517), (112, 1792)),
    ((1280, 720), (602, 336)),
    ((448, 448), (448, 448)),
    ((448, 300), (448, 294)),
    ((300, 448), (294, 448)),
    ((1, 1), (28, 28)),
    ((3, 2), (42, 14)),
    ((901, 7), (700, 14)),
]


def in_integers(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """The filter as Pillow computes it: int32 sums, rows first, bytes in between."""
    for axis, target in ((1, size[0]), (0, size[1])):
        if picture.shape[axis] == target:
            continue
        shape = [1, 1, 1]
        shape[axis] = target
        total = torch.full((1,), 1 << (COEFFICIENT_BITS - 1), dtype=torch.int32)
        for place, weight in zip(*taps(picture.shape[axis], target), strict=True):
            part = picture.index_select(axis, place).to(torch.int32)
            total = total + part * weight.view(shape)
        picture = (total >> COEFFICIENT_BITS).clamp(0, 255).to(torch.uint8)
    return picture


def pictures(size: tuple[int, int], count: int = 1) -> Tensor:
    """Noise of full contrast: over- and undershoot everywhere."""
    generator = torch.Generator().manual_seed(size[0] * size[1])
    shape = (count, size[1], size[0], 3)
    noise = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    return torch.where(noise < 85, 0, torch.where(noise > 170, 255, noise)).to(torch.uint8)


def scaled(batch: Tensor, size: tuple[int, int]) -> Tensor:
    return scale(batch, size).permute(0, 2, 3, 1).to(torch.uint8)


@pytest.mark.parametrize(("source", "target"), SIZES)
def test_it_equals_integer_arithmetic(source: tuple[int, int], target: tuple[int, int]) -> None:
    picture = pictures(source)
    assert torch.equal(scaled(picture, target)[0], in_integers(picture[0], target))


def test_many_random_sizes_equal_integer_arithmetic() -> None:
    generator = torch.Generator().manual_seed(9)
    for _ in range(40):
        across, down, width, height = torch.randint(1, 200, (4,), generator=generator).tolist()
        picture = pictures((across, down))
        ours = scaled(picture, (width, height))[0]
        assert torch.equal(ours, in_integers(picture[0], (width, height)))


def test_bands_groups_and_matrices_that_are_not_kept_change_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batch = pictures((150, 90), 3)
    expected = scaled(batch, (70, 126))
    for row in range(3):
        assert torch.equal(scaled(batch[row : row + 1], (70, 126))[0], expected[row])
    monkeypatch.setattr(scaling, "BAND_PIXELS", 3 * 150 * 7)
    monkeypatch.setattr(scaling, "KEPT_ELEMENTS", 1)
    assert torch.equal(scaled(batch, (70, 126)), expected)
