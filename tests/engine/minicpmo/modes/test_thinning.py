"""Pictures under load: looked at less often step by step, and again as before soon after."""

from __future__ import annotations

from engine.minicpmo.modes.thinning import (
    LOWER_AT,
    LOWER_S,
    MOST,
    RAISE_AT,
    RAISE_S,
    Thinning,
)
from tests.waiting import Clock

UNIT_MS = 1_000
RAISE_MS, LOWER_MS = RAISE_AT * UNIT_MS, LOWER_AT * UNIT_MS


def made() -> tuple[Thinning, Clock]:
    clock = Clock()
    return Thinning(UNIT_MS, clock), clock


def steps(thinning: Thinning, clock: Clock, ms: float, seconds: float) -> list[int]:
    """Four units a second that take `ms`; the step after each."""
    found = []
    for _ in range(round(4 * seconds)):
        clock.now += 0.25
        thinning.unit(ms)
        found.append(thinning.step)
    return found


def test_while_units_are_in_time_every_one_looks() -> None:
    thinning, clock = made()
    assert set(steps(thinning, clock, RAISE_MS, 20)) == {0}
    assert all(thinning.looks(slot, unit) for slot in range(8) for unit in range(8))


def test_late_units_thin_pictures_step_by_step_and_not_at_once() -> None:
    thinning, clock = made()
    found = steps(thinning, clock, RAISE_MS + 1, 3 * RAISE_S)
    assert found[0] == 1 and found[-1] == MOST
    assert [found.count(step) for step in (1, 2)] == [RAISE_S * 4] * 2


def test_sessions_take_turns_and_at_the_last_step_nobody_looks() -> None:
    thinning, _ = made()
    for step, share in ((1, 1 / 2), (2, 1 / 4), (MOST, 0)):
        thinning.step = step
        for slot in range(4):
            assert sum(thinning.looks(slot, unit) for unit in range(16)) == 16 * share
        for unit in range(4):
            assert sum(thinning.looks(slot, unit) for slot in range(16)) == 16 * share


def test_after_the_load_it_is_as_before_within_ten_seconds() -> None:
    thinning, clock = made()
    steps(thinning, clock, 2000, 10)
    assert thinning.step == MOST
    found = steps(thinning, clock, LOWER_MS, 10)
    assert found[-1] == 0 and found == sorted(found, reverse=True)


def test_it_stays_where_units_are_neither_late_nor_quick() -> None:
    thinning, clock = made()
    steps(thinning, clock, 2000, 1)
    assert set(steps(thinning, clock, (LOWER_MS + RAISE_MS) / 2, 4 * LOWER_S)) == {1}
