"""RTP packets of sound, read no further than anybody looks, which takes a fifth of the time."""

import struct

import msgspec

_FIXED = struct.Struct("!BBHLL")
_EXTENSION = struct.Struct("!HH")


class SoundPacket(msgspec.Struct, gc=False):
    """The fields of an RTP packet (RFC 3550 section 5.1) by the names that aiortc gives them."""

    payload_type: int
    sequence_number: int
    timestamp: int
    ssrc: int
    payload: bytes


def ssrc_of(data: bytes) -> int:
    """The synchronization source of a packet with a whole header."""
    return int.from_bytes(data[8:12])


def read_sound(data: bytes) -> SoundPacket:
    """Read a packet with a whole header, its extensions left out; raises ValueError."""
    first, second, sequence, timestamp, ssrc = _FIXED.unpack_from(data)
    begin = _FIXED.size + 4 * (first & 0x0F)
    if first & 0x10:
        if len(data) < begin + _EXTENSION.size:
            raise ValueError("truncated extension")
        begin += _EXTENSION.size + 4 * _EXTENSION.unpack_from(data, begin)[1]
    padding = data[-1] if first & 0x20 else 0
    end = len(data) - padding
    if first >> 6 != 2 or end < begin or (first & 0x20 and not padding):
        raise ValueError("malformed RTP packet")
    return SoundPacket(second & 0x7F, sequence, timestamp, ssrc, data[begin:end])
