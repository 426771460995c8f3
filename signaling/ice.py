"""ICE as we want it of aioice: addresses, ports, consent, a door at each socket. Media worker.

Private names of aioice (pinned to 0.13.0) are used here, in `door` and in `relay`. The hooks are
set on the instances of one peer connection, so nothing else in the process changes;
tests/signaling/test_ice.py fails when one of them is no longer called.
"""

import asyncio
import errno
import ipaddress
import logging
import random
import socket
import time
from collections.abc import Callable
from typing import Any, Literal

import aioice.ice
import aioice.stun
import msgspec
from aioice import Candidate, ConnectionClosed
from aioice.candidate import candidate_foundation, candidate_priority
from aioice.ice import ConnectionEvent
from aiortc import RTCConfiguration

from signaling import sockets
from signaling.awake import AwakeClock
from signaling.datagram_filter import DatagramFilter
from signaling.fragment import Credentials, FragmentPart
from signaling.ice_servers import Resting, ServerUrl, TurnLogin
from signaling.relay import connect_relay
from signaling.restart import IceRestarts

logger = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
UNTOLD = "0.0.0.0", 9
"""What stands for an address of this host that is not told (RFC 8839 section 5.1)."""
CONSENT_REQUEST_S = 1.0
"""About as long as a check waits for its response."""


class IceSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where and how media is reached."""

    addresses: tuple[str, ...] = ()
    """Host addresses or networks (CIDR) to offer; empty offers every address of the host."""
    loopback: Literal["auto", "also", "only", "never"] = "auto"
    """Whether 127.0.0.1 is offered; "auto" offers it when there is no other address, unless
    `addresses` names none of which it is."""
    use_ipv6: bool = True
    port_range: tuple[int, int] | None = None
    """First and last UDP port for media; one is used per call and address."""
    public_addresses: tuple[str, ...] = ()
    """Addresses at which a 1:1 NAT shows this host, offered with the local port."""
    stun: tuple[ServerUrl, ...] = ()
    turn: tuple[ServerUrl, ...] = ()
    turn_login: TurnLogin = TurnLogin()
    policy: Literal["all", "relay"] = "all"
    """relay: no address of this host is offered or used, only those of TURN servers."""
    gather_timeout_s: float = 0.5
    """How long an answer waits for STUN and TURN servers."""
    resting: Resting = msgspec.field(default_factory=Resting)
    """Of the servers above: shared by all calls with these settings."""
    consent_interval_s: float = 1.0
    consent_expiry_s: float = 30.0
    """Without a consent response for this long nothing more is sent (RFC 7675 section 5.1)."""


def configuration() -> RTCConfiguration:
    """Return aiortc's configuration, whose default contains a public STUN server.

    Without any: aiortc uses one of each kind at most, so they are asked in `ConnectionHooks`.
    """
    return RTCConfiguration(iceServers=[])


def host_addresses(settings: IceSettings) -> list[str]:
    """Return the addresses to bind and offer. Raises ValueError for a malformed allow-list."""
    found: list[str] = []
    if settings.loopback != "only":
        found = aioice.ice.get_host_addresses(use_ipv4=True, use_ipv6=settings.use_ipv6)
    networks = [ipaddress.ip_network(a, strict=False) for a in settings.addresses]

    def is_named(address: str) -> bool:
        return not networks or any(ipaddress.ip_address(address) in n for n in networks)

    found = list(filter(is_named, found))
    wants_loopback = settings.loopback in ("also", "only")
    if wants_loopback or (settings.loopback == "auto" and not found and is_named(LOOPBACK)):
        found.append(LOOPBACK)
    return found


class _Protocol(aioice.ice.StunProtocol):
    """aioice's end of a socket or relay, behind the connection's door."""

    def __init__(
        self, connection: Any, door: DatagramFilter, bound: socket.socket | None = None
    ) -> None:
        super().__init__(connection)
        self._door = door
        self._socket = bound
        self._errors = 0

    def datagram_received(self, data: bytes | str, addr: tuple[Any, ...]) -> None:
        assert isinstance(data, bytes)
        self._door.take(self, data, addr)

    def take_stun(self, data: bytes, addr: tuple[str, int]) -> None:
        """Hand aioice what the door let in."""
        super().datagram_received(data, addr)

    def abort(self) -> None:
        """Close at once, without the farewell that a stuck close waits for."""
        relay = getattr(self.transport, "_TurnTransport__inner_protocol", None)
        (self.transport if relay is None else relay.transport).abort()

    def send_stun(self, message: aioice.stun.Message, addr: tuple[str, int]) -> None:
        """Send it, again if an earlier datagram's error (ICMP) was reported in its place."""
        before = self._errors
        super().send_stun(message, addr)
        if self._errors != before:
            super().send_stun(message, addr)

    def error_received(self, exc: Exception) -> None:
        self._errors += 1
        if self._socket is not None:
            self._door.refused(list(sockets.refusals(self._socket)))


