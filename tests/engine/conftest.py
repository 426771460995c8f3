"""A tiny random checkpoint, written once per run, and the golden set that a run may be given.

The native engine needs torch; without it none of its tests is collected, and the header says so.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

HAS_TORCH = importlib.util.find_spec("torch") is not None

collect_ignore = [] if HAS_TORCH else ["dsp", "gpu", "minicpmo"]


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.tiny_checkpoint import write_checkpoint

    return write_checkpoint(tmp_path_factory.mktemp("tiny"), seed=3)


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """The set that OMNICALL_GOLDEN names; a test that needs one is skipped without it."""
    folder = os.environ.get("OMNICALL_GOLDEN")
    if not folder:
        pytest.skip("OMNICALL_GOLDEN names no golden set")
    return Path(folder)
