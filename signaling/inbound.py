"""What comes decrypted from one peer: counted, bounded, and paid for with CPU time. Media worker.

What its own peer may send is authenticated, not harmless: aiortc parses and answers control traffic
(RTCP, SCTP, messages on the data channel) on the event loop that all calls share. Here each packet
is judged before aiortc's loops, its CPU time is taken from a budget, the loop is given back after
it, and who exceeds the budget loses his own call.

RTCDtlsTransport's private names (aiortc is pinned to 1.16.0) are used in this file.
"""

import asyncio
import logging
import struct
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pylibsrtp
from aiortc import RTCSctpTransport
from aiortc.rtcdtlstransport import State
from aiortc.rtp import (
    RTCP_RTPFB_NACK,
    RTP_HISTORY_SIZE,
    RtcpPacket,
    RtcpRtpfbPacket,
    RtpPacket,
    is_rtcp,
)
from OpenSSL import SSL

from signaling.association import Association
from signaling.budget import CpuBudget
from signaling.hooking import finish, replace
from signaling.ratelimit import TokenBucket
from signaling.sound_packet import SoundPacket, read_sound, ssrc_of

logger = logging.getLogger(__name__)

DATAGRAMS_PER_TURN = 16
"""Datagrams handled before other tasks get the loop: reading a filled queue never waits."""
MAX_REPORTS = 32
"""RTCP packets in one compound packet."""
MAX_SOURCES = 256
"""Synchronization sources of one call: libsrtp keeps a context of each for ever."""
RETRANSMISSIONS_PER_S = 100.0
RETRANSMISSIONS_BURST = 200.0
CIPHERS = b":".join(
    f"ECDHE-{kind}-{cipher}".encode()
    for cipher in ("AES128-GCM-SHA256", "CHACHA20-POLY1305", "AES128-SHA", "AES256-SHA")
    for kind in ("ECDSA", "RSA")
)


def prepare_certificate(pc: Any) -> None:
    """Let a peer with an RSA certificate connect, and none ask for handshake after handshake.

    As DTLS client aiortc offers suites for ECDSA servers only; Chromium can have either
    certificate (RTCPeerConnection.generateCertificate). Call before any description is set.
    """
    (certificate,) = pc._RTCPeerConnection__certificates

    def create(srtp_profiles: Any) -> SSL.Context:
        context: SSL.Context = original(srtp_profiles)
        context.set_cipher_list(CIPHERS)
        context.set_options(SSL.OP_NO_RENEGOTIATION)
        return context

    original = replace(certificate, "_create_ssl_context", create)


