"""Patience: silence is summed over checks, and one's own standstill is nobody else's death."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.ipc.patience import Patience, patiently
from tests.waiting import Clock


def test_silence_beyond_the_limit_is_noticed_at_the_next_check() -> None:
    clock = Clock()
    patience = Patience(4.0, clock=clock)
    found = []
    for _ in range(6):
        clock.now += 1.0
        found.append(patience.check())
    assert found == [False, False, False, False, True, True]
    assert patience.silent_s == 6.0


def test_sign_starts_the_count_anew() -> None:
    clock = Clock()
    patience = Patience(4.0, clock=clock)
    for _ in range(20):
        clock.now += 3.5
        patience.sign()
        clock.now += 0.5
        assert not patience.check()
    assert patience.silent_s == 0.5


@pytest.mark.parametrize("stood_still_s", [2.5, 4.6, 8.0, 3600.0, 1e9])
def test_standstill_of_the_watcher_counts_two_ticks(stood_still_s: float) -> None:
    clock = Clock()
    patience = Patience(4.0, clock=clock)
    clock.now += stood_still_s
    assert not patience.check()
    assert patience.silent_s == 2.0


@settings(max_examples=30)
@given(st.lists(st.floats(0.9, 1.1), min_size=20, max_size=40), st.floats(3.0, 1000.0))
def test_one_standstill_never_kills_who_is_alive_and_never_saves_who_is_dead(
    ticks: list[float], stood_still_s: float
) -> None:
    clock = Clock()
    alive, dead = Patience(6.0, clock=clock), Patience(6.0, clock=clock)
    verdicts = []
    for n, tick_s in enumerate(ticks):
        clock.now += tick_s + (stood_still_s if n == 2 else 0.0)
        # What came in the standstill is read after the check.
        assert not alive.check()
        alive.sign()
        verdicts.append(dead.check())
    assert verdicts[-1], "20 ticks are more than the limit"
    assert not any(verdicts[:4]), "before the limit nobody is dead"


async def test_answer_in_time_is_returned_and_its_error_raised() -> None:
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[int] = loop.create_future()
    loop.call_soon(answer.set_result, 7)
    assert await patiently(answer, 5.0) == 7
    failed: asyncio.Future[int] = loop.create_future()
    loop.call_soon(failed.set_exception, OSError("gone"))
    with pytest.raises(OSError, match="gone"):
        await patiently(failed, 5.0)


async def test_missing_answer_is_a_timeout_and_the_future_stays_usable() -> None:
    answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    with pytest.raises(TimeoutError):
        await patiently(answer, 0.02)
    assert not answer.done()
    answer.set_result(1)


async def test_answer_that_came_in_a_standstill_is_in_time() -> None:
    """The loop finds the time over and the answer there: the clock jumps 8 s in the first tick."""
    clock = Clock()
    answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(patiently(answer, 5.0, tick_s=0.01, clock=clock))
    await asyncio.sleep(0)
    clock.now += 8.0
    await asyncio.sleep(0.05)
    assert not waiting.done(), "8 s of standstill were taken for 8 s of silence"
    answer.set_result(3)
    assert await waiting == 3


async def test_wait_that_is_cancelled_leaves_the_future_alone() -> None:
    answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(patiently(answer, 5.0))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not answer.cancelled()
