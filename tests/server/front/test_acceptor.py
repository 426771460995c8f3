"""The acceptor: who half-opens connections, floods or stalls them does not keep others out.

A real aiohttp server over loopback, raw sockets, and times made short.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import subprocess
import sys
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import uvloop
from aiohttp import web

from server.front import acceptor, certificates, guest
from server.front.acceptor import FEWEST, SHARE, HttpAcceptor
from server.front.app import take_no_packed_bodies
from server.front.guest import Guest
from signaling.http.proxies import TrustedProxies
from tests.waiting import PATIENCE_S, Clock, until

Open = Callable[[bytes], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
LARGE = 8_000_000


class Entrance:
    """An acceptor with a small application behind it."""

    def __init__(self, tls: ssl.SSLContext | None = None, most: int = 16) -> None:
        self.may_answer = asyncio.Event()
        self.read_bytes = 0
        self._tls = tls
        self._most = most
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Entrance:
        app = web.Application(middlewares=[take_no_packed_bodies])
        app.router.add_get("/", self._hello)
        app.router.add_get("/wait", self._wait)
        app.router.add_get("/large", self._large)
        app.router.add_post("/read", self._read)
        app.router.add_post("/refuse", self._hello)
        self.runner = acceptor.runner(app, 0.1)
        await self.runner.setup()
        assert self.runner.server is not None
        self.acceptor = HttpAcceptor(
            socket.create_server(("127.0.0.1", 0)),
            self.runner.server,
            most=self._most,
            proxies=TrustedProxies(),
            tls=self._tls,
        )
        self._running = asyncio.create_task(self.acceptor.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._running.cancel()
        await asyncio.wait([self._running])
        await self.runner.cleanup()

    async def open(
        self, data: bytes = b"", **more: object
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.acceptor.port, **more)  # type: ignore[arg-type]
        self._writers.append(writer)
        writer.write(data)
        await asyncio.sleep(0.005)
        return reader, writer

    async def status(self, request: bytes = GET) -> int:
        reader, writer = await self.open(request)
        async with asyncio.timeout(PATIENCE_S):
            line = await reader.readline()
        writer.close()
        return int(line.split()[1])

    async def _hello(self, request: web.Request) -> web.Response:
        return web.Response(text="hello")

    async def _wait(self, request: web.Request) -> web.Response:
        await self.may_answer.wait()
        return web.Response(text="at last")

    async def _large(self, request: web.Request) -> web.Response:
        return web.Response(body=bytes(LARGE))

    async def _read(self, request: web.Request) -> web.Response:
        async for chunk in request.content.iter_any():
            self.read_bytes += len(chunk)
        return web.Response(text="read")


async def is_closed(reader: asyncio.StreamReader) -> bool:
    async with asyncio.timeout(PATIENCE_S):
        try:
            while await reader.read(65536):
                pass
        except ConnectionError:
            return True
    return True


def visit(visitors: HttpAcceptor, host: str, clock: Clock) -> Guest:
    """A connection that is one on paper only."""
    one = Guest(
        *(socket.socket(), host, asyncio.Protocol, visitors._phase_of, visitors._lost, clock)
    )
    visitors._guests[one] = visitors._half_open[one] = None
    clock.now += 1
    return one


@pytest.fixture(scope="module")
def event_loop_policy() -> asyncio.AbstractEventLoopPolicy:
    """The loop of the real front, whose transports differ from asyncio's."""
    policy: asyncio.AbstractEventLoopPolicy = uvloop.EventLoopPolicy()
    return policy


@pytest.fixture
async def entrance() -> AsyncIterator[Entrance]:
    async with Entrance() as entrance:
        yield entrance


# ---------------------------------------------------------------- time


