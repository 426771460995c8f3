"""Media ports to the last of their range, under both event loops; what the kernel reports."""

import asyncio
import errno
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from signaling import sockets
from signaling.ice import IceSettings
from signaling.peer import Peer
from tests.signaling.offers import CHROMIUM_OFFER
from tests.signaling.rtc import Recorder, SilentTrack
from tests.waiting import PATIENCE_S

Runner = Callable[[Coroutine[Any, Any, Any]], Any]


def is_usable(address: str) -> bool:
    try:
        sockets.bind(address, [0]).close()
    except OSError:
        return False
    return True


def free_range(size: int) -> tuple[int, int]:
    """The first of some ports in a row that nobody has, and the last."""
    for first in range(20_000, 30_000, size):
        found = []
        try:
            found = [sockets.bind("127.0.0.1", [first + i]) for i in range(size)]
            return first, first + size - 1
        except OSError:
            continue
        finally:
            for bound in found:
                bound.close()
    raise AssertionError("no free ports")


ADDRESSES = [
    "127.0.0.1",
    pytest.param("::1", marks=pytest.mark.skipif(not is_usable("::1"), reason="no IPv6 here")),
]
LOOPS = pytest.mark.parametrize("run", [uvloop.run, asyncio.run], ids=["uvloop", "asyncio"])


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_taken_port_is_passed_over_and_none_left_is_an_error(address: str) -> None:
    with sockets.bind(address, [0]) as taken, sockets.bind(address, [0]) as other:
        port = taken.getsockname()[1]
        free = other.getsockname()[1]
        other.close()
        with sockets.bind(address, [port, free]) as found:
            assert found.getsockname()[1] == free
        with pytest.raises(OSError, match="all media ports are taken") as caught:
            sockets.bind(address, [port])
        assert caught.value.errno == errno.EADDRINUSE


def test_other_errors_are_told() -> None:
    with pytest.raises(OSError) as caught:
        sockets.bind("192.0.2.77", [0])
    assert caught.value.errno == errno.EADDRNOTAVAIL


@LOOPS
def test_a_range_serves_as_many_calls_as_it_has_ports(run: Runner) -> None:
    first, last = free_range(4)
    settings = IceSettings(loopback="only", port_range=(first, last))

    async def fill() -> list[int]:
        peers = [Peer(f"rtc_{i}", settings, Recorder()) for i in range(4)]
        ports = []
        for peer in peers:
            answer = await peer.answer(CHROMIUM_OFFER, downlink=SilentTrack())
            line = next(x for x in answer.splitlines() if x.startswith("a=candidate:"))
            ports.append(int(line.split()[5]))
        one_more = Peer("rtc_more", settings, Recorder())
        with pytest.raises(OSError, match="no address and port"):
            await one_more.answer(CHROMIUM_OFFER, downlink=SilentTrack())
        for peer in peers:
            await peer.close()
        return ports

    assert sorted(run(fill())) == list(range(first, last + 1))


class Noting(asyncio.DatagramProtocol):
    def __init__(self, bound: socket.socket) -> None:
        self.refused: list[tuple[str, int]] = []
        self._bound = bound

    def error_received(self, exc: Exception) -> None:
        self.refused += sockets.refusals(self._bound)


@pytest.mark.loopback
@LOOPS
@pytest.mark.parametrize("address", ADDRESSES)
def test_a_closed_port_is_reported_by_its_host(run: Runner, address: str) -> None:
    async def ask() -> list[tuple[str, int]]:
        bound = sockets.bind(address, [0])
        with sockets.bind(address, [0]) as nobody:
            where = nobody.getsockname()[:2]
        transport, protocol = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: Noting(bound), sock=bound
        )
        async with asyncio.timeout(PATIENCE_S):
            while len(protocol.refused) < 2:
                transport.sendto(b"anybody there?", where)
                await asyncio.sleep(0.02)
        transport.close()
        assert set(protocol.refused) == {where}
        return protocol.refused

    assert run(ask())
