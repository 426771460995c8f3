"""Statistics of many calls hold up none of them."""

from __future__ import annotations

from typing import Any, cast

import pytest

from server.control import CallStats
from server.front.child_stats import STATS_TIMEOUT_S
from server.worker.session import CallSession
from server.worker.worker import stats_of


class Asked:
    """A session that notes that it is asked."""

    def __init__(self, name: str, asked: list[str]) -> None:
        self._name, self._asked = name, asked

    async def stats(self) -> CallStats:
        self._asked.append(self._name)
        none: dict[str, Any] = {}
        return CallStats(self._name, "active", 1.0, "full_duplex", 0, [], none, 0)


@pytest.mark.parametrize("count", [3, 40, 400])
async def test_calls_are_asked_apart_and_all_in_half_the_time_that_the_front_waits(
    count: int,
) -> None:
    asked: list[str] = []
    pauses: list[float] = []

    async def sleep(pause_s: float) -> None:
        pauses.append(pause_s)
        assert len(asked) == len(pauses), "each has its pause"

    sessions = [Asked(str(number), asked) for number in range(count)]
    found = await stats_of(cast(list[CallSession], sessions), sleep)
    assert [stats.call_id for stats in found] == asked == [str(n) for n in range(count)]
    assert 0 < max(pauses) <= 0.01
    assert sum(pauses) <= STATS_TIMEOUT_S / 2