@pytest.mark.parametrize("sent", [b"", b"GET / HT", GET[:-2]])
async def test_half_a_request_is_not_kept(
    entrance: Entrance, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setitem(guest.LONGEST_S, "head", 0.2)
    monkeypatch.setattr(acceptor, "SWEEP_S", 0.05)
    reader, _ = await entrance.open(sent)
    assert await is_closed(reader)
    await until(lambda: len(entrance.acceptor) == 0)


async def test_idle_connection_is_kept_a_while_only(
    entrance: Entrance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(guest.LONGEST_S, "head", 0.1)
    monkeypatch.setitem(guest.LONGEST_S, "idle", 1.0)
    monkeypatch.setattr(acceptor, "SWEEP_S", 0.02)
    reader, writer = await entrance.open(GET)
    await reader.readuntil(b"hello")
    await asyncio.sleep(0.3)
    writer.write(GET)
    await reader.readuntil(b"hello")
    assert await is_closed(reader)


async def test_client_that_does_not_read_its_answer_is_left(
    entrance: Entrance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guest, "BLOCKED_S", 0.2)
    monkeypatch.setattr(acceptor, "SWEEP_S", 0.05)
    _, writer = await entrance.open(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    await until(lambda: entrance.acceptor.dismissed == 1)
    assert len(entrance.acceptor) == 0


async def test_request_that_is_being_served_has_no_limit_here(
    entrance: Entrance, monkeypatch: pytest.MonkeyPatch
) -> None:
    for phase in guest.LONGEST_S:
        monkeypatch.setitem(guest.LONGEST_S, phase, 0.05)
    monkeypatch.setattr(acceptor, "SWEEP_S", 0.02)
    reader, _ = await entrance.open(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
    await asyncio.sleep(0.3)
    entrance.may_answer.set()
    assert b"200" in await reader.readline()


# ---------------------------------------------------------------- number


async def test_half_open_connections_keep_nobody_out_and_end_nothing_that_is_served(
    entrance: Entrance,
) -> None:
    served, _ = await entrance.open(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
    half = [(await entrance.open(GET[:-2]))[0] for _ in range(40)]
    assert await entrance.status() == 200
    assert await is_closed(half[0]), "the slowest went"
    assert len(entrance.acceptor) <= 16
    entrance.may_answer.set()
    assert b"200" in await served.readline()


async def test_when_all_places_are_served_newcomers_are_turned_away(entrance: Entrance) -> None:
    for _ in range(16):
        await entrance.open(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
    reader, _ = await entrance.open(GET)
    assert await is_closed(reader)
    entrance.may_answer.set()
    await until(lambda: not any(g.phase == "serving" for g in entrance.acceptor._guests))
    assert await entrance.status() == 200


async def test_one_address_has_a_share_and_proxies_have_all(entrance: Entrance) -> None:
    visitors, clock = entrance.acceptor, Clock()

    def come(host: str, phase: str) -> Guest:
        one = visit(visitors, host, clock)
        if phase == "serving":
            one.serve()
        return one

    served = [come("192.0.2.1", "serving") for _ in range(16 // SHARE)]
    assert not visitors._has_room("192.0.2.1")
    assert visitors._has_room("192.0.2.2") and visitors._has_room("127.0.0.1")
    served[1].answered(is_body_unread=False)
    assert visitors._has_room("192.0.2.1") and list(visitors._guests) == [served[0]]
    come("2001:db8::/64", "serving")
    come("2001:db8::/64", "serving")
    assert not visitors._has_room("2001:db8::77")
    visitors._proxies = TrustedProxies(["2001:db8::/32"])
    assert visitors._has_room("2001:db8::77")
    visitors._guests.clear()
    visitors._half_open.clear()


async def test_who_half_opens_most_goes_first(entrance: Entrance) -> None:
    clock = Clock()
    guests = []
    for host in ("198.51.100.1", "192.0.2.1", "192.0.2.1"):
        guests.append(visit(entrance.acceptor, host, clock))
    assert entrance.acceptor._dismiss_slowest()
    assert list(entrance.acceptor._guests) == [guests[0], guests[2]]
    guests[0].answered(is_body_unread=False)
    assert list(entrance.acceptor._half_open) == [guests[2], guests[0]], "slow since its new phase"
    guests[2].serve()
    counts = entrance.acceptor.counts()
    assert (counts["open"], counts["half_open"], counts["dismissed"]) == (2, 1, 1)
    entrance.acceptor._guests.clear()
    entrance.acceptor._half_open.clear()


async def test_full_table_of_files_costs_half_open_connections_only(
    entrance: Entrance, monkeypatch: pytest.MonkeyPatch
) -> None:
    served, _ = await entrance.open(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
    half, _ = await entrance.open(GET[:-2])
    loop = asyncio.get_running_loop()
    accept, failures = loop.sock_accept, iter([OSError(24, "Too many open files")])

    async def fails_once(listening: socket.socket) -> object:
        for error in failures:
            raise error
        return await accept(listening)

    monkeypatch.setattr(loop, "sock_accept", fails_once)
    await entrance.status()
    assert await entrance.status() == 200
    assert await is_closed(half)
    entrance.may_answer.set()
    assert b"200" in await served.readline()


def test_this_process_may_open_as_many_files_as_the_system_allows() -> None:
    code = (
        "import resource as r; from server.front.acceptor import raise_file_limit;"
        "r.setrlimit(r.RLIMIT_NOFILE, (100, 300));"
        "assert raise_file_limit() == 300 == r.getrlimit(r.RLIMIT_NOFILE)[0]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])
    assert FEWEST > 0


# ---------------------------------------------------------------- bodies


async def test_packed_body_is_refused_and_not_unpacked(entrance: Entrance) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    body = packer.compress(bytes(50_000_000)) + packer.flush()
    head = "POST /read HTTP/1.1\r\nHost: x\r\nContent-Encoding: {}\r\nContent-Length: {}\r\n\r\n"
    for coding in ("gzip", "deflate", "br", "x-nothing", "gzip, identity"):
        assert await entrance.status(head.format(coding, len(body)).encode() + body) == 415
    assert entrance.read_bytes == 0
    assert await entrance.status(head.format("identity", 3).encode() + b"abc") == 200
    assert entrance.read_bytes == 3


async def test_of_a_refused_body_little_is_taken(
    entrance: Entrance, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = await entrance.open(
        b"POST /refuse HTTP/1.1\r\nHost: x\r\nContent-Length: 900000000\r\n\r\n"
    )
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"200" in head and b"Connection: close" in head
    sent = 0
    with pytest.raises(ConnectionError):
        while sent < 100_000_000:
            writer.write(bytes(100_000))
            sent += 100_000
            await writer.drain()
    assert sent < 50_000_000, "what buffers of the system hold"


# ---------------------------------------------------------------- the log


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nA\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"y" * 20_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 500 + b"\r\n",
        b"POST /read HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
        b"POST /refuse HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
        b"POST /refuse HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\nzz\r\n\r\n",
        b"POST /refuse HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n12345",
    ],
)
async def test_malformed_requests_leave_no_line_in_the_log(
    entrance: Entrance, caplog: pytest.LogCaptureFixture, sent: bytes
) -> None:
    with caplog.at_level(logging.INFO):
        reader, writer = await entrance.open(sent)
        writer.write_eof()
        assert await is_closed(reader)
        assert await entrance.status() == 200
    assert [record.getMessage() for record in caplog.records] == []


# ---------------------------------------------------------------- TLS


async def test_handshakes_count_and_have_their_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(acceptor, "SWEEP_S", 0.05)
    made = certificates.ensure(tmp_path, "127.0.0.1")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(made.cert, made.key)
    client = ssl.create_default_context(cafile=str(made.cert))
    async with Entrance(context) as entrance:
        half = [(await entrance.open())[0] for _ in range(30)]
        assert len(entrance.acceptor) <= 16
        reader, writer = await entrance.open(GET, ssl=client, server_hostname="localhost")
        assert b"200" in await reader.readline()
        writer.transport.abort()
        monkeypatch.setitem(guest.LONGEST_S, "head", 0.1)
        for one in half:
            assert await is_closed(one)
        garbage, _ = await entrance.open(GET)
        assert await is_closed(garbage)
        await until(lambda: len(entrance.acceptor) == 0)
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == []
