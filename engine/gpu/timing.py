"""How long stages take on the device, without waiting for it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Self

import torch


def _mark() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def _is_passed(mark: torch.cuda.Event) -> bool:
    return bool(mark.query())  # type: ignore[no-untyped-call]


def passed(device: torch.device) -> torch.cuda.Event | None:
    """An event behind the work in the current stream; None for a CPU, which has done it."""
    if device.type != "cuda":
        return None
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record()
    return event


class Timer:
    """Times a block's work in the current stream: on CUDA between two marks in it, read when both
    are passed."""

    def __init__(self, device: torch.device) -> None:
        self._is_cuda = device.type == "cuda"
        self._begin: torch.cuda.Event | None = None
        self._end: torch.cuda.Event | None = None
        self._ms = 0.0
        self._started = time.perf_counter()
        if self._is_cuda:
            self._begin, self._end = _mark(), _mark()
            self._begin.record()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._ms = (time.perf_counter() - self._started) * 1000
        if self._end is not None:
            self._end.record()

    @property
    def ms(self) -> float:
        """Time on the device; the host's where the device is not there yet."""
        if self._begin is None or self._end is None or not _is_passed(self._end):
            return self._ms
        return float(self._begin.elapsed_time(self._end))


Stages = list[tuple[str, Timer]]
"""What a unit or a turn went through."""


def totals(stages: Iterable[tuple[str, Timer]]) -> dict[str, float]:
    """Milliseconds of each stage, added up."""
    found: dict[str, float] = {}
    for name, timer in stages:
        found[name] = found.get(name, 0.0) + timer.ms
    return {name: round(ms, 2) for name, ms in found.items()}
