"""ICE as we want it of aioice: addresses, ports, consent, datagrams counted. Media worker.

All access to private names of aioice (pinned to 0.13.0) is in this file. The hooks are set on the
instances of one peer connection, so nothing else in the process changes;
tests/signaling/test_ice.py fails when one of them is no longer called.
"""

import asyncio
import errno
import ipaddress
import itertools
import logging
import random
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

import aioice.ice
import aioice.stun
import aioice.turn
import msgspec
from aioice import Candidate, ConnectionClosed
from aioice.candidate import candidate_foundation, candidate_priority
from aioice.ice import ConnectionEvent
from aiortc import RTCConfiguration, RTCIceServer, RTCPeerConnection

logger = logging.getLogger(__name__)

MAX_QUEUED_DATAGRAMS = 2048
MAX_BACKLOG_BYTES = 1024 * 1024
LOOPBACK = "127.0.0.1"


class IceSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where and how media is reached."""

    addresses: tuple[str, ...] = ()
    """Host addresses or networks (CIDR) to offer; empty offers every address of the host."""
    loopback: Literal["auto", "also", "only", "never"] = "auto"
    """Whether 127.0.0.1 is offered; "auto" offers it when there is no other address."""
    use_ipv6: bool = True
    port_range: tuple[int, int] | None = None
    """First and last UDP port for media; one is used per call and address."""
    public_addresses: tuple[str, ...] = ()
    """Addresses at which a 1:1 NAT shows this host, offered with the local port."""
    stun_url: str | None = None
    turn_url: str | None = None
    turn_username: str | None = None
    turn_password: str | None = None
    gather_timeout_s: float = 2.0
    """How long an answer waits for STUN and TURN servers."""
    consent_interval_s: float = 1.0
    consent_expiry_s: float = 30.0
    """Without a consent response for this long nothing more is sent (RFC 7675 section 5.1)."""


def configuration(settings: IceSettings) -> RTCConfiguration:
    """Return aiortc's configuration; never its default, which contains a public STUN server."""
    servers = []
    if settings.stun_url:
        servers.append(RTCIceServer(urls=settings.stun_url))
    if settings.turn_url:
        servers.append(
            RTCIceServer(
                urls=settings.turn_url,
                username=settings.turn_username,
                credential=settings.turn_password,
            )
        )
    return RTCConfiguration(iceServers=servers)


def host_addresses(settings: IceSettings) -> list[str]:
    """Return the addresses to bind and offer. Raises ValueError for a malformed allow-list."""
    found: list[str] = []
    if settings.loopback != "only":
        found = aioice.ice.get_host_addresses(use_ipv4=True, use_ipv6=settings.use_ipv6)
    if settings.addresses:
        networks = [ipaddress.ip_network(a, strict=False) for a in settings.addresses]
        found = [a for a in found if any(ipaddress.ip_address(a) in n for n in networks)]
    wants_loopback = settings.loopback in ("also", "only")
    if wants_loopback or (settings.loopback == "auto" and not found):
        found = [*found, LOOPBACK]
    return found


class _CountingProtocol(aioice.ice.StunProtocol):
    """aioice's socket end that also counts datagrams, STUN included."""

    hooks: "_ConnectionHooks"

    def datagram_received(self, data: bytes | str, addr: tuple[Any, ...]) -> None:
        self.hooks.datagrams += 1
        super().datagram_received(data, addr)


