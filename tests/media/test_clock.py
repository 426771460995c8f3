"""The shared ticker: absolute schedule, no bursts after a stall, groups, subscribers."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from media.clock import PHASES, Ticker


class FakeTimers:
    """An event loop's timers in virtual time."""

    def __init__(self) -> None:
        self.now = 50.0
        self.pending: list[tuple[float, Callable[[], None]]] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], None], /) -> Any:
        entry = (when, callback)
        self.pending.append(entry)

        class Handle:
            def cancel(handle) -> None:  # noqa: N805
                self.pending.remove(entry)

        return Handle()

    def run_to(self, when: float, late_s: float = 0.0) -> None:
        while self.pending and min(self.pending)[0] + late_s <= when:
            due, callback = min(self.pending, key=lambda entry: entry[0])
            self.pending.remove((due, callback))
            self.now = max(self.now, due + late_s)
            callback()
        self.now = when


def test_ticks_keep_an_absolute_schedule_however_late_the_loop_is() -> None:
    timers, times = FakeTimers(), list[float]()
    ticker = Ticker(phases=1, timers=timers)
    ticker.subscribe(lambda: times.append(timers.now))
    timers.run_to(60.0, late_s=0.007)
    assert len(times) == 499
    assert times[-1] == pytest.approx(50.007 + 499 * 0.02)
    assert ticker.skipped_ticks == 0


@pytest.mark.parametrize("phases", [1, 4])
def test_after_a_stall_it_goes_on_without_a_burst(phases: int) -> None:
    timers, times = FakeTimers(), list[float]()
    ticker = Ticker(phases=phases, timers=timers)
    ticker.subscribe(lambda: times.append(timers.now))
    timers.run_to(51.0)
    before = len(times)
    timers.now = 51.5
    timers.run_to(51.5)
    assert len(times) - before <= 1
    assert ticker.skipped_ticks in (23, 24, 25)
    timers.run_to(52.5)
    after = [t for t in times if t > 51.5]
    assert len(after) == pytest.approx(50, abs=1)
    # On the same grid as before the stall.
    assert (after[-1] - times[0]) % 0.02 == pytest.approx(0, abs=1e-6) or (
        after[-1] - times[0]
    ) % 0.02 == pytest.approx(0.02, abs=1e-6)


def test_subscribers_are_spread_over_the_phases() -> None:
    timers = FakeTimers()
    times: dict[int, list[float]] = {i: [] for i in range(8)}
    ticker = Ticker(phases=4, timers=timers)
    for i in range(8):
        ticker.subscribe(lambda i=i: times[i].append(timers.now))  # type: ignore[misc]
    timers.run_to(51.0)
    firsts = sorted(t[0] for t in times.values())
    assert firsts[0] == firsts[1] < firsts[2]
    assert len(set(firsts)) == 4
    for ticks in times.values():
        gaps = [b - a for a, b in zip(ticks, ticks[1:], strict=False)]
        assert gaps == pytest.approx([0.02] * len(gaps))


def test_what_calls_send_is_spread_although_each_subscribes_for_what_it_hears_too() -> None:
    timers = FakeTimers()
    ticker, sent_at = Ticker(timers=timers), list[float]()
    for _ in range(4 * PHASES):
        ticker.subscribe(lambda: sent_at.append(timers.now))
        ticker.subscribe(lambda: None)
    timers.run_to(50.0201)
    assert sorted(Counter(sent_at).values()) == [4] * PHASES


def test_unsubscribed_callbacks_stop_and_the_timer_with_the_last() -> None:
    timers, ticks = FakeTimers(), list[int]()
    ticker = Ticker(phases=4, timers=timers)
    unsubscribe = ticker.subscribe(lambda: ticks.append(1))
    timers.run_to(50.1)
    count = len(ticks)
    unsubscribe()
    unsubscribe()
    timers.run_to(50.5)
    assert len(ticks) == count
    assert timers.pending == []
    ticker.subscribe(lambda: ticks.append(2))
    timers.run_to(50.6)
    assert ticks[-1] == 2


def test_failing_callback_is_logged_and_leaves_the_others_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    timers, ticks = FakeTimers(), list[int]()
    ticker = Ticker(phases=1, timers=timers)

    def fail() -> None:
        raise ZeroDivisionError

    ticker.subscribe(fail)
    ticker.subscribe(lambda: ticks.append(1))
    with caplog.at_level(logging.ERROR):
        timers.run_to(50.1)
    assert len(caplog.records) == 1
    assert len(ticks) >= 4
    assert ticker.num_subscribers == 1


async def test_it_runs_on_a_real_loop_and_closes() -> None:
    ticker = Ticker()
    ticked = asyncio.Event()
    ticker.subscribe(ticked.set)
    await asyncio.wait_for(ticked.wait(), 5)
    ticker.close()
    assert ticker.num_subscribers == 0
