"""What the benchmarks of the native engine measure of the device itself."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from engine.gpu.blocks.decoder import DecoderLayer
from engine.gpu.blocks.linear import FewBits
from engine.gpu.memory import left

COPY_BYTES = 2**31
PRODUCT = 8192


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed_ms(run: Callable[[], object], device: torch.device, repeats: int = 10) -> float:
    """The median wall time of `run` until the device is done, after two runs to warm up."""
    for _ in range(2):
        run()
    times = []
    for _ in range(repeats):
        synchronize(device)
        started = time.perf_counter()
        run()
        synchronize(device)
        times.append((time.perf_counter() - started) * 1000)
    return statistics.median(times)


def bandwidth(device: torch.device) -> float:
    """Bytes a second of a large copy, read and written bytes counted."""
    count = COPY_BYTES // 64
    if device.type == "cuda":
        count = min(COPY_BYTES, left(device) // 4)
    source = torch.empty(count, dtype=torch.uint8, device=device).random_(0, 255)
    target = torch.empty_like(source)
    ms = timed_ms(lambda: target.copy_(source), device)
    return 2 * count / ms * 1000


def arithmetic(device: torch.device) -> float:
    """Operations a second of a large bfloat16 matrix product on random numbers."""
    size = PRODUCT if device.type == "cuda" else PRODUCT // 16
    left = torch.randn(size, size, device=device).bfloat16()
    right = torch.randn(size, size, device=device).bfloat16()
    ms = timed_ms(lambda: left @ right, device)
    return 2 * size**3 / ms * 1000


def narrow_bytes(model: nn.Module) -> int:
    """Of the weights that are in 4 or 8 bits and no parameters."""
    found = 0
    for part in model.modules():
        if isinstance(part, DecoderLayer):
            attention, mlp = part.self_attn, part.mlp
            weights = (attention.packed, attention.out, mlp.packed, mlp.down)
            found += sum(weight.nbytes for weight in weights if isinstance(weight, FewBits))
    return found


def memory_gib(device: torch.device) -> float:
    """The most memory that tensors took since the start."""
    if device.type != "cuda":
        return 0.0
    return round(torch.cuda.max_memory_allocated(device) / 1024**3, 2)
