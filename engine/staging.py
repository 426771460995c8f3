"""Host memory that a device reads while the host goes on."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

ALIGNMENT = 256


class Staging:
    """A pinned buffer, used from front to back and again; owned by one thread.

    On a CPU there is nothing to stage: tensors are ordinary ones.
    """

    def __init__(self, device: torch.device, num_bytes: int) -> None:
        self._is_pinned = device.type == "cuda"
        self._buffer = self._allocate(num_bytes)
        self._used = 0
        self._read = torch.cuda.Event() if self._is_pinned else None  # type: ignore[no-untyped-call]

    def take(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A tensor to fill; nobody else gets its memory before its copy to the device is done.

        The copy is to be followed by `sent`.
        """
        if self._read is None:
            return torch.empty(tuple(shape), dtype=dtype)
        num_bytes = math.prod(shape) * dtype.itemsize
        if self._used + num_bytes > self._buffer.shape[0]:
            self._read.synchronize()
            self._used = 0
            if num_bytes > self._buffer.shape[0]:
                self._buffer = self._allocate(num_bytes)
        start, self._used = self._used, self._used + num_bytes
        self._used = -(-self._used // ALIGNMENT) * ALIGNMENT
        return self._buffer[start : start + num_bytes].view(dtype).view(tuple(shape))

    def sent(self) -> None:
        """All that was taken has been given to the device's current stream."""
        if self._read is not None:
            self._read.record()

    def _allocate(self, num_bytes: int) -> Tensor:
        size = num_bytes if self._is_pinned else 0
        return torch.zeros(size, dtype=torch.uint8, pin_memory=self._is_pinned)
