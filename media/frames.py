"""Encoded video frames from RTP packets: reordered, complete, and never a broken chain.

A frame is complete with its marker bit; waiting for the next frame to begin, as aiortc's buffer
does, would cost a whole frame interval, 500 ms at 2 pictures a second. Pure logic, owned by the
video uplink. Sequence numbers are extended beyond 16 bits.
"""

from collections.abc import Iterator
from dataclasses import dataclass

MAX_PACKETS = 1024
MAX_JUMP_PACKETS = 512
"""A packet further from the newest one begins a new stream."""
MAX_GAP_S = 0.3
"""Waited for a retransmission before the frames behind a gap are given up."""

_H264_START = b"\0\0\0\1"
_H264_KEY_UNITS = (5, 7)  # IDR slice, sequence parameters
_MAX_UNITS_SCANNED = 8


@dataclass(frozen=True, slots=True)
class EncodedFrame:
    """One complete frame."""

    codec: str
    """`vp8` or `h264`; H.264 with Annex B start codes."""
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

    After a loss that no retransmission repaired it withholds frames until the next keyframe.
    """

    def __init__(self) -> None:
        self.gaps = 0
        """Losses that cost frames."""
        self.late_packets = 0
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

    def push(
        self,
        ssrc: int,
        sequence: int,
        timestamp: int,
        is_last: bool,
        codec: str,
        payload: bytes,
        data: bytes,
        now: float,
    ) -> list[EncodedFrame]:
        """Take one packet: its RTP payload and the `data` depayloaded from it."""
        ahead = ((sequence - self._highest + 0x8000) & 0xFFFF) - 0x8000
        if ssrc != self._ssrc or abs(ahead) > MAX_JUMP_PACKETS:
            self._restart(ssrc, sequence)
            ahead = 0
        extended = self._highest + ahead
        self._highest = max(self._highest, extended)
        if self._start is not None and extended < self._cursor:
            self.late_packets += 1
            return []
        is_key = _begins_keyframe(codec, payload, data)
        self._parts[extended] = _Part(codec, timestamp, is_last, is_key, data)
        if self._start is None:
            self._seek_keyframe()
        frames = list(self._collect())
        if self._skip_gap(now):
            frames += self._collect()
        return frames

    def _restart(self, ssrc: int, sequence: int) -> None:
        self._ssrc = ssrc
        self._highest = sequence
        self._parts.clear()
        self._start = None
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
        data = b"".join(part.data for part in parts)
        if data:
            is_key = _is_keyframe(parts[0].codec, data)
            yield EncodedFrame(parts[0].codec, parts[0].timestamp, is_key, data)

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


def _begins_keyframe(codec: str, payload: bytes, data: bytes) -> bool:
    if codec == "vp8":
        # RFC 7741 section 4.2: start of partition 0; section 4.3: P bit clear.
        return bool(data) and payload[0] & 0x1F == 0x10 and data[0] & 1 == 0
    return data[:4] == _H264_START and len(data) > 4 and data[4] & 0x1F in _H264_KEY_UNITS


def _is_keyframe(codec: str, data: bytes) -> bool:
    if codec == "vp8":
        return data[0] & 1 == 0
    position = 0
    for _ in range(_MAX_UNITS_SCANNED):
        position = data.find(_H264_START, position)
        if position < 0 or position + 4 >= len(data):
            return False
        if data[position + 4] & 0x1F == 5:
            return True
        position += 4
    return False
