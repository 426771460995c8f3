"""What the whole run tells of itself."""

from __future__ import annotations

import gc
import importlib.util
import os

from hypothesis import settings

# Tests mean the same voice and ears wherever they run; those of the extra `voice` ask for it.
os.environ.setdefault("OMNICALL_BUILTIN_SPEECH", "basic")

# Tests run side by side on small tensors: more threads would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A run tries the same examples each time; `--hypothesis-profile=default` draws new ones, as
# `python -m tests.fuzz` does for hours.
settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("repeatable")


def pytest_report_header() -> str | None:
    if importlib.util.find_spec("torch") is None:
        return "torch is missing: the native engine is not tested (pip install torch==2.13.0)"
    return None


def pytest_collection_finish() -> None:
    """Let collections of garbage pass over what is loaded: most of what they would look at."""
    gc.collect()
    gc.freeze()
