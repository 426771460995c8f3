"""What a GPU does while the engine serves: how busy each stream is, how far they overlap.

Needs CUDA. Tracing slows the host a little; figures of latency are taken without it.
"""

from __future__ import annotations

import re
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

NAMED = 14
"""Kernels that are told by name, those that take longest."""
NAME_LENGTH = 90


@dataclass(frozen=True)
class _Kernel:
    name: str
    stream: int
    start: int
    end: int
    """Nanoseconds."""


def traced(seconds: float) -> dict[str, Any]:
    """Trace the device for so long, whoever uses it, and sum up."""
    with profile(activities=[ProfilerActivity.CUDA]) as trace:
        time.sleep(seconds)
        torch.cuda.synchronize()
    events = trace.profiler.kineto_results.events()
    kernels = [
        _Kernel(event.name(), event.device_resource_id(), event.start_ns(), event.end_ns())
        for event in events
        if "CUDA" in str(event.device_type()) and event.duration_ns() > 0
    ]
    return _summary(kernels)


def _summary(kernels: list[_Kernel]) -> dict[str, Any]:
    if not kernels:
        return {}
    span = max(k.end for k in kernels) - min(k.start for k in kernels)
    streams: dict[int, list[_Kernel]] = defaultdict(list)
    for kernel in kernels:
        streams[kernel.stream].append(kernel)
    lanes = {
        stream: {
            "kernels": len(own),
            "busy": round(_covered(own) / span, 3),
            "median_us": round(sorted(k.end - k.start for k in own)[len(own) // 2] / 1000, 2),
        }
        for stream, own in sorted(streams.items(), key=lambda item: -_covered(item[1]))
        if _covered(own) > 0.002 * span
    }
    busy = _covered(kernels)
    return {
        "span_ms": round(span / 1e6, 1),
        "busy": round(busy / span, 3),
        "overlap": round(max(0, sum(map(_covered, streams.values())) - busy) / span, 3),
        "streams": lanes,
        "kernels": _named(kernels, span),
    }


def _covered(kernels: list[_Kernel]) -> int:
    """Nanoseconds in which one of them runs at least."""
    total = end = 0
    for kernel in sorted(kernels, key=lambda k: k.start):
        if kernel.end > end:
            total += kernel.end - max(kernel.start, end)
            end = kernel.end
    return total


def _named(kernels: list[_Kernel], span: int) -> list[dict[str, Any]]:
    sums: dict[tuple[int, str], list[int]] = defaultdict(list)
    for kernel in kernels:
        name = re.sub(r"^void |\(anonymous namespace\)::|at::native::", "", kernel.name)
        sums[kernel.stream, name[:NAME_LENGTH]].append(kernel.end - kernel.start)
    longest = sorted(sums.items(), key=lambda item: -sum(item[1]))[:NAMED]
    return [
        {
            "stream": stream,
            "name": name,
            "count": len(took),
            "share": round(sum(took) / span, 3),
            "mean_us": round(sum(took) / len(took) / 1000, 2),
        }
        for (stream, name), took in longest
    ]
