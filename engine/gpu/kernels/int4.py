"""Weights of linear layers in 4 bits, with a scale and a zero for each group of inputs.

A weight is (number - zero) * scale. Up to `MOST_ROWS` rows are multiplied by a kernel that widens
the numbers in registers, more of them by way of a copy of a part of the weight in bfloat16, for
which it is rounded once. Elsewhere torch operations widen it whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.gpu.kernels.loader import Kernel

LEVELS = 15
GROUPS = (128, 64, 32, 16)
"""Inputs that share a scale: the largest of these that divides their number."""
NARROWED = (0.95, 0.9, 0.85, 0.8)
"""Parts of a group's range that are tried beside all of it."""
TILE = 16
"""Outputs, and inputs of a piece, that lie together; see int4.cuh."""
PIECE = 64
MOST_ROWS = 64
WARPS = 8
_WIDENED_VALUES = 32 << 20
"""Of a weight, widened at once: what an L2 cache keeps."""
_QUANTISED_VALUES = 16 << 20
"""Quantised at once: float32 and more takes several times the memory of the weight."""


class _Form(NamedTuple):
    """How `int4_rows` shares out its work."""

    tiles: int
    eights: int
    warps: int
    ahead: int

    def kernel(self) -> Kernel:
        return Kernel(
            "int4_rows",
            torch.bfloat16,
            KIND='"bf16"',
            TILES=self.tiles,
            EIGHTS=self.eights,
            WARPS=self.warps,
            AHEAD=self.ahead,
        )


def _form(outputs: int, rows: int, processors: int) -> _Form:
    """The fastest, as measured on an H200 with weights of the released model's sizes."""
    eights = next(size for size in (1, 2, 4, 8) if rows <= 8 * size)
    is_wide = outputs >= 4 * TILE * processors
    if eights == 8:
        return _Form(2, 8, 8, 1)
    if eights > 1:
        return _Form(2 if is_wide else 1, eights, 8, 1)
    if outputs % (2 * TILE):
        return _Form(1, 1, 8, 4)
    if is_wide:
        return _Form(2, 1, 8, 4)
    return _Form(1, 1, 8, 4) if outputs > 2 * TILE * processors else _Form(2, 1, 16, 4)


_FORMS = (
    _Form(1, 1, 8, 4),
    *(_Form(2, 1, warps, 4) for warps in (8, 16)),
    *(_Form(tiles, eights, 8, 1) for tiles in (1, 2) for eights in (2, 4)),
    _Form(2, 8, 8, 1),
)
_ROWS = {form: form.kernel() for form in _FORMS}
DEEP = 4
"""Pieces that a warp widens."""
_WIDEN = Kernel("int4_widen", torch.bfloat16, DEEP=DEEP)


