"""Products of numbers in 8 bits: weights with a scale for each output, rows with one for each row.

Rows are put into 8 bits by the kernel that computes them, where there is one. On CUDA tensor cores
multiply them (torch, from compute capability 8.9 on), elsewhere they are widened: the values are
the same, only the sums are rounded differently.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from engine.gpu.kernels.e4m3 import dequantise, quantise
from engine.gpu.kernels.loader import Kernel

LEAST_CAPABILITY = (8, 9)
"""Of a GPU whose tensor cores multiply e4m3."""
MULTIPLE = 16
"""Of inputs and outputs."""
_QUANTISED_VALUES = 16 << 20
"""Quantised at once: float32 takes several times the memory of the weight."""
_THREADS, _VECTORS = 512, 4
_NARROW_ROWS = Kernel("narrow_rows", torch.bfloat16, GATED=0, VECTORS=_VECTORS)
_NARROW_GATED = Kernel("narrow_rows", torch.bfloat16, GATED=1, VECTORS=_VECTORS)


class Fp8Rows(NamedTuple):
    """Rows x [M, K] in 8 bits."""

    numbers: Tensor
    """e4m3 [M, K]"""
    scales: Tensor
    """float32 [M, 1]"""
    dtype: torch.dtype
    """Of x, and of its products."""


def narrow_rows(x: Tensor, *, gated: bool = False) -> Fp8Rows | None:
    """x [M, K] in 8 bits; `gated`: x is [M, 2 K], and silu(first half) * second half is meant.

    None where no kernel does that at once: torch operations have to.
    """
    size = x.shape[1] // 2 if gated else x.shape[1]
    fits = size % 8 == 0 and size <= 8 * _THREADS * _VECTORS and x.is_contiguous()
    kernel = (_NARROW_GATED if gated else _NARROW_ROWS).on(x, fits)
    if kernel is None:
        return None
    numbers = x.new_empty(len(x), size, dtype=torch.float8_e4m3fn)
    scales = x.new_empty(len(x), 1, dtype=torch.float32)
    threads = min(_THREADS, -(-size // (8 * 32)) * 32)
    kernel((len(x), 1, 1), (threads, 1, 1), [x, numbers.view(torch.uint8), scales, size])
    return Fp8Rows(numbers, scales, x.dtype)


def narrowed(x: Tensor) -> Fp8Rows:
    """x [M, K] in 8 bits."""
    found = narrow_rows(x)
    if found is None:
        numbers, scales = quantise(x)
        found = Fp8Rows(numbers, scales[:, None], x.dtype)
    return found


@dataclass(frozen=True, eq=False)
class Fp8Weight:
    """A weight of a linear layer [N, K] in 8 bits."""

    numbers: Tensor
    """e4m3 [N, K]"""
    scales: Tensor
    """float32 [1, N]"""

    @classmethod
    def of(cls, weight: Tensor) -> Fp8Weight:
        """Round a weight [N, K]; no data is needed.

        Raises `ValueError` where its sizes are no multiples of what tensor cores take.
        """
        outputs, inputs = weight.shape
        if outputs % MULTIPLE or inputs % MULTIPLE:
            raise ValueError(f"a weight [{outputs}, {inputs}] is no multiple of {MULTIPLE}")
        parts = [
            quantise(part) for part in torch.split(weight, max(1, _QUANTISED_VALUES // inputs))
        ]
        numbers = torch.cat([own.view(torch.uint8) for own, _ in parts])
        scales = torch.cat([own for _, own in parts])
        return cls(numbers.view(torch.float8_e4m3fn), scales[None])

    @property
    def inputs(self) -> int:
        return self.numbers.shape[1]

    @property
    def nbytes(self) -> int:
        return self.numbers.nbytes + self.scales.nbytes

    def to(self, device: torch.device) -> Fp8Weight:
        """The same there."""
        return replace(self, numbers=self.numbers.to(device), scales=self.scales.to(device))

    def widened(self, dtype: torch.dtype) -> Tensor:
        """[N, K]"""
        return dequantise(self.numbers, self.scales[0]).to(dtype)

    def product(self, x: Tensor | Fp8Rows) -> Tensor:
        """x [M, K] times the weight's transpose: [M, N]."""
        rows = narrowed(x) if isinstance(x, Tensor) else x
        if rows.dtype is torch.bfloat16 and multiplies(rows.numbers.device):
            out: Tensor = torch._scaled_mm(
                *(rows.numbers, self.numbers.t()),
                scale_a=rows.scales,
                scale_b=self.scales,
                out_dtype=torch.bfloat16,
                use_fast_accum=True,
            )
            return out
        sums = rows.numbers.float() @ self.numbers.float().t()
        return (sums * rows.scales * self.scales).to(rows.dtype)


def multiplies(device: torch.device) -> bool:
    """Whether the device has tensor cores for e4m3."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= LEAST_CAPABILITY
