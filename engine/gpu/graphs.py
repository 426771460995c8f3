"""CUDA graphs: functions over tensors of fixed shapes, captured once per shape and replayed.

A kernel launch costs a slow CPU 15 us, a forward has hundreds; a replay launches them all for the
price of one call. On a CPU, and for shapes that were not captured, the function simply runs.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from engine.gpu.memory import left
from engine.gpu.staging import Staging, uploaded

T = TypeVar("T")

STAGED_BYTES = 32 * 1024 * 1024
"""Of inputs on their way to the device, many times what one step needs."""

LITTLE_BYTES = 2 * 1024**3
"""With less of the device's memory free, a graph may need what the runs before it have cached."""

BATCH_SIZES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128)
"""Rows that batches are padded to."""

_capture_lock = threading.Lock()
"""Only one thread may capture at a time."""


def padded_size(count: int, sizes: Sequence[int] = BATCH_SIZES) -> int:
    """The smallest of `sizes` (ascending) that holds `count`; beyond the last, its multiples."""
    place = bisect_left(sizes, count)
    if place < len(sizes):
        return sizes[place]
    return -(-count // sizes[-1]) * sizes[-1]


def sizes_up_to(most: int, sizes: Sequence[int] = BATCH_SIZES) -> list[int]:
    """The padded sizes that batches of 1 to `most` rows can have, the largest first.

    In this order graphs take least memory: what a large one left serves the smaller ones, while
    the pieces that small ones left are of no use for a large one.
    """
    return sorted({padded_size(count, sizes) for count in range(1, most + 1)}, reverse=True)


@dataclass
class _Captured:
    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    result: Any


class GraphPool:
    """The graphs of one thread. Their memory is shared: one of them runs at a time.

    Within `capturing()` a key that is new is captured, outside it runs without a graph. Capturing
    calls the function twice, so it is done with rows that belong to no session.
    """

    def __init__(
        self, device: torch.device | str, *, enabled: bool = True, urgent: bool = False
    ) -> None:
        """`urgent`: its kernels go before those of other graphs that run at the same time."""
        self.device = torch.device(device)
        self.enabled = enabled and self.device.type == "cuda"
        self.misses = 0
        """Runs without a graph since the start, where graphs are enabled."""
        self._captured: dict[Hashable, _Captured] = {}
        self._memory = torch.cuda.graph_pool_handle() if self.enabled else None
        # Matrix products keep semaphores in a workspace for each stream that they are captured in:
        # graphs of two threads must not share one, or they would wait for each other forever.
        self._stream = (
            torch.cuda.Stream(self.device, priority=-1 if urgent else 0)  # type: ignore[no-untyped-call]
            if self.enabled
            else None
        )
        self._is_capturing = False
        self._staging = Staging(self.device, STAGED_BYTES if self.enabled else 0)

    def __len__(self) -> int:
        return len(self._captured)

    @property
    def has_to_warm_up(self) -> bool:
        """A shape's first run is captured or chooses its kernels: on a CPU all runs are alike."""
        return self.enabled or self.device.type != "cpu"

    @contextmanager
    def capturing(self) -> Iterator[None]:
        """Capture what runs in the block, best with large shapes first, see `sizes_up_to`."""
        self._is_capturing = True
        try:
            yield
        finally:
            self._is_capturing = False
            if self.enabled:
                # Functions first ran without a graph, in memory that graphs cannot use.
                torch.cuda.empty_cache()

    def run(self, key: Hashable, function: Callable[..., T], *inputs: Tensor) -> T:
        """`function(*inputs)`, by its graph.

        `inputs` may lie on the host or on the device and are copied into the graph's own; shapes
        and types belong to the key. The function waits for nothing, decides nothing by values and
        changes state only in place. Its result is overwritten by the next run with this key.
        """
        if not self.enabled:
            return function(*(tensor.to(self.device) for tensor in inputs))
        captured = self._captured.get(key)
        if captured is None:
            if not self._is_capturing:
                self.misses += 1
                return function(*(self.upload(tensor) for tensor in inputs))
            self._captured[key], made = self._capture(function, inputs)
            return made
        for own, given in zip(captured.inputs, inputs, strict=True):
            assert own.shape == given.shape and own.dtype == given.dtype, (
                f"{key}: {given.dtype} {tuple(given.shape)}, captured {tuple(own.shape)}"
            )
            own.copy_(self._staged(given), non_blocking=True)
        self._staging.sent()
        captured.graph.replay()
        result: T = captured.result
        return result

    def upload(self, given: Tensor) -> Tensor:
        """A tensor of the host on the device, without waiting; one of the device as it is."""
        if not self.enabled:
            return uploaded(given, self.device)
        copied = self._staged(given).to(self.device, non_blocking=True)
        self._staging.sent()
        return copied

    def _staged(self, given: Tensor) -> Tensor:
        """Return a buffer from which a copy does not wait for the work before it."""
        if given.device.type != "cpu" or given.is_pinned():
            return given
        return self._staging.take(given.shape, given.dtype).copy_(given)

    def _capture(self, function: Callable[..., T], inputs: Sequence[Tensor]) -> tuple[_Captured, T]:
        """The graph, and what the run before it gave: a replay would only take time."""
        own = tuple(t.to(self.device, copy=True) for t in inputs)
        assert self._stream is not None
        with _capture_lock:
            current = torch.cuda.current_stream(self.device)
            self._stream.wait_stream(current)
            with torch.cuda.stream(self._stream):
                made = function(*own)
            current.wait_stream(self._stream)
            torch.cuda.synchronize(self.device)
            if left(self.device) < LITTLE_BYTES:
                # While a graph is captured torch cannot give back what it has cached.
                torch.cuda.empty_cache()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(
                graph, pool=self._memory, stream=self._stream, capture_error_mode="thread_local"
            ):
                result = function(*own)
        return _Captured(graph, own, result), made
