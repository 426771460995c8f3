"""Rows of different lengths in one tensor: a row's own come first, what is behind is meaningless.

Where all rows are alike these are plain slices.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Count:
    """A number of frames or samples of each row."""

    most: int
    own: Tensor | None = None
    """[B], where rows differ."""

    def __add__(self, other: Count | int) -> Count:
        if isinstance(other, int):
            return Count(self.most + other, None if self.own is None else self.own + other)
        assert (self.own is None) == (other.own is None), "counts of different batches"
        own = None if self.own is None or other.own is None else self.own + other.own
        return Count(self.most + other.most, own)

    def __mul__(self, times: int) -> Count:
        return Count(self.most * times, None if self.own is None else self.own * times)


def ended(x: Tensor, count: Count) -> Tensor:
    """Zeros behind each row's count along the last of the dimensions [B, ..., T]."""
    if count.own is None:
        return x
    behind = torch.arange(x.shape[-1], device=x.device) >= count.own[:, None]
    return x.masked_fill(_beside(behind, x), 0)


def cut(x: Tensor, first: Count, size: int) -> Tensor:
    """`size` of the last dimension of x [B, ..., T] from each row's `first` on."""
    if first.own is None:
        return x[..., first.most : first.most + size]
    steps = torch.arange(size, device=x.device)
    return _taken(x, first.own[:, None] + steps)


def joined(tail: Tensor, new: Tensor, kept: Count) -> Tensor:
    """What is kept at the beginning of each row's tail [B, ..., K], and the new behind it."""
    both = torch.cat([tail[..., : kept.most], new], dim=-1)
    if kept.own is None:
        return both
    steps = torch.arange(both.shape[-1], device=both.device)
    own = kept.own[:, None]
    return _taken(both, torch.where(steps < own, steps, steps + (kept.most - own)))


def covered(x: Tensor, cover: Tensor, count: Count) -> Tensor:
    """x [B, N] with the first `count` samples of `cover` in place of its own."""
    first = cover[:, : count.most]
    if count.own is not None:
        steps = torch.arange(count.most, device=x.device)
        first = torch.where(steps < count.own[:, None], first, x[:, : count.most])
    return torch.cat([first, x[:, count.most :]], dim=1)


def _taken(x: Tensor, index: Tensor) -> Tensor:
    """The values at [B, M] of the last dimension; beyond its end the last one."""
    index = _beside(index.clamp(max=x.shape[-1] - 1), x)
    return x.gather(-1, index.expand(*x.shape[:-1], -1))


def _beside(rows: Tensor, x: Tensor) -> Tensor:
    """[B, M] as one that broadcasts with x [B, ..., T]."""
    return rows.view(len(rows), *[1] * (x.ndim - 2), -1)
