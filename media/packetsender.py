"""Sends finished packets of sound by aiortc's sender, in one go, in the place of its own task.

aiortc's task waits for a track, wraps what it gets, and waits again: for packets of 20 ms that is
as much work as all the rest of sending. Private names of aiortc's sender are used, as in
`media.hooks`.
"""

import asyncio
import random
import struct
import time
from collections.abc import Callable
from typing import Any

from aiortc import RTCRtpSender
from aiortc.rtp import HeaderExtensions

from media import hooks

_HEADER = struct.Struct("!BBHLL")
_VERSION, _HAS_EXTENSION = 0x80, 0x10
_NTP_EPOCH_S = 2_208_988_800
"""From 1900 to 1970."""


class PacketSender:
    """Sends by the given sender, which must not have begun, from when it is connected.

    `on_error` gets what keeps it from beginning. Reports and statistics of the sender stay right.
    What is sent is not kept for a repetition: none is negotiated for sound.
    """

    def __init__(self, sender: RTCRtpSender, on_error: Callable[[Exception], None]) -> None:
        hooks.check_version()
        self._on_error = on_error
        self._sender: Any = sender
        self._payload_type: int | None = None
        """None while nothing can be sent."""
        self._sequence = random.randrange(1 << 15)
        self._origin = random.randrange(1 << 32)
        self._extension = b""
        """Of each header (RFC 8285): the m-line's name, where that is negotiated."""
        hooks.set_method(sender, "_run_rtp", self._run)

    @property
    def is_open(self) -> bool:
        """Whether the connection is made, and not over."""
        return self._payload_type is not None

    @property
    def payload_type(self) -> int:
        """Of the first codec. Only while it is open."""
        assert self._payload_type is not None
        return self._payload_type

    def send(self, payload: bytes, pts: int, payload_type: int | None = None) -> None:
        """Send one packet, of the first codec by default; `pts` in ticks of its RTP clock.

        Does nothing unless it is open.
        """
        sender = self._sender
        if self._payload_type is None or not sender._enabled:
            return
        if payload_type is None:
            payload_type = self._payload_type
        ntp = int((time.time() + _NTP_EPOCH_S) * (1 << 32))
        timestamp = (self._origin + pts) & 0xFFFFFFFF
        first = _VERSION | _HAS_EXTENSION if self._extension else _VERSION
        # Never with the marker bit, with which some payload types read as RTCP (RFC 5761).
        head = _HEADER.pack(first, payload_type, self._sequence, timestamp, sender._ssrc)
        try:
            hooks.finish(sender.transport._send_rtp(head + self._extension + payload))
        except ConnectionError:
            # The end of the connection, which others notice.
            return
        self._sequence = (self._sequence + 1) & 0xFFFF
        sender._RTCRtpSender__ntp_timestamp = ntp
        sender._RTCRtpSender__rtp_timestamp = timestamp
        sender._RTCRtpSender__octet_count += len(payload)
        sender._RTCRtpSender__packet_count += 1

    async def _run(self, codec: Any) -> None:
        """Same contract as RTCRtpSender._run_rtp: from the connection to its end."""
        sender = self._sender
        sender._RTCRtpSender__rtp_started.set()
        try:
            self._open(codec)
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            pass
        except Exception as exc:  # noqa: BLE001  handed to the owner, who ends the call
            self._on_error(exc)
        finally:
            self._payload_type = None
            if sender.track is not None:
                sender.track.stop()
            sender._RTCRtpSender__rtp_exited.set()

    def _open(self, codec: Any) -> None:
        sender = self._sender
        extensions = sender._RTCRtpSender__rtp_header_extensions_map
        profile, value = extensions.set(HeaderExtensions(mid=sender._RTCRtpSender__mid))
        if value:
            self._extension = struct.pack("!HH", profile, len(value) >> 2) + value
        self._payload_type = codec.payloadType
