"""The rule of admission: what an engine can take at its pace, and that it does not flap."""

from __future__ import annotations

import pytest

from engine.admission import HOLD_S, WINDOW_S, Headroom, Pace
from tests.waiting import Clock

SLOTS = 20
UNIT_MS = 1_000


class Load:
    """An engine on paper: `sessions` units a second, each taking `ms`."""

    def __init__(self, sessions: int = 4) -> None:
        self.clock = Clock()
        self.headroom = Headroom(SLOTS, UNIT_MS, self.clock)
        self.sessions = sessions

    def second(self, ms: float, *, dropped_ms: int = 0, pending_ms: float = 900.0) -> Pace:
        self.clock.now += 1.0
        for _ in range(self.sessions):
            self.headroom.unit(ms, dropped_ms)
        return self.headroom.pace(self.sessions, pending_ms)

    def seconds(self, count: int, ms: float) -> list[int]:
        return [self.second(ms).capacity for _ in range(count)]


def test_idle_engine_offers_all_its_slots() -> None:
    assert Headroom(SLOTS, UNIT_MS, Clock()).pace(0, 0.0) == Pace(SLOTS, 0.0, 0.0)


@pytest.mark.parametrize(
    ("ms", "capacity"),
    [(50, SLOTS), (600, SLOTS), (601, 5), (900, 5), (901, 3), (1800, 2), (9000, 1)],
)
def test_pace_decides_how_many_may_come(ms: float, capacity: int) -> None:
    assert Load().second(ms).capacity == capacity


def test_figures_are_those_of_the_last_seconds() -> None:
    load = Load(sessions=10)
    load.second(1500)
    for _ in range(9):
        pace = load.second(100)
    assert pace.unit_p99_ms == 1500 and pace.late_share == 0.1
    for _ in range(2):
        pace = load.second(100)
    assert (pace.unit_p99_ms, pace.late_share) == (100, 0)


def test_lost_sound_admits_nobody_for_ten_seconds() -> None:
    load = Load()
    assert load.second(100, dropped_ms=1000).capacity == 4
    assert load.seconds(int(WINDOW_S), 100) == [4] * int(WINDOW_S)
    assert load.seconds(10, 100)[-1] == SLOTS


def test_sound_that_waits_tells_before_any_unit_is_done() -> None:
    load = Load()
    assert load.headroom.pace(4, 1950.0).capacity == 3
    assert load.headroom.pace(4, 1700.0).capacity == 4
    assert Load().headroom.pace(4, 1700.0).capacity == 5
    assert Load().headroom.pace(4, 1000.0).capacity == SLOTS


def test_one_is_added_and_then_its_figures_are_awaited() -> None:
    load = Load()
    assert load.second(700).capacity == 5
    load.sessions = 5
    found = load.seconds(int(WINDOW_S) + 1, 700)
    assert found[:9] == [5] * 9 and found[-1] == 6
    load.sessions = 3
    assert load.second(700).capacity == 4, "whoever leaves may be replaced by one"


def test_recovery_takes_a_while_and_goes_level_by_level() -> None:
    load = Load()
    load.second(1000)
    found = load.seconds(30, 100)
    assert found[: int(WINDOW_S)] == [3] * int(WINDOW_S)
    tight = [n for n in found if n == 5]
    assert len(tight) >= HOLD_S - 1 and found[-1] == SLOTS
    assert found == sorted(found)


def test_pace_around_a_threshold_does_not_flap() -> None:
    load = Load()
    load.second(650)
    found = {load.second(590 if n % 2 else 610).capacity for n in range(60)}
    assert SLOTS not in found
    found = {load.second(560).capacity for n in range(60)}
    assert SLOTS not in found, "a little better is not enough"
    assert load.seconds(20, 450)[-1] == SLOTS


def test_last_session_that_leaves_frees_the_engine_at_once() -> None:
    load = Load()
    load.second(1500)
    assert load.headroom.pace(0, 0.0).capacity == SLOTS


def test_sessions_without_units_are_not_held_back() -> None:
    load = Load()
    assert [load.headroom.pace(n, 0.0).capacity for n in range(SLOTS + 1)] == [SLOTS] * (SLOTS + 1)


def test_full_engine_says_no_more_than_its_slots_and_fewer_where_units_are_late() -> None:
    load = Load(sessions=SLOTS)
    assert [load.second(ms).capacity for ms in (700, 2000)] == [SLOTS, 9]
