"""A media worker's links to engines: one per engine, shared; none takes the worker down."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from engine.host import Host
from engine.ipc.engine_client import EngineGone
from engine.ipc.protocol import Refused, SessionConfig
from engine.ipc.transport import encode
from server.control import EngineAddress
from server.engine_links import MAX_DEAD, EngineLinks
from tests.engine.fakes import FakeEngine
from tests.engine.ipc.raw_peer import router
from tests.waiting import PATIENCE_S, until


def hellos(host: Host) -> tuple[bytes, ...]:
    """Who is connected to an engine."""
    return host._listener.peers


class Served:
    """Engines at addresses of their own, and the links of one media worker."""

    def __init__(self, folder: Path, tasks: asyncio.TaskGroup) -> None:
        self.links = EngineLinks("worker-0#1", tasks)
        self.addresses = [EngineAddress(f"engine-{n}", f"ipc://{folder}/{n}.1") for n in range(2)]
        self.hosts: dict[str, Host] = {}

    def start(self, address: EngineAddress) -> Host:
        self.hosts[address.name] = Host(FakeEngine(), address.endpoint, 4)
        return self.hosts[address.name]


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    # A task that fails ends the group and with it the test: as it would end the worker.
    async with asyncio.TaskGroup() as tasks:
        served = Served(tmp_path, tasks)
        yield served
        served.links.close()
    for host in served.hosts.values():
        await host.close()


async def test_calls_share_one_link_to_an_engine(served: Served) -> None:
    one, two = served.addresses
    host = served.start(one)
    served.start(two)
    first, second = await asyncio.gather(served.links.get(one), served.links.get(one))
    assert first is second is await served.links.get(one)
    assert await served.links.get(two) is not first
    assert len(hellos(host)) == 1


async def test_engine_that_refuses_the_link_costs_its_caller_only(served: Served) -> None:
    one, two = served.addresses
    served.start(two)
    with router(one.endpoint) as raw:
        dialling = asyncio.create_task(served.links.get(one))
        raw.send((await raw.receive())[0], encode(Refused("version", "too old")))
        with pytest.raises(EngineGone, match="too old"):
            await dialling
    assert not (await served.links.get(two)).is_gone


async def test_failed_link_is_dialled_anew_by_the_next_call(served: Served) -> None:
    one = served.addresses[0]
    with router(one.endpoint) as raw:
        dialling = asyncio.create_task(served.links.get(one))
        raw.send((await raw.receive())[0], b"\xc1")
        with pytest.raises(EngineGone):
            await dialling
    served.start(one)
    assert not (await served.links.get(one)).is_gone


async def test_address_that_cannot_be_dialled_costs_its_caller_only(served: Served) -> None:
    with pytest.raises(Exception, match="rotocol"):
        await served.links.get(EngineAddress("engine-9", "carrier-pigeon://roof"))
    served.start(served.addresses[0])
    await served.links.get(served.addresses[0])


async def test_caller_that_leaves_does_not_stop_the_dialling_of_another(served: Served) -> None:
    one = served.addresses[0]
    leaving = asyncio.create_task(served.links.get(one))
    staying = asyncio.create_task(served.links.get(one))
    await asyncio.sleep(0)
    leaving.cancel()
    served.start(one)
    assert not (await staying).is_gone
    assert leaving.cancelled()


async def test_engine_known_to_be_dead_is_gone_at_once_and_never_dialled_again(
    served: Served,
) -> None:
    one = served.addresses[0]
    served.start(one)
    client = await served.links.get(one)
    gone: list[str] = []
    await client.open("a", SessionConfig(), on_message=lambda _: None, on_gone=gone.append)
    served.links.lost(one.endpoint, "killed by signal 9")
    served.links.lost("ipc:///nowhere", "killed by signal 9")
    assert gone == ["killed by signal 9"] and client.is_gone
    # A call may have been given this address just before.
    with pytest.raises(EngineGone, match="signal 9"):
        await served.links.get(one)
    next_life = EngineAddress(one.name, one.endpoint.replace(".1", ".2"))
    served.start(next_life)
    assert not (await served.links.get(next_life)).is_gone


async def test_death_that_is_told_before_the_first_dialling_is_known_then(served: Served) -> None:
    one = served.addresses[0]
    served.links.lost(one.endpoint, "killed by signal 9")
    with pytest.raises(EngineGone, match="signal 9"):
        await served.links.get(one)


async def test_the_dead_that_are_remembered_are_bounded(served: Served) -> None:
    for n in range(2 * MAX_DEAD):
        served.links.lost(f"ipc:///nowhere.{n}", "killed by signal 9")
    assert len(served.links._dead) == MAX_DEAD


async def test_engine_known_to_be_dead_is_not_dialled_any_longer(served: Served) -> None:
    one = served.addresses[0]
    dialling = asyncio.create_task(served.links.get(one))
    await asyncio.sleep(0)
    served.links.lost(one.endpoint, "its only thread has died")
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(EngineGone, match="only thread"):
            await dialling


async def test_closing_closes_the_links_and_the_engine_ends_the_sessions(tmp_path: Path) -> None:
    async with asyncio.TaskGroup() as tasks:
        served = Served(tmp_path, tasks)
        host = served.start(served.addresses[0])
        client = await served.links.get(served.addresses[0])
        await client.open("a", SessionConfig(), on_message=lambda _: None, on_gone=lambda _: None)
        assert host.slots.used == 1
        served.links.close()
    assert client.is_gone
    await until(lambda: host.slots.used == 0)
    await host.close()
