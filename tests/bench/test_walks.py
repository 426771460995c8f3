"""What of the functions that were met counts as the main route of a walk."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.bench import call_trace
from tests.bench.walks import Leg, route

CALLS = {("", "start"): None, ("start", "choose"): None, ("choose", "leaf"): None}
READS = {("", "start"): None, ("start", "read"): None, ("read", "forward"): None}


def test_who_calls_nobody_is_read_by_its_name() -> None:
    assert route([CALLS], Leg("start")) == ["start", "choose"]


def test_a_walk_ends_where_another_one_begins() -> None:
    whole = READS | {("forward", "layer"): None, ("layer", "leaf"): None}
    assert route([whole], Leg("start")) == ["start", "read", "forward", "layer"]
    assert route([whole], Leg("start", until=("forward",))) == ["start", "read", "forward"]


def test_what_is_seldom_met_is_beside_the_route() -> None:
    assert route([CALLS, CALLS, READS], Leg("start")) == ["start", "choose"]
    assert route([CALLS, CALLS, READS], Leg("start", through="forward")) == ["start", "read"]


def test_a_process_notes_each_run_with_who_calls_whom(tmp_path: Path) -> None:
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "own.py").write_text(
        "def leaf(): pass\ndef middle(): leaf()\ndef start(deep):\n    middle() if deep else None\n"
    )
    given = call_trace.environment(tmp_path, tmp_path, ["engine/own.py:start"])
    program = "from own import *; leaf(); start(True); start(False); start(True)"
    given["PYTHONPATH"] += os.pathsep + str(tmp_path / "engine")
    subprocess.run([sys.executable, "-c", program], env=os.environ | given, check=True)
    names = {name: f"engine/own.py:{name}" for name in ("start", "middle", "leaf")}
    deep = {
        ("", names["start"]): None,
        (names["start"], names["middle"]): None,
        (names["middle"], names["leaf"]): None,
    }
    flat = {("", names["start"]): None}
    assert call_trace.runs(tmp_path) == {names["start"]: [deep, flat, deep]}
