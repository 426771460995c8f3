"""The WebSocket of a session over a real socket pair: messages, bounds, ends."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import uvloop
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN, Protocol, Side

from signaling import websocket as module
from signaling.websocket import WebSocketLink
from tests.waiting import Clock, until

HEAD = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"


class Far:
    """The client's end."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.protocol = Protocol(Side.CLIENT, state=OPEN, max_size=None)
        self.texts: list[str] = []
        self.is_over = False

    async def send(self, *texts: str) -> None:
        for text in texts:
            self.protocol.send_text(text.encode())
        await self.flush()

    async def flush(self) -> None:
        loop = asyncio.get_running_loop()
        for data in self.protocol.data_to_send():
            if data:
                await loop.sock_sendall(self._sock, data)

    async def read(self) -> None:
        """Read until the end, and answer goodbyes and pings."""
        try:
            await self._read()
        except OSError:
            # The other end closed while something was on its way.
            pass
        self.is_over = True

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        data = await loop.sock_recv(self._sock, 65_536)
        assert data.startswith(HEAD)
        data = data[len(HEAD) :]
        while not self.is_over:
            if data:
                self.protocol.receive_data(data)
            for event in self.protocol.events_received():
                if isinstance(event, Frame) and event.opcode is Opcode.TEXT:
                    self.texts.append(bytes(event.data).decode())
            await self.flush()
            data = await loop.sock_recv(self._sock, 65_536)
            self.is_over = not data


class Rig:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.received: list[str] = []
        self.gone: list[str] = []
        self.link = WebSocketLink(HEAD, received=self.take, gone=self.gone.append, clock=clock)

    def take(self, text: str) -> None:
        self.received.append(text)
        if text == "fail":
            raise RuntimeError("a bug")


@asynccontextmanager
async def linked(
    *, reads: bool = True, clock: Callable[[], float] = time.monotonic
) -> AsyncIterator[tuple[Rig, Far]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    rig, far = Rig(clock), Far(theirs)
    await asyncio.get_running_loop().connect_accepted_socket(lambda: rig.link, ours)
    reading = asyncio.create_task(far.read()) if reads else None
    try:
        yield rig, far
    finally:
        await rig.link.close(1000)
        if reading is not None:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        theirs.close()


@pytest.mark.parametrize("turns", range(4))
def test_connection_that_has_failed_is_left_alone(turns: int) -> None:
    """However many turns of the loop ago: uvloop raises at whoever writes to what is closed."""

    async def check() -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        rig, loop = Rig(), asyncio.get_running_loop()
        transport, _ = await loop.connect_accepted_socket(lambda: rig.link, ours)
        transport.abort()
        for _ in range(turns):
            await asyncio.sleep(0)
        rig.link.send("more")
        await rig.link.close(1000)
        rig.link._check()
        assert not rig.link.send("late") and len(rig.gone) == 1
        theirs.close()

    uvloop.run(check())


async def test_messages_go_both_ways_also_in_fragments() -> None:
    async with linked() as (rig, far):
        await far.send("one", "two ü")
        far.protocol.send_text(b"thr", fin=False)
        far.protocol.send_ping(b"")
        far.protocol.send_continuation(b"ee", fin=True)
        far.protocol.send_binary(b'{"json": 1}')
        await far.flush()
        await until(lambda: rig.received == ["one", "two ü", "three", '{"json": 1}'])
        assert rig.link.send("answer")
        await until(lambda: far.texts == ["answer"])
        assert (rig.link.messages_received, rig.link.messages_sent) == (4, 1)


async def test_close_says_why_and_is_waited_for() -> None:
    async with linked() as (rig, far):
        await rig.link.close(1013, "full")
        assert far.protocol.close_rcvd is not None
        assert (far.protocol.close_rcvd.code, far.protocol.close_rcvd.reason) == (1013, "full")
        assert rig.gone == ["full"] and not rig.link.send("late")


async def test_whoever_runs_answers_a_probe_and_who_is_frozen_grows_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Who is frozen does not say goodbye.
    monkeypatch.setattr(module, "CLOSE_S", 0.01)
    clock = Clock()
    for runs in (True, False):
        async with linked(reads=runs, clock=clock) as (rig, _):
            await until(lambda: rig.link.is_open)  # noqa: B023 - waited for here
            clock.now += 5
            assert rig.link.silent_s >= 5
            rig.link.probe()
            if runs:
                await until(lambda: rig.link.silent_s == 0)  # noqa: B023 - waited for here
            else:
                assert rig.link.silent_s >= 5


async def test_client_that_says_goodbye_has_closed_and_one_that_does_not_vanished() -> None:
    async with linked() as (rig, far):
        far.protocol.send_close(1000)
        await far.flush()
        await until(lambda: rig.gone == ["closed"])
    async with linked() as (rig, far):
        far._sock.shutdown(socket.SHUT_RDWR)
        await until(lambda: rig.gone == ["vanished"])


@pytest.mark.parametrize(
    "data",
    [b"GET / HTTP/1.1\r\n\r\n", b"\x81\x05hello", b"\x83\x80\0\0\0\0", b"\xff\xff\xff\xff"],
    ids=["http", "unmasked", "reserved opcode", "noise"],
)
async def test_what_is_no_frame_ends_the_connection(data: bytes) -> None:
    async with linked() as (rig, far):
        await asyncio.get_running_loop().sock_sendall(far._sock, data)
        await until(lambda: rig.gone == ["malformed"])
        await until(lambda: far.is_over)


async def test_message_beyond_the_bound_ends_the_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_MESSAGE_BYTES", 1000)
    async with linked() as (rig, far):
        await far.send("x" * 1001)
        await until(lambda: rig.gone == ["malformed"])
        assert rig.received == []
        await until(lambda: far.protocol.close_rcvd is not None)
        assert far.protocol.close_rcvd is not None and far.protocol.close_rcvd.code == 1009


async def test_client_that_reads_nothing_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_UNSENT_BYTES", 100_000)
    async with linked(reads=False) as (rig, _):
        sent = 0
        while rig.link.send("x" * 10_000):
            sent += 1
            assert sent < 1000
        assert rig.gone == ["too_slow"]


async def test_flood_is_read_more_slowly_and_nothing_of_it_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in (("MESSAGE_BYTES", 1000), ("BYTES_BURST", 100_000), ("BYTES_PER_S", 2e6)):
        monkeypatch.setattr(module, name, value)
    async with linked() as (rig, far):
        begun = asyncio.get_running_loop().time()
        sending = asyncio.create_task(far.send(*(f"{n}" for n in range(500))))
        await until(lambda: len(rig.received) == 500)
        # 500 kB of which 100 kB are free.
        assert asyncio.get_running_loop().time() - begun > 0.15
        assert rig.received == [f"{n}" for n in range(500)]
        await sending


async def test_bug_in_who_takes_a_message_ends_this_connection_only() -> None:
    async with linked() as (rig, far):
        await far.send("fail", "more")
        await until(lambda: rig.gone == ["internal_error"])
        assert rig.received == ["fail"]