class Inbound:
    """Guards what one RTCDtlsTransport decrypts; `exceeded` is called when the call must end.

    `sctp` is the association that the transport carries, if any.
    """

    def __init__(
        self,
        dtls: Any,
        sctp: RTCSctpTransport | None,
        exceeded: Callable[[], None],
        clock: Callable[[], float],
        cpu_time: Callable[[], float] = time.thread_time,
    ) -> None:
        self.heard = 0
        """Packets of the peer that were decrypted."""
        self.dropped: Counter[str] = Counter()
        """What was not handled, by reason."""
        self._dtls = dtls
        self._exceeded = exceeded
        self._clock = clock
        self._cpu_time = cpu_time
        self._budget = CpuBudget()
        self._retransmissions = TokenBucket(RETRANSMISSIONS_PER_S, RETRANSMISSIONS_BURST)
        self._sources: set[int] = set()
        self._turn = 0
        self._is_over = False
        self._association: Association | None = None
        replace(dtls, "_handle_rtp_data", self._receive_queued)
        replace(dtls, "_handle_rtcp_data", self._receive_rtcp)
        self._recv = replace(dtls.transport, "_recv", self._next_datagram)
        self._send_data = replace(dtls, "_send_data", self._send)
        if sctp is not None:
            self._association = Association(sctp, self._count, self._end)
            replace(sctp, "_handle_data", self._receive_sctp)

    @property
    def has_left(self) -> bool:
        """Whether the peer ended its SCTP association: a client that closes does."""
        return self._association is not None and self._association.has_left

    @property
    def is_delivered(self) -> bool:
        """Whether the peer has acknowledged all events that were sent to it."""
        return self._association is None or self._association.is_delivered

    async def _next_datagram(self) -> bytes:
        self._turn += 1
        if self._turn % DATAGRAMS_PER_TURN == 0:
            await asyncio.sleep(0)
        data: bytes = await self._recv()
        return data

    async def _send(self, data: bytes) -> None:
        """From its farewell to its end aiortc's transport says that it is connected, and is not."""
        try:
            await self._send_data(data)
        except SSL.Error as error:
            raise ConnectionError("Cannot send encrypted data, not connected") from error

    def take_media(self, data: bytes) -> bool:
        """Handle an SRTP packet at once; False for any other, and before the connection is made.

        Through aioice's queue, and the tasks that wait behind it, each packet of 20 ms would cost
        half as much again.
        """
        dtls = self._dtls
        if dtls._state is not State.CONNECTED or is_rtcp(data):
            return False
        dtls._RTCDtlsTransport__rx_bytes += len(data)
        dtls._RTCDtlsTransport__rx_packets += 1
        try:
            plain = dtls._rx_srtp.unprotect(data)
        except pylibsrtp.Error:
            self._count("undecipherable")
        else:
            self._receive_rtp(plain)
        return True

    async def _receive_queued(self, data: bytes, arrival_time_ms: int) -> None:
        """What waited in the queue while the connection was made."""
        del arrival_time_ms
        try:
            self._receive_rtp(data)
        except Exception as error:  # noqa: BLE001 - the boundary: aiortc would end the connection
            self._failed(error)

    def _receive_rtp(self, data: bytes) -> None:
        self.heard += 1
        ssrc, router = ssrc_of(data), self._dtls._rtp_router
        if not self._is_known_source(ssrc):
            return
        known = router.ssrc_table.get(ssrc)
        packet: SoundPacket | RtpPacket
        try:
            if known is not None and known.track.kind == "audio":
                packet = read_sound(data)
            else:
                packet = RtpPacket.parse(data, self._dtls._rtp_header_extensions_map)
        except (ValueError, struct.error):
            self._count("malformed_rtp")
            return
        receiver = router.route_rtp(packet)
        if receiver is not None:
            # None of what takes packets waits for anything.
            finish(receiver._handle_rtp_packet(packet, round(1000 * self._clock())))

    async def _receive_rtcp(self, data: bytes) -> None:
        # The sender's SSRC, under which libsrtp has filed the packet.
        if self._is_known_source(int.from_bytes(data[4:8])):
            await self._pay(self._handle_rtcp(data))

    async def _receive_sctp(self, packet: bytes) -> None:
        assert self._association is not None
        if not self._is_over:
            await self._pay(self._association.receive(packet))

    async def _handle_rtcp(self, data: bytes) -> None:
        for packet in RtcpPacket.parse(data)[:MAX_REPORTS]:
            if isinstance(packet, RtcpRtpfbPacket) and packet.fmt == RTCP_RTPFB_NACK:
                packet.lost = self._admitted(packet.lost)
            for recipient in self._dtls._rtp_router.route_rtcp(packet):
                await recipient._handle_rtcp_packet(packet)

    def _admitted(self, lost: list[int]) -> list[int]:
        """Return which of the packets asked for are sent again: each once, at a bounded rate."""
        now = self._clock()
        wanted = dict.fromkeys(lost[:RTP_HISTORY_SIZE])
        return [number for number in wanted if self._retransmissions.take(now)]

    async def _pay(self, handling: Awaitable[None]) -> None:
        """Handle one packet of control traffic at the call's cost, then let others go on."""
        self.heard += 1
        began = self._cpu_time()
        try:
            await handling
        except ConnectionError:
            # The end of the connection, for aiortc to handle.
            raise
        except Exception as error:  # noqa: BLE001 - the boundary: aiortc raises on what a peer sends
            self._failed(error)
        pause_s = self._budget.spend(self._clock(), self._cpu_time() - began)
        if self._budget.is_exceeded:
            self._end()
        else:
            await asyncio.sleep(pause_s)

    def _is_known_source(self, ssrc: int) -> bool:
        if self._is_over:
            return False
        self._sources.add(ssrc)
        if len(self._sources) > MAX_SOURCES:
            self._end()
        return not self._is_over

    def _failed(self, error: Exception) -> None:
        if not self.dropped["failed"]:
            logger.warning("a packet failed; more of this call's are only counted: %r", error)
        self._count("failed")

    def _count(self, reason: str) -> None:
        self.dropped[reason] += 1

    def _end(self) -> None:
        if not self._is_over:
            self._is_over = True
            self._exceeded()
