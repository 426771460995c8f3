"""Encoded video frames from RTP packets: reordered, complete, and never a broken chain.

A frame is complete with its marker bit; waiting for the next frame to begin, as aiortc's buffer
does, would cost a whole frame interval, 500 ms at 2 pictures a second. Pure logic, owned by the
video uplink. Sequence numbers are extended beyond 16 bits.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from aiortc.rtp import RtpPacket

from media.payloads import NOTHING, ParameterSets, has_picture, is_key, read_payload

MAX_PACKETS = 1024
MAX_JUMP_PACKETS = 512
"""A packet further from the newest one begins a new stream."""
MAX_GAP_S = 0.3
"""Waited for a retransmission before the frames behind a gap are given up."""

MAX_PREFIX_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class EncodedFrame:
    """One complete frame."""

    codec: str
    """`vp8`, `h264` with Annex B start codes, or `mjpeg`."""
    timestamp: int
    """RTP time, 90 kHz, 32 bits."""
    is_key: bool
    data: bytes


@dataclass(frozen=True, slots=True)
class _Part:
    codec: str
    timestamp: int
    is_last: bool
    is_key: bool
    data: bytes


class FrameAssembler:
    """Put packets together to frames, in order.

    After a loss that no retransmission repaired it withholds frames until the next keyframe. Gets
    the parameter sets of the offer by payload type.
    """

    def __init__(self, offered_sets: Mapping[int, tuple[bytes, ...]] | None = None) -> None:
        self.gaps = 0
        """Losses that cost frames."""
        self.late_packets = 0
        self._offered_sets = offered_sets or {}
        self._sets = ParameterSets()
        self._payload_type: int | None = None
        self._prefix = b""
        self._parts: dict[int, _Part] = {}
        self._ssrc: int | None = None
        self._highest = 0
        self._start: int | None = None
        self._cursor = 0
        self._gap_since_s: float | None = None

    @property
    def needs_keyframe(self) -> bool:
        """Return whether nothing can be delivered before a keyframe comes."""
        return self._start is None

    def push(self, packet: RtpPacket, codec: str, now: float) -> list[EncodedFrame]:
        """Take one packet of a codec that `media.payloads` reads."""
        ahead = ((packet.sequence_number - self._highest + 0x8000) & 0xFFFF) - 0x8000
        if packet.ssrc != self._ssrc or abs(ahead) > MAX_JUMP_PACKETS:
            self._restart(packet.ssrc, packet.sequence_number)
            ahead = 0
        extended = self._highest + ahead
        self._highest = max(self._highest, extended)
        if self._start is not None and extended < self._cursor:
            self.late_packets += 1
            return []
        part = read_payload(codec, packet.payload) if packet.payload else NOTHING
        if codec == "h264":
            self._learn(packet.payload_type, part.data)
        self._parts[extended] = _Part(
            codec, packet.timestamp, bool(packet.marker), part.begins_key, part.data
        )
        if self._start is None:
            self._seek_keyframe()
        frames = list(self._collect())
        if self._skip_gap(now):
            frames += self._collect()
        return frames

    def _learn(self, payload_type: int, data: bytes) -> None:
        if payload_type != self._payload_type:
            self._payload_type = payload_type
            self._sets = ParameterSets(self._offered_sets.get(payload_type, ()))
        self._sets.learn(data)

    def _restart(self, ssrc: int, sequence: int) -> None:
        self._ssrc = ssrc
        self._highest = sequence
        self._parts.clear()
        self._start = None
        self._prefix = b""
        self._gap_since_s = None

    def _collect(self) -> Iterator[EncodedFrame]:
        """Yield the frames that are complete and next."""
        if self._start is None:
            return
        while (part := self._parts.get(self._cursor)) is not None:
            if self._cursor > self._start and part.timestamp != self._parts[self._start].timestamp:
                yield from self._cut()
            self._cursor += 1
            if part.is_last:
                yield from self._cut()

    def _cut(self) -> Iterator[EncodedFrame]:
        assert self._start is not None
        parts = [self._parts.pop(i) for i in range(self._start, self._cursor)]
        self._start = self._cursor
        codec = parts[0].codec
        data = self._prefix + b"".join(part.data for part in parts)
        self._prefix = b""
        if not has_picture(codec, data):
            # Parameter sets with a time of their own belong to what follows.
            self._prefix = data[-MAX_PREFIX_BYTES:]
            return
        begins = is_key(codec, data)
        if begins and codec == "h264":
            data = self._sets.complete(data)
        yield EncodedFrame(codec, parts[0].timestamp, begins, data)

    def _skip_gap(self, now: float) -> bool:
        """Give up a gap that has lasted too long or that a keyframe makes irrelevant."""
        if self._start is None:
            return False
        if len(self._parts) <= self._cursor - self._start:
            self._gap_since_s = None
            return False
        if self._gap_since_s is None:
            self._gap_since_s = now
        has_expired = now - self._gap_since_s > MAX_GAP_S or len(self._parts) > MAX_PACKETS
        current = self._parts.get(self._start)
        has_keyframe = any(
            part.is_key and (current is None or part.timestamp != current.timestamp)
            for i, part in self._parts.items()
            if i >= self._cursor
        )
        if not has_expired and not has_keyframe:
            return False
        self.gaps += 1
        self._gap_since_s = None
        for i in [i for i in self._parts if i < self._cursor]:
            del self._parts[i]
        self._start = None
        self._seek_keyframe()
        return self._start is not None

    def _seek_keyframe(self) -> None:
        """Continue at the first keyframe held; without one, keep only what one may begin with."""
        first = min((i for i, part in self._parts.items() if part.is_key), default=None)
        if first is None:
            oldest = self._highest - MAX_JUMP_PACKETS
        else:
            timestamp = self._parts[first].timestamp
            while (part := self._parts.get(first - 1)) and part.timestamp == timestamp:
                first -= 1
            self._start = self._cursor = oldest = first
        for i in [i for i in self._parts if i < oldest]:
            del self._parts[i]
