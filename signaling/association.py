"""Bounds on the SCTP association of one peer, set on aiortc's instance. Media worker.

Each loop of aiortc's over a queue, a stream or a list gets its bound here; RTCSctpTransport's
private names (aiortc is pinned to 1.16.0) are used in this file. tests/signaling/test_inbound.py
fails when a hook is no longer called.
"""

import contextlib
from collections.abc import Callable
from typing import Any

from aiortc import RTCDataChannel, RTCDataChannelParameters
from aiortc.rtcsctptransport import (
    WEBRTC_BINARY,
    WEBRTC_BINARY_EMPTY,
    WEBRTC_DCEP,
    WEBRTC_STRING,
    WEBRTC_STRING_EMPTY,
    DataChunk,
    ForwardTsnChunk,
    RTCSctpTransport,
    SackChunk,
)

from signaling import sctp
from signaling.hooking import replace

_MESSAGES = (WEBRTC_STRING, WEBRTC_STRING_EMPTY, WEBRTC_BINARY, WEBRTC_BINARY_EMPTY)

MAX_STREAMS = 64
MAX_MISORDERED = 256
"""Chunks kept behind a gap: each new one sorts them all, and a report names them."""
MAX_FRAGMENTS = 1024
"""Chunks of unfinished messages in a stream, each of which is looked at for each new one."""
MAX_BACKLOG_BYTES = 1024 * 1024
_UNWATCHED = ("_data_channel_flush", "_transmit", "_transmit_reconfig", "_send_reconfig_param")
"""What aiortc starts as tasks for which nobody waits."""


class Association:
    """Guards one RTCSctpTransport: tells `count` what was dropped, and `end` to end the call."""

    def __init__(
        self,
        transport: RTCSctpTransport,
        count: Callable[[str], None],
        end: Callable[[], None],
    ) -> None:
        self.has_left = False
        """Whether the peer ended an association that was up (ABORT or SHUTDOWN)."""
        self._transport: Any = transport
        self._count = count
        self._end = end
        self._data = replace(transport, "_receive_data_chunk", self._receive_data)
        self._sack = replace(transport, "_receive_sack_chunk", self._receive_sack)
        self._forward = replace(transport, "_receive_forward_tsn_chunk", self._receive_forward)
        self._message = replace(transport, "_data_channel_receive", self._receive_message)
        self._handle = transport._handle_data
        for name in _UNWATCHED:
            _end_with_connection(transport, name)

    @property
    def is_delivered(self) -> bool:
        """Whether the peer has acknowledged all that was sent to it."""
        transport = self._transport
        return not (
            transport._data_channel_queue or transport._outbound_queue or transport._sent_queue
        )

    async def receive(self, packet: bytes) -> None:
        """Handle one decrypted packet."""
        if not sctp.is_well_formed(packet):
            self._count("malformed_sctp")
            return
        states = self._transport.State
        was_up = self._transport._association_state is states.ESTABLISHED
        await self._handle(packet)
        if was_up and self._transport._association_state is not states.ESTABLISHED:
            self.has_left = True

    async def _receive_data(self, chunk: DataChunk) -> None:
        transport = self._transport
        if transport._last_received_tsn is None:
            return self._count("early_sctp")
        streams = transport._inbound_streams
        stream = streams.get(chunk.stream_id)
        is_over = len(streams) >= MAX_STREAMS if stream is None else _is_full(stream)
        # aiortc advertises a window, but keeps whatever arrives.
        if is_over or transport._advertised_rwnd < -MAX_BACKLOG_BYTES:
            return self._end()
        ahead = (chunk.tsn - transport._last_received_tsn) % 2**32
        is_misordered = 1 < ahead < 2**31
        if is_misordered and len(transport._sack_misordered) >= MAX_MISORDERED:
            # As if lost: the peer sends it again once the gap is filled.
            transport._sack_needed = True
            return self._count("misordered_sctp")
        await self._data(chunk)

    async def _receive_sack(self, chunk: SackChunk) -> None:
        gaps = [(start, end) for start, end in chunk.gaps]
        if sctp.is_possible_sack(chunk.cumulative_tsn, gaps, self._transport._local_tsn):
            await self._sack(chunk)
        else:
            self._count("impossible_sack")

    async def _receive_forward(self, chunk: ForwardTsnChunk) -> None:
        if self._transport._last_received_tsn is None:
            return self._count("early_sctp")
        # aiortc would make a stream of each number named.
        known = self._transport._inbound_streams
        chunk.streams = [stream for stream in chunk.streams if stream[0] in known]
        await self._forward(chunk)

    async def _receive_message(self, stream_id: int, protocol: int, data: bytes) -> None:
        if protocol == WEBRTC_DCEP:
            channels = self._transport._data_channels
            is_acknowledgement = data[:1] == b"\x02"
            if is_acknowledgement != (stream_id in channels):
                return self._count("malformed_channel")
            if not is_acknowledgement and not sctp.is_channel_open(data):
                return self._count("malformed_channel")
            if len(channels) >= MAX_STREAMS and not is_acknowledgement:
                return self._end()
        elif protocol in _MESSAGES and stream_id not in self._transport._data_channels:
            if len(self._transport._data_channels) >= MAX_STREAMS:
                return self._end()
            self._adopt(stream_id)
        if protocol == WEBRTC_STRING:
            # aiortc raises on text that is not UTF-8.
            data = data.decode(errors="replace").encode()
        await self._message(stream_id, protocol, data)

    def _adopt(self, stream_id: int) -> None:
        """Open our end of a channel that the client negotiated with itself (RFC 8831 section 6.5).

        Its first message is the first that is heard of it.
        """
        parameters = RTCDataChannelParameters(negotiated=True, id=stream_id)
        channel = RTCDataChannel(self._transport, parameters, False)
        self._transport.emit("datachannel", channel)


def _is_full(stream: Any) -> bool:
    return len(stream.reassembly) >= MAX_FRAGMENTS


def _end_with_connection(transport: RTCSctpTransport, name: str) -> None:
    """Let a task that sends end in silence when the connection is over meanwhile.

    Else what it raises would be logged as never retrieved.
    """

    async def send(*args: Any) -> None:
        with contextlib.suppress(ConnectionError):
            await original(*args)

    original = replace(transport, name, send)
