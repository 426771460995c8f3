"""The front's line to the keeper: nothing is lost while that is busy, nor out of order."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any

import pytest

from server.front import processes
from server.front.processes import KeeperLine, KeptProcesses
from server.keeper.keeper import Inheritance
from server.keeper.messages import Forget, Remember, ToKeeper, packet_pair, take
from tests.waiting import until


def heard(way: socket.socket) -> list[Any]:
    """All that has come, its descriptors closed."""
    messages = []
    while (found := take(way, ToKeeper)) is not None:
        messages.append(found[0])
        for file in found[1]:
            os.close(file)
    return messages


async def test_keeper_that_is_busy_is_told_all_in_order() -> None:
    keeper, ours = packet_pair()
    kept = KeptProcesses(Inheritance(ours, 1, "", (), {}, {}))
    told: list[Any] = []
    for n in range(900):
        kept.remember(f"name {n}", b"x" * 1000)
    # The file may be closed before its copy can be sent.
    file = os.open(os.devnull, os.O_RDONLY)
    kept.remember("a file", b"", file)
    os.close(file)
    kept.forget(*(f"name {n}" for n in range(900)))

    def is_all() -> bool:
        told.extend(heard(keeper))
        return len(told) == 903

    await until(is_all)
    assert [one.name for one in told[:901]] == [*(f"name {n}" for n in range(900)), "a file"]
    gone = [name for one in told[901:] if isinstance(one, Forget) for name in one.names]
    assert gone == [f"name {n}" for n in range(900)], "in messages that are short enough"
    asyncio.get_running_loop().remove_reader(ours.fileno())
    keeper.close()
    ours.close()


async def test_what_waits_for_the_keeper_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "MAX_WAITING", 3)
    keeper, ours = packet_pair()
    line = KeeperLine(ours)
    with pytest.raises(OSError, match="too much waits"):
        for _ in range(100_000):
            line.put(Remember("name", b"x" * 1000))
    asyncio.get_running_loop().remove_writer(ours.fileno())
    keeper.close()
    ours.close()
