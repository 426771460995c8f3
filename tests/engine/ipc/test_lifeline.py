"""What goes first when memory runs out: recognisers, then engines and workers, the front last."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from engine.ipc.lifeline import (
    OOM_ENGINE,
    OOM_FORKSERVER,
    OOM_MOST,
    OOM_RECOGNISER,
    OOM_WORKER,
)
from tests import ROOT

SCORE = Path("/proc/self/oom_score_adj")

pytestmark = [
    pytest.mark.loopback,
    pytest.mark.skipif(not SCORE.exists(), reason="Linux only"),
]


def score_after(*raises: int) -> int:
    """Of a new process that raises its score so."""
    code = (
        "from engine.ipc.lifeline import go_before_parent\n"
        + "".join(f"go_before_parent({more})\n" for more in raises)
        + f"print(open({str(SCORE)!r}).read())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    return int(done.stdout)


def test_children_stand_above_their_parent_and_recognisers_above_all() -> None:
    ours = int(SCORE.read_text())
    worker, engine = score_after(OOM_WORKER), score_after(OOM_ENGINE)
    recogniser = score_after(OOM_ENGINE, OOM_FORKSERVER, OOM_RECOGNISER)
    assert ours < worker < recogniser and ours < engine < recogniser


def test_score_stays_in_its_bounds() -> None:
    assert score_after(OOM_MOST, OOM_MOST) == OOM_MOST
