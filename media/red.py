"""Redundant audio (RFC 2198): packets that carry copies of earlier ones. Pure functions."""

from collections.abc import Sequence
from typing import NamedTuple

MAX_OFFSET = (1 << 14) - 1
MAX_COPY_BYTES = (1 << 10) - 1
MAX_COPIES = 16
"""Browsers send nine at most."""


class Copy(NamedTuple):
    """An earlier packet within a later one."""

    offset: int
    """RTP ticks by which it is earlier."""
    payload: bytes


class Redundant(NamedTuple):
    """A packet taken apart."""

    payload_type: int
    payload: bytes
    copies: tuple[Copy, ...]
    """Earliest first."""


def can_tell(copy: Copy) -> bool:
    """Whether a header has room for its size, and for how early it is."""
    return len(copy.payload) <= MAX_COPY_BYTES and 0 < copy.offset <= MAX_OFFSET


def pack(payload_type: int, payload: bytes, copies: Sequence[Copy]) -> bytes:
    """Return `payload` behind `copies`, earliest first, all of `payload_type`.

    A copy that is too long or too early to be told is left out.
    """
    kept = list(filter(can_tell, copies))
    header = bytearray()
    for offset, copied in kept:
        word = 1 << 31 | payload_type << 24 | offset << 10 | len(copied)
        header += word.to_bytes(4, "big")
    header.append(payload_type)
    return b"".join((header, *(copy.payload for copy in kept), payload))


def unpack(packet: bytes) -> Redundant | None:
    """Take a packet apart, leaving out copies of another type than its own; None if malformed."""
    headers: list[int] = []
    at = 0
    while at < len(packet) and packet[at] & 0x80:
        if len(headers) == MAX_COPIES or at + 4 >= len(packet):
            return None
        headers.append(int.from_bytes(packet[at : at + 4], "big"))
        at += 4
    if at >= len(packet):
        return None
    payload_type = packet[at]
    at += 1
    copies = []
    for word in headers:
        size, offset = word & MAX_COPY_BYTES, word >> 10 & MAX_OFFSET
        if at + size > len(packet):
            return None
        if word >> 24 & 0x7F == payload_type and size and offset:
            copies.append(Copy(offset, packet[at : at + size]))
        at += size
    return Redundant(payload_type, packet[at:], tuple(copies))
