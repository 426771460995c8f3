"""Host memory that a device reads while the host goes on."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

ALIGNMENT = 256
SEGMENTS = 4


class Staging:
    """A pinned buffer, used from front to back and again; owned by one thread.

    It is waited for in quarters: what was copied out of the one that comes next was given to the
    device three quarters ago. On a CPU there is nothing to stage: tensors are ordinary ones.
    """

    def __init__(self, device: torch.device, num_bytes: int) -> None:
        self._is_pinned = device.type == "cuda"
        self._touched: set[int] = set()
        """Segments with memory that was taken and is not `sent` yet."""
        self._buffer = torch.zeros(0, dtype=torch.uint8)
        self._size = self._segment = self._used = 0
        self._read: list[torch.cuda.Event] = []
        self._allocate(num_bytes)

    def take(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A tensor to fill; nobody else gets its memory before its copy to the device is done.

        The copy is to be followed by `sent`.
        """
        if not self._is_pinned:
            return torch.empty(tuple(shape), dtype=dtype)
        num_bytes = math.prod(shape) * dtype.itemsize
        if num_bytes > self._size:
            self._grow(num_bytes)
        if self._used + num_bytes > (self._segment + 1) * self._size:
            self._enter((self._segment + 1) % SEGMENTS)
        start = self._used
        self._used = -(-(start + num_bytes) // ALIGNMENT) * ALIGNMENT
        self._touched.add(self._segment)
        return self._buffer[start : start + num_bytes].view(dtype).view(tuple(shape))

    def copy(self, target: Tensor, source: Tensor) -> None:
        """Copy a tensor of the host to the device in parts, so that the buffer need not grow."""
        rows = max(1, self._size // max(1, source[0].nbytes))
        for to, part in zip(torch.split(target, rows), torch.split(source, rows), strict=True):
            to.copy_(self.take(part.shape, part.dtype).copy_(part), non_blocking=True)
            self.sent()

    def sent(self) -> None:
        """All that was taken has been given to the device's current stream."""
        for segment in self._touched:
            self._read[segment].record()
        self._touched.clear()

    def _enter(self, segment: int) -> None:
        assert segment not in self._touched, "more is staged at once than fits"
        self._read[segment].synchronize()
        self._segment, self._used = segment, segment * self._size

    def _grow(self, num_bytes: int) -> None:
        assert not self._touched, "a larger buffer is needed while the old one is in use"
        for read in self._read:
            read.synchronize()
        self._allocate(SEGMENTS * num_bytes)

    def _allocate(self, num_bytes: int) -> None:
        self._size = -(-num_bytes // (SEGMENTS * ALIGNMENT)) * ALIGNMENT if self._is_pinned else 0
        count = SEGMENTS * self._size
        self._buffer = torch.zeros(count, dtype=torch.uint8, pin_memory=self._is_pinned)
        self._segment = self._used = 0
        self._read = [
            torch.cuda.Event()  # type: ignore[no-untyped-call]
            for _ in range(SEGMENTS if self._is_pinned else 0)
        ]


def uploaded(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy of a tensor of the host on a device, without waiting for what it does before.

    For what no `Staging` is at hand: pinned memory is torch's, which gives it to the next one when
    the device has read it.
    """
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def fetched(tensor: Tensor) -> Tensor:
    """A copy on the host, once the device is there.

    Through pinned memory: a copy to ordinary memory keeps the driver to itself while it waits, and
    nobody else can launch anything.
    """
    if tensor.device.type != "cuda":
        return tensor
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    host.copy_(tensor, non_blocking=True)
    done = torch.cuda.Event()  # type: ignore[no-untyped-call]
    done.record()
    done.synchronize()
    return host