class _ConnectionHooks:
    """What is replaced on one aioice Connection: gathering, consent, the receive queue."""

    def __init__(self, connection: Any, settings: IceSettings, clock: Callable[[], float]) -> None:
        self.connection = connection
        self.datagrams = 0
        self.datagrams_dropped = 0
        self.requests_sent = 0
        self.responses_received = 0
        self.round_trip_s: float | None = None
        self.total_round_trip_s = 0.0
        self._settings = settings
        self._clock = clock
        connection.get_component_candidates = self._gather
        connection.query_consent = self._keep_consent
        connection.data_received = self._data_received
        self._aioice_get_event = connection.get_event
        connection.get_event = self._get_event

    @property
    def pair(self) -> Any | None:
        return self.connection._nominated.get(1)

    async def _get_event(self) -> ConnectionEvent:
        # aioice returns None at once when closed, and aiortc asks again for ever, without ever
        # giving the loop back: a connection that closes before its monitor runs freezes all.
        event: ConnectionEvent | None = await self._aioice_get_event()
        return event if event is not None else ConnectionClosed()

    def _data_received(self, data: bytes, component: int) -> None:
        # aioice's queue has no bound and is filled before anybody is authenticated.
        if self.connection._queue.qsize() >= MAX_QUEUED_DATAGRAMS:
            self.datagrams_dropped += 1
            return
        self.connection._queue.put_nowait((data, component))

    def _protocol(self) -> Any:
        protocol = _CountingProtocol(self.connection)
        protocol.hooks = self
        return protocol

    async def _gather(
        self,
        component: int,
        addresses: list[str],
        timeout: int = 5,  # noqa: ASYNC109  aioice's signature
    ) -> list[Candidate]:
        """Bind one socket per address; same contract as Connection.get_component_candidates."""
        candidates: list[Candidate] = []
        for address in host_addresses(self._settings):
            try:
                protocol = await self._bind(address)
            except OSError as error:
                logger.warning("no media port on %s: %s", address, error)
                continue
            self.connection._protocols.append(protocol)
            protocol.local_candidate = _candidate("host", component, protocol, None)
            candidates.append(protocol.local_candidate)
            candidates += [
                _candidate("srflx", component, protocol, public)
                for public in self._settings.public_addresses
                if _version(public) == _version(address) and public != address
            ]
        candidates += await self._gather_from_servers(component)
        if not candidates:
            raise OSError(errno.EADDRNOTAVAIL, "no address and port for media")
        return candidates

    async def _bind(self, address: str) -> Any:
        loop = asyncio.get_running_loop()
        ports = [0]
        if self._settings.port_range is not None:
            first, last = self._settings.port_range
            ports = random.sample(range(first, last + 1), last + 1 - first)
        for port in ports:
            try:
                transport, protocol = await loop.create_datagram_endpoint(
                    self._protocol, local_addr=(address, port)
                )
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                continue
            receiver = transport.get_extra_info("socket")
            if receiver is not None:
                size = aioice.turn.UDP_SOCKET_BUFFER_SIZE
                receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
            return protocol
        raise OSError(errno.EADDRINUSE, f"all media ports {self._settings.port_range} are taken")

    async def _gather_from_servers(self, component: int) -> list[Candidate]:
        connection = self.connection
        tasks: list[asyncio.Task[tuple[Candidate, Any]]] = []
        if connection.stun_server:
            tasks += [
                asyncio.create_task(
                    aioice.ice.server_reflexive_candidate(protocol, connection.stun_server)
                )
                for protocol in connection._protocols
                if _version(protocol.local_candidate.host) == 4
            ]
        if connection.turn_server:
            relayed = aioice.ice.relayed_candidate(
                component=component,
                hide_related_address=False,
                protocol_factory=self._protocol,
                turn_server=connection.turn_server,
                turn_username=connection.turn_username,
                turn_password=connection.turn_password,
                turn_ssl=connection.turn_ssl,
                turn_transport=connection.turn_transport,
            )
            tasks.append(asyncio.create_task(relayed))
        if not tasks:
            return []
        done, pending = await asyncio.wait(tasks, timeout=self._settings.gather_timeout_s)
        for task in pending:
            task.cancel()
        if pending:
            await asyncio.wait(pending)
        found = []
        for task in done:
            if error := task.exception():
                logger.warning("a STUN or TURN server gave no candidate: %s", error)
                continue
            candidate, relay = task.result()
            found.append(candidate)
            if relay is not None:
                connection._protocols.append(relay)
        return found

    async def _keep_consent(self) -> None:
        """Ask for consent (RFC 7675); same contract as Connection.query_consent.

        aioice ends the connection after a fixed number of lost checks, which at some per cent of
        packet loss ends live calls within minutes. Here only the time without any response
        counts; a vanished peer is noticed much earlier by the peer's silence watch.
        """
        connection = self.connection
        heard_at = self._clock()
        while self._clock() - heard_at < self._settings.consent_expiry_s:
            await asyncio.sleep(self._settings.consent_interval_s * random.uniform(0.8, 1.2))
            for pair in list(connection._nominated.values()):
                request = connection.build_request(pair, nominate=False)
                sent_at = time.perf_counter()
                self.requests_sent += 1
                try:
                    await pair.protocol.request(
                        request,
                        pair.remote_addr,
                        integrity_key=connection.remote_password.encode(),
                        retransmissions=1,
                    )
                except aioice.stun.TransactionError:
                    continue
                self.responses_received += 1
                self.round_trip_s = time.perf_counter() - sent_at
                self.total_round_trip_s += self.round_trip_s
                heard_at = self._clock()
        # close() would otherwise cancel and await the task that is running here.
        connection._query_consent_task = None
        await connection.close()


