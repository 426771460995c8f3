"""Waiting for others: one deadline over many waits, and a queue that drops its oldest."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

from engine.builtin.gate import Dropped, Gate, WaitBudget
from tests.virtual_time import run

T = TypeVar("T")


def test_only_a_restart_buys_time() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        patience = WaitBudget(10.0)
        for _ in range(3):
            async with patience.wait():
                await asyncio.sleep(3)
        # Between waits there is no hurry.
        await asyncio.sleep(100)
        begun = loop.time()
        with pytest.raises(TimeoutError):
            async with patience.wait():
                await asyncio.sleep(3)
        assert loop.time() - begun == pytest.approx(1)
        patience.restart()
        async with patience.wait():
            await asyncio.sleep(9)
        patience.hurry(0.5)
        begun = loop.time()
        with pytest.raises(TimeoutError):
            async with patience.wait():
                await asyncio.sleep(3)
        return loop.time() - begun

    assert run(main) == pytest.approx(0.5)


async def hold(gate: Gate, seconds: float, patience_s: float = 100.0) -> str:
    try:
        async with gate.admit(WaitBudget(patience_s)):
            await asyncio.sleep(seconds)
            return "served"
    except Dropped:
        return "dropped"
    except TimeoutError:
        return "late"


def all_at_once(*work: Callable[[], Awaitable[str]]) -> list[str]:
    async def main() -> list[str]:
        async with asyncio.TaskGroup() as group:

            async def one(part: Callable[[], Awaitable[str]]) -> str:
                return await part()

            tasks = [group.create_task(one(part)) for part in work]
        return [task.result() for task in tasks]

    return run(main)


def test_of_too_many_the_oldest_waiting_is_dropped() -> None:
    gate = Gate(2, 3)
    assert all_at_once(*[lambda: hold(gate, 1)] * 8) == [
        *["served"] * 2,
        *["dropped"] * 3,
        *["served"] * 3,
    ]
    # The load is gone: everybody is served again.
    assert all_at_once(*[lambda: hold(gate, 1)] * 5) == ["served"] * 5


def test_who_waits_too_long_leaves_and_takes_no_place() -> None:
    gate = Gate(1, 9)
    found = all_at_once(
        lambda: hold(gate, 5),
        lambda: hold(gate, 1, 2.0),
        lambda: hold(gate, 1),
        lambda: hold(gate, 1),
    )
    assert found == ["served", "late", "served", "served"]


def test_a_cancelled_holder_and_a_cancelled_waiter_free_their_places() -> None:
    async def main() -> str:
        gate = Gate(1, 9)
        tasks = [asyncio.ensure_future(hold(gate, 1000)) for _ in range(3)]
        await asyncio.sleep(1)
        # The second is given the place in the moment in which it is cancelled.
        tasks[0].cancel()
        await asyncio.sleep(0)
        tasks[1].cancel()
        tasks[2].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return await hold(gate, 1)

    assert run(main) == "served"