class ConnectionHooks:
    """What is replaced on one aioice Connection: gathering, consent, its sockets' ends."""

    def __init__(self, dtls: Any, settings: IceSettings, clock: Callable[[], float]) -> None:
        self.connection = connection = dtls.transport._connection
        self._restarts = IceRestarts(connection)
        self.door = DatagramFilter(connection, self._restarts, lambda: bool(dtls.encrypted), clock)
        self.requests_sent = 0
        self.responses_received = 0
        self.round_trip_s: float | None = None
        self.total_round_trip_s = 0.0
        self._settings = settings
        self._servers = (*settings.stun, *settings.turn)
        self._clock = clock
        connection.get_component_candidates = self._gather
        connection.query_consent = self._keep_consent
        self._aioice_get_event = connection.get_event
        connection.get_event = self._get_event

    @property
    def pair(self) -> Any | None:
        return self.connection._nominated.get(1)

    def is_changed(self, remote: Credentials) -> bool:
        """Return whether these are others of the client's than those in use."""
        return self._restarts.is_changed(remote)

    async def update(self, parts: list[FragmentPart]) -> FragmentPart | None:
        """Take what a fragment says of this connection; our side if that was a restart.

        Raises ProtocolError 409 when the connection is closing.
        """
        credentials = next((part.credentials for part in parts if part.credentials), None)
        ours: Credentials | None = None
        if credentials is not None and self.is_changed(credentials):
            ours = self._restarts.restart(credentials)
            self.door.restarted()
        await self._restarts.add(tuple(line for part in parts for line in part.candidates))
        if ours is None:
            return None
        found = tuple(candidate.to_sdp() for candidate in self.connection.local_candidates)
        return FragmentPart("", ours, found)

    def abort(self) -> None:
        """Close every socket at once."""
        for protocol in self.connection._protocols:
            protocol.abort()

    async def _get_event(self) -> ConnectionEvent:
        # aioice returns None at once when closed, and aiortc asks again for ever, without ever
        # giving the loop back: a connection that closes before its monitor runs freezes all.
        event: ConnectionEvent | None = await self._aioice_get_event()
        return event if event is not None else ConnectionClosed()

    def _protocol(self, bound: socket.socket | None = None) -> _Protocol:
        return _Protocol(self.connection, self.door, bound)

    async def _gather(
        self,
        component: int,
        addresses: list[str],
        timeout: int = 5,  # noqa: ASYNC109  aioice's signature
    ) -> list[Candidate]:
        """Bind one socket per address; same contract as Connection.get_component_candidates."""
        candidates: list[Candidate] = []
        is_hidden = self._settings.policy == "relay"
        offered = [] if is_hidden else host_addresses(self._settings)
        if not offered and not is_hidden:
            logger.warning("none of this host's addresses is one of those to be offered")
        for address in offered:
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
        ports = [0]
        if self._settings.port_range is not None:
            first, last = self._settings.port_range
            ports = random.sample(range(first, last + 1), last + 1 - first)
        bound = sockets.bind(address, ports)
        try:
            _, protocol = await asyncio.get_running_loop().create_datagram_endpoint(
                lambda: self._protocol(bound), sock=bound
            )
        except BaseException:
            bound.close()
            raise
        return protocol

    async def _gather_from_servers(self, component: int) -> list[Candidate]:
        """Ask all servers at once; who does not answer in time is left out for a while."""
        own = [p for p in self.connection._protocols if _version(p.local_candidate.host) == 4]
        awake = [url for url in self._servers if not self._settings.resting.rests(url)]
        asked: dict[asyncio.Task[Candidate], ServerUrl] = {}
        for url in awake:
            if url.is_turn:
                asked[asyncio.create_task(self._ask_for_relay(component, url))] = url
            else:
                asked |= {asyncio.create_task(self._ask_for_address(p, url)): url for p in own}
        if not asked:
            return []
        _, pending = await asyncio.wait(asked, timeout=self._settings.gather_timeout_s)
        for task in pending:
            task.cancel()
        if pending:
            await asyncio.wait(pending)
        found: dict[tuple[str, int], Candidate] = {}
        for url in awake:
            for candidate in self._outcome(url, [task for task in asked if asked[task] is url]):
                found.setdefault((candidate.host, candidate.port), candidate)
        return list(found.values())

    def _outcome(self, url: ServerUrl, tasks: list[asyncio.Task[Candidate]]) -> list[Candidate]:
        """What a server gave; without anything it is left out for a while."""
        given = [t.result() for t in tasks if not t.cancelled() and t.exception() is None]
        if given:
            self._settings.resting.answered(url)
        elif tasks:
            first = tasks[0]
            why = "it did not answer in time" if first.cancelled() else first.exception()
            logger.warning("%s gave no candidate: %s", url.text, why)
            self._settings.resting.failed(url)
        return given

    async def _ask_for_address(self, protocol: Any, url: ServerUrl) -> Candidate:
        server = (url.host, url.port)
        candidate, _ = await aioice.ice.server_reflexive_candidate(protocol, server)
        return candidate

    async def _ask_for_relay(self, component: int, url: ServerUrl) -> Candidate:
        credentials = self._settings.turn_login.credentials(time.time())
        protocol = await connect_relay(url, credentials, self._protocol)
        related = protocol.transport.get_extra_info("related_address")
        if self._settings.policy == "relay":
            related = UNTOLD
        protocol.local_candidate = _candidate("relay", component, protocol, None, related)
        self.connection._protocols.append(protocol)
        candidate: Candidate = protocol.local_candidate
        return candidate

    async def _keep_consent(self) -> None:
        """Ask for consent (RFC 7675); same contract as Connection.query_consent.

        aioice ends the connection after a fixed number of lost checks, which at some per cent of
        packet loss ends live calls within minutes. Here only the time without any response
        counts; a vanished peer is noticed much earlier by the peer's silence watch.
        """
        connection = self.connection
        awake = AwakeClock(max(self._settings.consent_interval_s, CONSENT_REQUEST_S), self._clock)
        heard_at = awake()
        while awake() - heard_at < self._settings.consent_expiry_s:
            await asyncio.sleep(self._settings.consent_interval_s * random.uniform(0.8, 1.2))
            awake()
            for pair in list(connection._nominated.values()):
                generation = self._restarts.of(pair)
                request = connection.build_request(pair, nominate=False)
                names = f"{generation.remote_ufrag}:{generation.ufrag}"
                request.attributes["USERNAME"] = names
                sent_at = time.perf_counter()
                self.requests_sent += 1
                try:
                    await pair.protocol.request(
                        request,
                        pair.remote_addr,
                        integrity_key=(generation.remote_password or "").encode(),
                        retransmissions=1,
                    )
                except aioice.stun.TransactionError:
                    awake()
                    continue
                self.responses_received += 1
                self.round_trip_s = time.perf_counter() - sent_at
                self.total_round_trip_s += self.round_trip_s
                heard_at = awake()
        # close() would otherwise cancel and await the task that is running here.
        connection._query_consent_task = None
        await connection.close()


def _version(address: str) -> int:
    return ipaddress.ip_address(address).version


def _candidate(
    type: str,
    component: int,
    protocol: Any,
    public: str | None,
    related: tuple[str, int] | None = None,
) -> Candidate:
    host, port = protocol.transport.get_extra_info("sockname")[:2]
    if public is not None:
        related = (host, port)
    return Candidate(
        foundation=candidate_foundation(type, "udp", host),
        component=component,
        transport="udp",
        priority=candidate_priority(component, type),
        host=public or host,
        port=port,
        type=type,
        related_address=related[0] if related else None,
        related_port=related[1] if related else None,
    )