def _version(address: str) -> int:
    return ipaddress.ip_address(address).version


def _candidate(type: str, component: int, protocol: Any, public: str | None) -> Candidate:
    host, port = protocol.transport.get_extra_info("sockname")[:2]
    return Candidate(
        foundation=candidate_foundation(type, "udp", host),
        component=component,
        transport="udp",
        priority=candidate_priority(component, type),
        host=public or host,
        port=port,
        type=type,
        related_address=host if public else None,
        related_port=port if public else None,
    )


class Wire:
    """The UDP side of one peer connection: hooks aioice before gathering, counts datagrams after.

    Create it between setRemoteDescription and setLocalDescription.
    """

    def __init__(
        self, pc: RTCPeerConnection, settings: IceSettings, clock: Callable[[], float]
    ) -> None:
        self._pc = pc
        self._hooks = {
            connection: _ConnectionHooks(connection, settings, clock)
            for connection in _connections(pc)
        }

    @property
    def datagrams(self) -> int:
        """Datagrams received so far, connectivity checks and consent responses included."""
        return sum(hooks.datagrams for hooks in self._hooks.values())

    @property
    def datagrams_dropped(self) -> int:
        return sum(hooks.datagrams_dropped for hooks in self._hooks.values())

    def is_flooded(self) -> bool:
        """Return whether the client ignores SCTP's receive window by more than MAX_BACKLOG_BYTES.

        aiortc advertises the window but keeps whatever arrives, so unfinished messages would grow.
        """
        sctp = self._pc.sctp
        return sctp is not None and sctp._advertised_rwnd < -MAX_BACKLOG_BYTES

    def candidate_pairs(self) -> Iterator[tuple[str, Any, dict[str, Any]]]:
        """Yield transport id, aioice pair and RTCIceCandidatePairStats members per connection."""
        for transport in _dtls_transports(self._pc):
            hooks = self._hooks.get(transport.transport._connection)
            if hooks is None or hooks.pair is None:
                continue
            stats: dict[str, Any] = {
                "nominated": True,
                "state": "succeeded",
                "requestsSent": hooks.requests_sent,
                "responsesReceived": hooks.responses_received,
                "totalRoundTripTime": hooks.total_round_trip_s,
            }
            if hooks.round_trip_s is not None:
                stats["currentRoundTripTime"] = hooks.round_trip_s
            yield transport._stats_id, hooks.pair, stats

    def abort(self) -> None:
        """Close every socket at once, without the farewell that a stuck close waits for."""
        for connection in self._hooks:
            for protocol in connection._protocols:
                protocol.transport.abort()


def _dtls_transports(pc: RTCPeerConnection) -> list[Any]:
    found: list[Any] = [t.receiver.transport for t in pc.getTransceivers()]
    if pc.sctp is not None:
        found.append(pc.sctp.transport)
    return list(dict.fromkeys(found))


def _connections(pc: RTCPeerConnection) -> list[Any]:
    ice_transports = [dtls.transport for dtls in _dtls_transports(pc)]
    return list(dict.fromkeys(itertools.chain(t._connection for t in ice_transports)))
