"""The page of the behaviour bench has a line for each of the speech parts, below one another."""

from __future__ import annotations

from typing import Any

from tests.bench.behaviour.page import page
from tests.bench.behaviour.sentences import errors
from tests.bench.behaviour.transport import WRAP, ahead_ms


def figures(wer: float) -> dict[str, Any]:
    silent = {"p50": 250, "p95": 300}
    over = {"cases": 2, "stopped": 2, "silent_ms": silent, "right": 1, "questions": 2}
    return {
        "overlaps": {"interruption": over, "door": {"cases": 2, "stopped": 0, "answered": 0}},
        "turns": {},
        "sentences": {"clean": {"cases": 2, "words": 20, "wer": wer}},
        "false_turns": {"fan": 0},
        "clock": {"after 600 s": -1.5},
        "loss": {"5 %": {"plcmos": 4.1, "fall": 0.12}, "10 %": {}},
    }


def test_both_columns_stand_side_by_side() -> None:
    lines = page({"base": figures(0.8), "[voice]": figures(0.1)}).splitlines()
    assert "| interruption | base | 2 | 2 |  | 250 / 300 ms | 1 of 2 |" in lines
    assert (
        lines[lines.index("| clean | base | 2 | 0.800 |") + 1] == "| clean | [voice] | 2 | 0.100 |"
    )
    assert "| 5 % | base | 4.1 | 0.12 |" in lines and "| 10 % | base |  |  |" in lines
    assert "| after 600 s | base | -1.5 |" in lines
    assert "| fan | [voice] | 0 |" in lines and not [line for line in lines if "a command" in line]


def test_a_stream_that_falls_behind_is_told_however_its_packets_are_delayed() -> None:
    """20 ms in 30 s, over a wrap of the timestamps, each other packet late by 100 ms."""
    slow = 1 + 0.02 / 30
    stamps = [
        (100 + n * 0.02 * slow + n % 2 * 0.1, (WRAP - 5_000 + n * 960) % WRAP) for n in range(1_501)
    ]
    ahead = ahead_ms(stamps)
    assert ahead is not None and -20 <= ahead <= -12
    assert ahead_ms([(100 + n * 0.02, n * 960) for n in range(1_501)]) == 0
    assert ahead_ms([]) is None


def test_numbers_are_the_same_in_figures_and_in_letters() -> None:
    assert errors("at half past nine fifty six people came", "At 9:30, 56 people came.") == 0
    assert errors("seven or twenty", "8 or 20") == 1
