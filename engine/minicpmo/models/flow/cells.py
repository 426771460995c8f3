"""Tensors of streaming layers with a row per slot: attention cells and convolution tails.

A chunk works on some of the rows. New keys are written behind the cells in use and attended there;
those that stay are copied to their places when the chunk is done, for all layers at once.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

ALIGNMENT = 16
"""Cells of a row are a multiple of this: attention kernels want their masks so."""
_PIECE = torch.complex128
"""The widest numbers that torch has: 16 bytes."""


def aligned(cells: int) -> int:
    """Cells of a row for `cells` and the one that takes what is not kept."""
    return -(-(cells + 1) // ALIGNMENT) * ALIGNMENT


class Cells:
    """Keys and values [layers, rows, cells, H, D]; the last cell takes what is not kept."""

    def __init__(
        self, layers: int, rows: int, cells: int, heads: tuple[int, int], like: Tensor
    ) -> None:
        """`cells`: those in use at most and those behind them that a chunk may need."""
        self.cells = aligned(cells)
        shape = (layers, rows, self.cells, *heads)
        self.keys = torch.zeros(shape, dtype=like.dtype, device=like.device)
        self.values = torch.zeros_like(self.keys)

    @property
    def tensors(self) -> tuple[Tensor, Tensor]:
        return self.keys, self.values


class CellRows:
    """Some rows of `Cells` during one chunk of at most `width` new frames."""

    def __init__(self, store: Cells, rows: Tensor, lengths: Tensor, width: int) -> None:
        self.store, self.rows, self.lengths, self.width = store, rows, lengths, width
        self.starts = rows * store.cells
        steps = torch.arange(width, device=rows.device)
        self.fresh = (self.starts[:, None] + lengths[:, None] + steps).flatten()
        """[B * width] where the new frames go, among the store's cells laid end to end."""

    def write(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Put keys and values [B * width, H, D] of the new frames behind the cells in use."""
        for stored, new in ((self.store.keys, keys), (self.store.values, values)):
            copied_to(stored[layer].flatten(0, 1), 0, self.fresh, new)

    def gather(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values [B, cells, H, D] of the rows."""
        return (
            selected(self.store.keys[layer], 0, self.rows),
            selected(self.store.values[layer], 0, self.rows),
        )

    def keep(self, targets: Tensor) -> None:
        """Copy the new frames to the cells `targets` [B, width] of their rows, in all layers."""
        to = (self.starts[:, None] + targets).flatten()
        for tensor in self.store.tensors:
            flat = tensor.flatten(1, 2)
            copied_to(flat, 1, to, selected(flat, 1, self.fresh))


class TailRows:
    """The last inputs of causal convolutions of some rows: what the next chunk is put behind."""

    def __init__(self, store: Tensor, rows: Tensor, new: Tensor, width: int) -> None:
        """`store` [layers, slots, W, C]; `new` [B] valid inputs of each row among `width`."""
        self._store, self._rows = store, rows
        self._old = selected(store, 1, rows)
        self._new: list[Tensor] = []
        size = store.shape[2]
        steps = torch.arange(size, device=rows.device)
        firsts = torch.arange(len(rows), device=rows.device) * (width + size) + new
        self.last = (firsts[:, None] + steps).flatten()
        """[B * W] where the last valid inputs are, if rows with tails in front lie end to end."""

    def old(self) -> Tensor:
        """The tails [B, W, C] of the next layer; layers come in their order, each once."""
        return self._old[len(self._new)]

    def put(self, new: Tensor) -> None:
        """Return what replaces `old` [B, W, C] when the chunk is done."""
        self._new.append(new)

    def extend(self, x: Tensor) -> Tensor:
        """Put the tails of the next layer before x [B, width, C]."""
        old = self.old()
        x = torch.cat([old.to(x.dtype), x], dim=1)
        self.put(x.flatten(0, 1).index_select(0, self.last).view(old.shape))
        return x

    def keep(self) -> None:
        """Store the last valid inputs of all layers for the next chunk."""
        copied_to(self._store, 1, self._rows, torch.stack(self._new).to(self._store.dtype))


def selected(x: Tensor, dim: int, index: Tensor) -> Tensor:
    """`x.index_select(dim, index)`, of any dimension but the last."""
    wide = _in_pieces(x)
    if wide is None:
        return x.index_select(dim, index)
    return wide.index_select(dim, index).view(x.dtype)


def copied_to(x: Tensor, dim: int, index: Tensor, source: Tensor) -> None:
    """`x.index_copy_(dim, index, source)`, of any dimension but the last."""
    wide, given = _in_pieces(x), _in_pieces(source)
    if wide is None or given is None:
        x.index_copy_(dim, index, source)
    else:
        wide.index_copy_(dim, index, given)


def _in_pieces(x: Tensor) -> Tensor | None:
    """The same bytes as numbers of 16: torch copies by index one number at a time, of whatever
    size. None where they do not lie so."""
    size = x.element_size()
    places = (x.storage_offset(), x.shape[-1], *x.stride()[:-1])
    if x.stride(-1) != 1 or any(place * size % _PIECE.itemsize for place in places):
        return None
    return x.view(_PIECE)


def packed_kernel(weight: Tensor) -> Tensor:
    """A convolution's weight [out, in, K] as the matrix [out, K * in] of `convolve`."""
    return weight.detach().transpose(1, 2).flatten(1).contiguous()


def convolve(x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    """A convolution without padding as one product: x [B, T + K - 1, C] -> [B, T, out]."""
    size = kernel.shape[1] // x.shape[2]
    count = x.shape[1] - size + 1
    columns = torch.cat([x[:, i : i + count] for i in range(size)], dim=-1)
    return F.linear(columns, kernel, bias)
