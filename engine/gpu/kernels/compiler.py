"""Our kernels are compiled by NVRTC, which comes with torch: no compiler is needed."""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger(__name__)

WARP_SUM = r"""
__device__ __forceinline__ float warp_sum(float x) {
    for (int d = 16; d > 0; d >>= 1) x += __shfl_xor_sync(0xffffffffu, x, d);
    return x;
}
"""

COMMON = (
    r"""
typedef unsigned short bf16;
__device__ __forceinline__ float wide(bf16 x) { return __uint_as_float(((unsigned)x) << 16); }
__device__ __forceinline__ bf16 narrow(float x) {
    unsigned u = __float_as_uint(x);
    if ((u & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
    return (bf16)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}
__device__ __forceinline__ float rounded(float x) { return wide(narrow(x)); }
"""
    + WARP_SUM
)
"""Of kernels on bfloat16: put it in front of their source."""


@cache
def compiled(source: str, name: str, device: int) -> Any | None:
    """The kernel of that name, or None where this torch or GPU cannot have it."""
    compile_kernel = getattr(torch.cuda, "_compile_kernel", None)
    if compile_kernel is None or torch.cuda.get_device_capability(device) < (8, 0):
        return None
    try:
        with torch.cuda.device(device):
            return compile_kernel(source, name)
    except (RuntimeError, OSError) as error:
        log.warning("kernel %s cannot be compiled, slower operations are used: %s", name, error)
        return None


@cache
def null(device: torch.device) -> Tensor:
    """A tensor without memory: its pointer is null."""
    return torch.empty(0, device=device)
