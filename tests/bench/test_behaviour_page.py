"""The page of the behaviour bench has a line for each of the speech parts, below one another."""

from __future__ import annotations

from typing import Any

from tests.bench.behaviour.page import page


def figures(wer: float) -> dict[str, Any]:
    silent = {"p50": 250, "p95": 300}
    over = {"cases": 2, "stopped": 2, "silent_ms": silent, "right": 1, "questions": 2}
    return {
        "overlaps": {"interruption": over, "door": {"cases": 2, "stopped": 0, "answered": 0}},
        "turns": {},
        "sentences": {"clean": {"cases": 2, "words": 20, "wer": wer}},
        "false_turns": {"fan": 0},
    }


def test_both_columns_stand_side_by_side() -> None:
    lines = page({"base": figures(0.8), "[voice]": figures(0.1)}).splitlines()
    assert "| interruption | base | 2 | 2 |  | 250 / 300 ms | 1 of 2 |" in lines
    assert (
        lines[lines.index("| clean | base | 2 | 0.800 |") + 1] == "| clean | [voice] | 2 | 0.100 |"
    )
    assert "| fan | [voice] | 0 |" in lines and not [line for line in lines if "a command" in line]