@dataclass(frozen=True, eq=False)
class Int4Values:
    """A weight [N, K] as numbers, before it is laid out."""

    numbers: Tensor
    """uint8 [N, K], 0 to 15."""
    scales: Tensor
    """bfloat16 [N, K / group]."""
    zeros: Tensor
    """uint8 [N, K / group]."""

    @property
    def group(self) -> int:
        return self.numbers.shape[1] // self.scales.shape[1]

    @classmethod
    def of(cls, weight: Tensor, group: int | None = None) -> Int4Values:
        """Round a weight [N, K] to the nearest of 16 levels in each group; no data is needed.

        Raises `ValueError` where its inputs cannot be divided into groups.
        """
        inputs = weight.shape[1]
        size = group or group_of(inputs)
        rows = max(TILE, _QUANTISED_VALUES // inputs // TILE * TILE)
        return cls.joined([_rounded(part, size) for part in torch.split(weight, rows)])

    @classmethod
    def joined(cls, parts: Sequence[Int4Values]) -> Int4Values:
        """Weights over the same inputs, one below the other."""
        return cls(
            *(
                torch.cat([getattr(part, name) for part in parts])
                for name in ("numbers", "scales", "zeros")
            )
        )


def group_of(inputs: int) -> int:
    """How many inputs share a scale; raises `ValueError` where none of `GROUPS` divides them."""
    for group in GROUPS:
        if inputs % group == 0:
            return group
    raise ValueError(f"{inputs} inputs cannot be quantised in groups of {GROUPS[-1]}")


def _rounded(weight: Tensor, group: int) -> Int4Values:
    """Of each group the narrowed range with the least squared error: the ends are rare values."""
    outputs, inputs = weight.shape
    grouped = weight.float().view(outputs, -1, group)
    # Zero is one of the levels: what is far from it on one side only gets coarser by that.
    low = grouped.amin(-1).clamp(max=0)
    high = grouped.amax(-1).clamp(min=0)
    best, scales, zeros = _scaled(grouped, low, high)
    for part in NARROWED:
        error, narrower, other = _scaled(grouped, part * low, part * high)
        is_better = error < best
        best = torch.where(is_better, error, best)
        scales = torch.where(is_better, narrower, scales)
        zeros = torch.where(is_better, other, zeros)
    numbers = _numbers(grouped, scales, zeros).to(torch.uint8).view(outputs, inputs)
    return Int4Values(numbers, scales, zeros.to(torch.uint8))


def _scaled(grouped: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Squared error, bfloat16 scale and zero of each group for levels from `low` to `high`."""
    scales = ((high - low) / LEVELS).clamp(min=torch.finfo(torch.bfloat16).tiny)
    scales = scales.to(torch.bfloat16)
    zeros = (-low / scales.float()).round().clamp(0, LEVELS)
    found = (_numbers(grouped, scales, zeros) - zeros[..., None]) * scales.float()[..., None]
    return (found - grouped).square().sum(-1), scales, zeros


def _numbers(grouped: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
    steps = (grouped / scales.float()[..., None]).round()
    return (steps + zeros[..., None]).clamp(0, LEVELS)


@dataclass(frozen=True, eq=False)
class Int4Weight:
    """A weight [N, K] as the kernels read it."""

    cells: Tensor
    """int32 [N / 16, K / 64, 32, 4]"""
    groups: Tensor
    """bfloat16 [N / 16, K / group, 16, 2]: scales, and -(128 + zero)."""
    outputs: int
    inputs: int

    @classmethod
    def of(cls, values: Int4Values) -> Int4Weight:
        """Raises `ValueError` where the sizes are not multiples of a tile's."""
        outputs, inputs = values.numbers.shape
        if outputs % TILE or inputs % PIECE:
            raise ValueError(f"a weight [{outputs}, {inputs}] is no whole number of tiles")
        rows = max(TILE, _QUANTISED_VALUES // inputs // TILE * TILE)
        cells = torch.cat([_laid_out(part) for part in torch.split(values.numbers, rows)])
        offsets = -(128.0 + values.zeros.float())
        groups = torch.stack([values.scales, offsets.to(torch.bfloat16)], dim=-1)
        groups = groups.view(outputs // TILE, TILE, -1, 2).transpose(1, 2).contiguous()
        return cls(cells, groups, outputs, inputs)

    @property
    def group(self) -> int:
        return self.inputs // self.groups.shape[1]

    @property
    def nbytes(self) -> int:
        return self.cells.nbytes + self.groups.nbytes

    def to(self, device: torch.device) -> Int4Weight:
        """The same there."""
        return replace(self, cells=self.cells.to(device), groups=self.groups.to(device))

    def widened(self, dtype: torch.dtype) -> Tensor:
        """[N, K], by torch operations; the products are rounded as in bfloat16."""
        tiles, pieces = self.cells.shape[:2]
        shifts = _shifts(self.cells.device)
        numbers = (self.cells[..., None] >> shifts) & LEVELS
        # tile, piece, lane / 4, lane % 4, half, word, number
        numbers = numbers.view(tiles, pieces, 8, 4, 2, 2, 8).permute(0, 4, 2, 1, 3, 5, 6)
        numbers = numbers.reshape(self.outputs, -1, self.group).float()
        groups = self.groups.transpose(1, 2).reshape(self.outputs, -1, 2, 1).float()
        found = (numbers + groups[:, :, 1] + 128.0) * groups[:, :, 0]
        return found.to(torch.bfloat16).view(self.outputs, self.inputs).to(dtype)

    def product(self, x: Tensor) -> Tensor:
        """x [M, K] times the weight's transpose: [M, N]."""
        fits = self.group % PIECE == 0 and x.is_contiguous()
        if len(x) <= MOST_ROWS:
            form = _form(self.outputs, len(x), _processors(x.device))
            kernel = _ROWS[form].on(x, fits and self.outputs % (TILE * form.tiles) == 0)
            if kernel is not None:
                out = x.new_empty(len(x), self.outputs)
                numbers = [len(x), self.outputs, self.inputs, self.group // PIECE]
                grid = (self.outputs // TILE // form.tiles, 1, 1)
                kernel(grid, (32 * form.warps, 1, 1), [x, self.cells, self.groups, out, *numbers])
                return out
        kernel = _WIDEN.on(x, fits)
        if kernel is None:
            return F.linear(x, self.widened(x.dtype))
        return self._by_parts(x)

    def _by_parts(self, x: Tensor) -> Tensor:
        """Many rows, beside whom widening costs little."""
        kernel = _WIDEN.on(x)
        assert kernel is not None
        tiles, pieces = self.cells.shape[:2]
        out = x.new_empty(len(x), self.outputs)
        parts = -(-self.outputs * self.inputs // _WIDENED_VALUES)
        step = -(-tiles // parts)
        for first in range(0, tiles, step):
            cells, groups = self.cells[first : first + step], self.groups[first : first + step]
            part = x.new_empty(len(cells) * TILE, self.inputs)
            blocks = -(-len(cells) * pieces // (WARPS * DEEP))
            numbers = [len(cells), pieces, self.group // PIECE]
            kernel((blocks, 1, 1), (32 * WARPS, 1, 1), [cells, groups, part, *numbers])
            begin = first * TILE
            torch.mm(x, part.t(), out=out[:, begin : begin + len(part)])
        return out


def _laid_out(numbers: Tensor) -> Tensor:
    """Numbers [N, K] as cells [N / 16, K / 64, 32, 4]."""
    tiles, pieces = numbers.shape[0] // TILE, numbers.shape[1] // PIECE
    # tile, half, lane / 4, piece, lane % 4, word, number
    parts = numbers.view(tiles, 2, 8, pieces, 4, 2, 8).permute(0, 3, 2, 4, 1, 5, 6)
    cells = torch.zeros(parts.shape[:-1], dtype=torch.int32, device=numbers.device)
    for place, shift in enumerate(_SHIFTS):
        cells |= parts[..., place].to(torch.int32) << shift
    return cells.reshape(tiles, pieces, 32, 4)


_SHIFTS = tuple(4 * (place // 2) + 16 * (place % 2) for place in range(8))
"""Where each of a word's eight numbers lies."""


@cache
def _shifts(device: torch.device) -> Tensor:
    return torch.tensor(_SHIFTS, dtype=torch.int32, device=device)


@cache
def _processors(device: torch.device) -> int:
    if device.type != "cuda":
        return 1
    return int(torch.cuda.get_device_properties(device).multi_processor_count)
