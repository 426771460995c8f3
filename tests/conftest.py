"""What the whole run tells of itself."""

from __future__ import annotations

import importlib.util
import os

# Tests run side by side on small tensors: more threads would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_report_header() -> str | None:
    if importlib.util.find_spec("torch") is None:
        return "torch is missing: the native engine is not tested (pip install torch==2.13.0)"
    return None
