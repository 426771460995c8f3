"""Slots of chats: beside those of calls, in turn, with a deadline, and told honestly."""

from __future__ import annotations

import asyncio

import pytest

from server.config import ChatConfig
from server.control import EngineAddress
from server.front.broker import Broker
from server.front.chat_queue import UNKNOWN_WAIT_S, ChatQueue, TooManyChats
from signaling.errors import NoFreeSlot
from tests.waiting import Clock

ONE = EngineAddress("engine-0", "ipc:///one")


class Rig:
    def __init__(self, slots: int = 3, chat_slots: int = 1, **limits: float) -> None:
        self.clock = Clock()
        self.broker = Broker(16, self.clock)
        self.broker.engine_up(ONE, slots, None, chat_slots)
        config = ChatConfig(**({"max_queue": 2, "wait_s": 5.0} | limits))  # type: ignore[arg-type]
        self.freed = 0
        self.queue = ChatQueue(self.broker, config, self._free, self.clock)

    def _free(self) -> None:
        self.freed += 1

    def hold(self, caller: str = "someone") -> asyncio.Task[EngineAddress]:
        """A chat that goes on until its task is cancelled."""
        return asyncio.create_task(self._hold(caller))

    async def _hold(self, caller: str) -> EngineAddress:
        async with self.queue.place((caller,)):
            await asyncio.Event().wait()
        raise AssertionError


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def end(*tasks: asyncio.Task[EngineAddress]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_calls_never_take_the_slots_of_chats_nor_the_reverse() -> None:
    rig = Rig(slots=3, chat_slots=1)
    assert (rig.broker.slots, rig.broker.chat_slots) == (2, 1)
    calls = [rig.broker.request(f"call-{n}") for n in range(3)]
    assert calls[:2] == [ONE, ONE] and not isinstance(calls[2], EngineAddress)
    chat = rig.hold()
    await settle()
    assert (rig.broker.chats, rig.broker.used) == (1, 2)
    await end(chat)
    assert rig.broker.chats == 0 and rig.freed == 1
    assert rig.broker.assignments() == []


async def test_chats_wait_while_calls_are_late() -> None:
    rig = Rig(slots=4, chat_slots=2)
    rig.broker.request("call")
    rig.broker.set_capacity("engine-0", 1)
    chat = rig.hold()
    await settle()
    assert (rig.broker.chats, rig.queue.num_waiting) == (0, 1)
    rig.broker.set_capacity("engine-0", 4)
    rig.queue.pump()
    await settle()
    assert rig.broker.chats == 1
    await end(chat)


async def test_chat_counts_where_an_engine_serves_fewer_than_it_has_slots() -> None:
    rig = Rig(slots=4, chat_slots=2)
    chat = rig.hold()
    await settle()
    rig.broker.set_capacity("engine-0", 2)
    assert rig.broker.capacity == 1
    await end(chat)
    assert rig.broker.capacity == 2


async def test_who_waits_is_served_in_turn() -> None:
    rig = Rig()
    first, second, third = rig.hold(), rig.hold(), rig.hold()
    await settle()
    assert rig.queue.num_waiting == 2
    await end(first)
    await settle()
    assert rig.queue.num_waiting == 1 and rig.broker.chats == 1
    await end(second, third)
    assert rig.broker.chats == 0 and rig.queue.num_waiting == 0


async def test_full_queue_refuses_with_the_wait_that_is_known() -> None:
    rig = Rig()
    held = [rig.hold() for _ in range(3)]
    await settle()
    with pytest.raises(NoFreeSlot) as caught:
        async with rig.queue.place(("other",)):
            pass
    assert caught.value.retry_after_s == UNKNOWN_WAIT_S
    await end(*held)
    async with rig.queue.place(("other",)):
        rig.clock.now += 7
    held = [rig.hold() for _ in range(3)]
    await settle()
    with pytest.raises(NoFreeSlot) as caught:
        async with rig.queue.place(("other",)):
            pass
    assert caught.value.retry_after_s == 21
    await end(*held)


async def test_no_slot_in_time_is_told() -> None:
    rig = Rig(wait_s=0.01)
    held = rig.hold()
    await settle()
    with pytest.raises(NoFreeSlot):
        async with rig.queue.place(("other",)):
            pass
    assert rig.queue.num_waiting == 0
    await end(held)


async def test_one_caller_has_a_bound_of_its_own() -> None:
    rig = Rig(max_per_remote=1)
    held = rig.hold("one")
    await settle()
    with pytest.raises(TooManyChats) as caught:
        async with rig.queue.place(("one",)):
            pass
    assert (caught.value.status, caught.value.retry_after_s) == (429, UNKNOWN_WAIT_S)
    other = rig.hold("two")
    await settle()
    assert rig.queue.num_waiting == 1
    await end(held, other)


async def test_slot_of_a_client_that_left_while_it_was_granted_comes_back() -> None:
    rig = Rig()
    first, second = rig.hold(), rig.hold()
    await settle()
    first.cancel()
    second.cancel()
    await asyncio.gather(first, second, return_exceptions=True)
    assert rig.broker.chats == 0
    third = rig.hold()
    await settle()
    assert rig.broker.chats == 1
    await end(third)
