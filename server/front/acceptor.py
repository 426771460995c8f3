"""Accept HTTP connections and keep room for those that ask for something.

A connection that is not being served is half open: before or within its headers, idle, or leaving.
It is dropped when its time is over (`server.front.guest`), or before that when there are too many:
the one that has been so for longest, of the address that has most. What is served stays.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import ssl
from collections import Counter
from collections.abc import Callable

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from server.front.guest import HEAD_S, IDLE_S, LINGER_S, Guest
from signaling.awake import AwakeClock
from signaling.http.proxies import TrustedProxies, neighbourhood, parse_address

log = logging.getLogger(__name__)

SPARE_FILES = 64
"""Descriptors that connections leave to everything else."""
FEWEST = 8
SHARE = 8
"""One address may have this part of all connections; trusted proxies and this machine any."""
SWEEP_S = 0.5
ACCEPT_PAUSE_S = 0.05
COMPLAINT_S = 60.0
TLS_GOODBYE_S = 2.0

# What clients do to their connections is no news, and no traceback.
_CLIENTS_FAULTS = (HttpProcessingError, web.RequestPayloadError, ConnectionError)
http_log = logging.getLogger(f"{__name__}.http")
http_log.addFilter(
    lambda record: not (record.exc_info and isinstance(record.exc_info[1], _CLIENTS_FAULTS))
)


def raise_file_limit() -> int:
    """Let this process and its children open as many files as the system allows; how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard if hard != resource.RLIM_INFINITY else 1 << 20


def runner(app: web.Application, grace_s: float) -> web.AppRunner:
    """Serve `app` behind an acceptor: bodies stay packed, clients' faults are not logged."""
    return web.AppRunner(
        app,
        shutdown_timeout=grace_s,
        access_log=None,
        logger=http_log,
        auto_decompress=False,
        keepalive_timeout=IDLE_S,
        lingering_time=LINGER_S,
    )


class HttpAcceptor:
    """Owns every connection from its acceptance to its end."""

    def __init__(
        self,
        listening: socket.socket,
        server: web.Server,
        *,
        most: int,
        proxies: TrustedProxies,
        tls: ssl.SSLContext | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.dismissed = 0
        """Connections that were ended or refused from here."""
        self._listening = listening
        self._listening.setblocking(False)
        self._server = server
        self._handle = server.request_handler
        server.request_handler = self._serve
        self._most = most
        self._proxies = proxies
        self._tls = tls
        self._clock = clock or AwakeClock(SWEEP_S)
        self._guests: dict[Guest, None] = {}
        self._half_open: dict[Guest, None] = {}
        """The slowest first."""
        self._by_protocol: dict[asyncio.Protocol, Guest] = {}
        self._complained_at = -COMPLAINT_S

    @property
    def port(self) -> int:
        return int(self._listening.getsockname()[1])

    def __len__(self) -> int:
        return len(self._guests)

    def counts(self) -> dict[str, int]:
        """Return what `/api/stats` shows of the connections."""
        return {
            "open": len(self._guests),
            "half_open": len(self._half_open),
            "most": self._most,
            "dismissed": self.dismissed,
        }

    async def run(self) -> None:
        """Accept until cancelled."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._sweep(), name="sweep")
                while True:
                    try:
                        sock, address = await loop.sock_accept(self._listening)
                    except OSError as error:
                        self._complain(error)
                        self._dismiss_slowest()
                        await asyncio.sleep(ACCEPT_PAUSE_S)
                        continue
                    if self._has_room(str(address[0])):
                        tasks.create_task(self._welcome(sock, str(address[0])), name="welcome")
                    else:
                        self.dismissed += 1
                        sock.close()
        finally:
            self._listening.close()

    async def _welcome(self, sock: socket.socket, address: str) -> None:
        def make_inner() -> asyncio.Protocol:
            inner = self._server()
            self._by_protocol[inner] = guest
            return inner

        guest = Guest(
            *(sock, neighbourhood(address), make_inner, self._phase_of, self._lost, self._clock)
        )
        self._guests[guest] = self._half_open[guest] = None
        limits = {"ssl_handshake_timeout": HEAD_S, "ssl_shutdown_timeout": TLS_GOODBYE_S}
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: guest, sock, ssl=self._tls, **(limits if self._tls else {})
            )
        except OSError as error:
            log.debug("a connection from %s came to nothing: %s", guest.host, error)
        except Exception:  # noqa: BLE001 - the boundary: no stranger's handshake may end the server
            log.exception("a connection failed")
        finally:
            if guest.transport is None:
                self._lost(guest)
                sock.close()

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        guest = self._by_protocol.get(request.protocol)
        if guest is None:
            return await self._handle(request)
        guest.serve()
        try:
            response = await self._handle(request)
            if not request.content.is_eof():
                response.force_close()
            return response
        finally:
            guest.answered(is_body_unread=not request.content.is_eof())

    def _phase_of(self, guest: Guest) -> None:
        self._half_open.pop(guest, None)
        if guest.is_half_open and guest in self._guests:
            self._half_open[guest] = None

    def _lost(self, guest: Guest) -> None:
        self._guests.pop(guest, None)
        self._half_open.pop(guest, None)
        if guest.inner is not None:
            self._by_protocol.pop(guest.inner, None)

    def _complain(self, error: OSError) -> None:
        if self._clock() - self._complained_at >= COMPLAINT_S:
            self._complained_at = self._clock()
            log.warning("cannot accept a connection: %s", error.strerror)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            for guest in [guest for guest in self._guests if guest.is_overdue()]:
                self._dismiss(guest)

    def _has_room(self, address: str) -> bool:
        """Return whether another connection fits, ending half-open ones if needed."""
        host, parsed = neighbourhood(address), parse_address(address)
        is_local = parsed is not None and parsed.is_loopback
        if not is_local and not self._proxies.trusts(address):
            mine = sum(guest.host == host for guest in self._guests)
            if mine >= max(1, self._most // SHARE) and not self._dismiss_slowest(host):
                return False
        if len(self._half_open) >= max(1, self._most // 2) or len(self._guests) >= self._most:
            return self._dismiss_slowest()
        return True

    def _dismiss_slowest(self, host: str | None = None) -> bool:
        """End a half-open connection of `host`, else of the host with most, if there is one."""
        if host is None and self._half_open:
            [(host, _)] = Counter(guest.host for guest in self._half_open).most_common(1)
        slowest = next((guest for guest in self._half_open if guest.host == host), None)
        if slowest is not None:
            self._dismiss(slowest)
        return slowest is not None

    def _dismiss(self, guest: Guest) -> None:
        self.dismissed += 1
        # Its transport tells of the end a moment later; until then it counts no more.
        self._lost(guest)
        guest.dismiss()
