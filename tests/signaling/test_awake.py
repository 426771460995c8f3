"""A clock that leaves out this process's own standstills."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signaling.awake import AwakeClock
from tests.waiting import Clock


@given(st.lists(st.floats(0.0, 2.0), max_size=50))
def test_looks_in_time_see_all_of_the_time(pauses_s: list[float]) -> None:
    clock = Clock()
    awake = AwakeClock(1.0, clock)
    seen = []
    for pause_s in pauses_s:
        clock.now += pause_s
        seen.append(awake())
    assert seen == sorted(seen)
    assert awake() == pytest.approx(sum(pauses_s))


@pytest.mark.parametrize("stood_still_s", [2.1, 60.0, 1e6])
def test_standstill_counts_two_ticks(stood_still_s: float) -> None:
    clock = Clock()
    awake = AwakeClock(1.0, clock)
    clock.now += stood_still_s
    assert awake() == 2.0
    clock.now += 0.5
    assert awake() == 2.5
