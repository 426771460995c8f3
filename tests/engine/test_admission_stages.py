"""Stages: quantiles of the newest durations, bounded in names and in values."""

from __future__ import annotations

import pytest

from engine.admission import KEPT_PER_STAGE, MAX_STAGES, Stages, quantiles
from engine.ipc.supervision import Quantiles


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([5.0], Quantiles(1, 5.0, 5.0, 5.0)),
        ([float(n) for n in range(100, 0, -1)], Quantiles(100, 51.0, 96.0, 100.0)),
        ([1.0, 1.0, 1.0, 1000.12345], Quantiles(4, 1.0, 1000.123, 1000.123)),
    ],
)
def test_quantiles_are_values_that_occurred(values: list[float], expected: Quantiles) -> None:
    assert quantiles(values) == expected


def test_only_the_newest_values_count() -> None:
    stages = Stages()
    for _ in range(KEPT_PER_STAGE):
        stages.add({"asr": 1000.0})
    for _ in range(KEPT_PER_STAGE):
        stages.add({"asr": 1.0})
    assert stages.summary() == {"asr": Quantiles(KEPT_PER_STAGE, 1.0, 1.0, 1.0)}
    assert stages.units == 2 * KEPT_PER_STAGE


def test_number_of_stages_is_bounded_and_the_known_ones_go_on() -> None:
    stages = Stages()
    for n in range(MAX_STAGES + 5):
        stages.add({f"stage{n}": 1.0})
    stages.add({"stage0": 3.0, "another": 1.0})
    summary = stages.summary()
    assert len(summary) == MAX_STAGES and "another" not in summary
    assert summary["stage0"].count == 2


def test_nothing_measured_is_an_empty_summary() -> None:
    stages = Stages()
    stages.add({})
    assert stages.summary() == {} and stages.units == 1
