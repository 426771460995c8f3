"""Statistics of many calls hold up none of them."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from server.control import CallStats
from server.worker.session import CallSession
from server.worker.worker import stats_of


class Asked:
    """A session that notes how often the loop has done other work when it is asked."""

    def __init__(self, name: str, rounds: list[int], asked: list[int]) -> None:
        self._name, self._rounds, self._asked = name, rounds, asked

    async def stats(self) -> CallStats:
        self._asked.append(self._rounds[0])
        none: dict[str, Any] = {}
        return CallStats(self._name, "active", 1.0, "full_duplex", 0, [], none, 0)


async def test_the_loop_goes_on_between_two_calls_that_are_asked() -> None:
    rounds, asked = [0], list[int]()

    def tick() -> None:
        rounds[0] += 1
        asyncio.get_running_loop().call_soon(tick)

    tick()
    sessions = [Asked(name, rounds, asked) for name in ("a", "b", "c")]
    found = await stats_of(cast(list[CallSession], sessions))
    assert [stats.call_id for stats in found] == ["a", "b", "c"]
    assert asked == sorted(set(asked))
