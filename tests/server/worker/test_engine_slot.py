"""A session that is given engines which are dead already."""

from __future__ import annotations

import asyncio
from typing import Any

from server.control import EngineAddress, SlotWanted
from server.engine_links import EngineLinks
from server.worker.engine_slot import MAX_TRIES, RETRY_S, EngineSlot
from server.worker.engine_way import EngineWay
from tests import virtual_time

DEAD = EngineAddress("engine-0", "ipc:///nowhere/engine-0.1")


class PaperConversation:
    session_id = "rtc_1"


def test_another_engine_is_asked_for_some_times_and_then_the_caller_is_told() -> None:
    async def check() -> None:
        ends: list[str] = []
        conversation: Any = PaperConversation()
        async with asyncio.TaskGroup() as tasks:
            links = EngineLinks("worker-0#1", tasks)
            links.lost(DEAD.endpoint, "killed by signal 9")

            def front(message: Any) -> None:
                asked.append((asyncio.get_running_loop().time(), message))
                slot.assign(DEAD)

            asked: list[tuple[float, Any]] = []
            slot = EngineSlot(
                conversation,
                EngineWay(),
                links,
                front,
                on_gone=lambda: None,
                on_again=lambda: None,
                end=ends.append,
            )
            slot.assign(DEAD)
            assert not await slot.obtain()
        assert ends == ["engine_gone"]
        assert [message for _, message in asked] == [SlotWanted("rtc_1")] * (MAX_TRIES - 1)
        assert asked[-1][0] - asked[0][0] > (MAX_TRIES - 3) * RETRY_S

    virtual_time.run(check)
