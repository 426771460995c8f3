"""What an engine process takes of the machine: which GPU, how many cores. Works without torch."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, MutableMapping

from engine.base import EngineError

VISIBLE = "CUDA_VISIBLE_DEVICES"
THREADS = "OMP_NUM_THREADS"
MOST_THREADS = 8
COUNT_TIMEOUT_S = 60.0

_COUNT = """
import ctypes
cuda, count = ctypes.CDLL("libcuda.so.1"), ctypes.c_int()
print(count.value if cuda.cuInit(0) == cuda.cuDeviceGetCount(ctypes.byref(count)) == 0 else 0)
"""


def count_gpus() -> int:
    """GPUs that CUDA shows here. Asked in a process of its own: CUDA reads `VISIBLE` only once."""
    try:
        told = subprocess.run(
            [sys.executable, "-c", _COUNT],
            capture_output=True,
            text=True,
            timeout=COUNT_TIMEOUT_S,
            check=True,
        )
        return int(told.stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return 0


def see_only(
    index: int,
    environment: MutableMapping[str, str] = os.environ,
    count: Callable[[], int] = count_gpus,
) -> None:
    """Have this process see the GPU `index` alone, as its first; before anything loads CUDA.

    Without any GPU nothing happens. Raises `EngineError` if there are some, but not so many.
    """
    found = count()
    if not found:
        return
    if index >= found:
        raise EngineError(
            f"there is no GPU for engine {index}: CUDA shows {found}; set engine.count to {found} "
            "or less"
        )
    listed = [name.strip() for name in environment.get(VISIBLE, "").split(",") if name.strip()]
    environment[VISIBLE] = listed[index] if listed else str(index)


def bound_threads(
    environment: MutableMapping[str, str] = os.environ, cores: int | None = None
) -> None:
    """Have torch compute on half of the cores at most; before anything loads it.

    The thread that thinks and the one that speaks have a pool each, and its threads wait for each
    other at every step: with one more than there are free cores a step takes many times as long.
    What the user has set stays.
    """
    cores = cores or len(os.sched_getaffinity(0))
    environment.setdefault(THREADS, str(max(1, min(cores // 2, MOST_THREADS))))
