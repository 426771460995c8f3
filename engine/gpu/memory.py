"""How much of a GPU's memory this process may take, and how much of that is free."""

from __future__ import annotations

import torch

GIB = 1 << 30
MOST_CONTEXT_BYTES = GIB
"""That CUDA itself takes for a process; more than this is another process's."""


class MemoryLimitError(ValueError):
    """The limit leaves nothing; for people."""


def limit(device: torch.device, gib: float) -> None:
    """Let this process take no more than `gib` of the device, what CUDA takes for it included.

    Raises `MemoryLimitError`. A limit beyond the device's memory is none.
    """
    place = _index(device)
    free, total = torch.cuda.mem_get_info(place)
    context = min(total - free - torch.cuda.memory_reserved(device), MOST_CONTEXT_BYTES)
    allowed = gib * GIB - context
    if allowed <= 0:
        raise MemoryLimitError(
            f"engine.gpu_memory_gib = {gib:g}: CUDA alone takes {context / GIB:.2f} GiB"
        )
    torch.cuda.set_per_process_memory_fraction(min(1.0, allowed / total), place)


def left(device: torch.device) -> int:
    """Bytes that can still be taken from the device, without what torch has cached."""
    place = _index(device)
    free, total = torch.cuda.mem_get_info(place)
    allowed = torch.cuda.get_per_process_memory_fraction(place) * total
    return max(0, min(free, int(allowed) - torch.cuda.memory_reserved(device)))


def _index(device: torch.device) -> int:
    """The fraction is of a device by number only."""
    return torch.cuda.current_device() if device.index is None else device.index


def unused(device: torch.device) -> int:
    """Bytes that are left, with what torch has cached and does not use."""
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return left(device) + cached
