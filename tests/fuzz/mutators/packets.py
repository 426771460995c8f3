"""Datagrams of a media port: STUN, DTLS, RTP, RTCP and SCTP, well-formed but for one thing or so.

Made from nothing but the `Random`: RFC 8489 (STUN), 6347 (DTLS 1.2), 3550 and 4585 (RTP, RTCP),
9260 (SCTP).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from random import Random

from tests.fuzz.mutators.raw import EDGE_INTEGERS

COOKIE = 0x2112A442
STUN_TYPES = (0x0001, 0x0101, 0x0111, 0x0011, 0x0003, 0x0104, 0x0017, 0x3FFF)
STUN_ATTRIBUTES = (
    *(0x0001, 0x0006, 0x0008, 0x0009, 0x000A, 0x000C, 0x000D, 0x0012, 0x0013, 0x0014, 0x0015),
    *(0x0016, 0x0020, 0x0024, 0x0025, 0x8022, 0x8028, 0x8029, 0x802A, 0x802C, 0xFFFF),
)
LENGTHS = (0, 1, 2, 3, 4, 8, 12, 20, 100)
MAX_DATAGRAM = 1400


def _pad(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _word(rng: Random, bits: int) -> int:
    value = rng.choice((rng.getrandbits(bits), rng.choice(EDGE_INTEGERS)))
    return value % (1 << bits)


def stun(rng: Random) -> bytes:
    """A STUN message; one in three has a wrong length or attributes cut off."""
    body = b""
    for _ in range(rng.choice((0, 1, 1, 3, 8, 60))):
        value = rng.randbytes(rng.choice(LENGTHS))
        length = len(value) if rng.random() < 0.7 else _word(rng, 16)
        body += struct.pack("!HH", rng.choice(STUN_ATTRIBUTES), length) + _pad(value)
    length = len(body) if rng.random() < 0.8 else _word(rng, 16)
    head = struct.pack("!HHI", rng.choice(STUN_TYPES), length, COOKIE) + rng.randbytes(12)
    return (head + body)[:MAX_DATAGRAM]


def dtls(rng: Random) -> bytes:
    """One or more DTLS records: handshake pieces, alerts, application data, what there is not."""
    data = b""
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        kind = rng.choice((20, 21, 22, 22, 22, 23, 24, 25, 26, 63))
        body = rng.randbytes(rng.choice((0, 1, 2, 13, 60, 300)))
        if kind == 21:
            body = bytes((rng.choice((1, 2)), rng.choice((0, 10, 40, 100, 255))))
        elif kind == 22:
            body = _handshake(rng)
        version = rng.choice((b"\xfe\xff", b"\xfe\xfd", b"\xfe\xfc", b"\x03\x03"))
        length = len(body) if rng.random() < 0.85 else _word(rng, 16)
        epoch = struct.pack("!HHI", rng.choice((0, 0, 0, 1, 65_535)), 0, _word(rng, 32))
        data += bytes((kind,)) + version + epoch + struct.pack("!H", length) + body
    return data[:MAX_DATAGRAM]


def _handshake(rng: Random) -> bytes:
    kind = rng.choice((0, 1, 1, 2, 3, 11, 12, 13, 14, 15, 16, 20, 255))
    body = rng.randbytes(rng.choice((0, 2, 34, 80, 300)))
    if kind == 1:
        cookie = rng.randbytes(rng.choice((0, 0, 20, 255)))
        suites = rng.randbytes(rng.choice((2, 8, 40)))
        body = b"\xfe\xfd" + rng.randbytes(32) + b"\0" + bytes((len(cookie),)) + cookie
        body += struct.pack("!H", len(suites)) + suites + b"\x01\x00" + rng.randbytes(20)
    total = len(body) if rng.random() < 0.7 else _word(rng, 24)
    offset, part = rng.choice(((0, len(body)), (_word(rng, 24), len(body)), (0, _word(rng, 24))))
    sizes = total.to_bytes(3, "big"), offset.to_bytes(3, "big"), part.to_bytes(3, "big")
    return (
        bytes((kind,)) + sizes[0] + struct.pack("!H", _word(rng, 16)) + sizes[1] + sizes[2] + body
    )


def rtp(rng: Random, payload: bytes | None = None) -> bytes:
    """An RTP packet, with extensions, CSRCs and padding that may not fit."""
    flags = 0x80 | rng.choice((0, 0, 0x10, 0x20, 0x30)) | rng.choice((0, 0, 0, 1, 15))
    kind = rng.choice((111, 96, 97, 102, 0, 127, rng.getrandbits(7))) | rng.choice((0, 0x80))
    head = struct.pack("!BBHII", flags, kind, _word(rng, 16), _word(rng, 32), _word(rng, 32))
    head += rng.randbytes(4 * (flags & 15) if rng.random() < 0.7 else 0)
    if flags & 0x10:
        profile = rng.choice((0xBEDE, 0x1000, 0xFFFF))
        words = rng.choice((0, 1, 3))
        claimed = words if rng.random() < 0.7 else _word(rng, 16)
        head += struct.pack("!HH", profile, claimed) + rng.randbytes(4 * words)
    body = rng.randbytes(rng.choice((0, 1, 3, 20, 160, 900))) if payload is None else payload
    if flags & 0x20:
        body += bytes((rng.choice((0, 1, 4, 255)),))
    return (head + body)[:MAX_DATAGRAM]


def rtcp(rng: Random) -> bytes:
    """A compound RTCP packet: reports, SDES, BYE, APP, NACK, PLI, FIR, REMB, what there is not."""
    data = b""
    for _ in range(rng.choice((1, 1, 2, 6))):
        kind = rng.choice((200, 201, 202, 203, 204, 205, 206, 207, 193, 208))
        count = rng.choice((0, 1, 2, 4, 15, 31))
        if kind == 205 and count in (1, 15):
            pairs = [(_word(rng, 16), _word(rng, 16)) for _ in range(rng.choice((1, 10, 250)))]
            body = rng.randbytes(8) + b"".join(struct.pack("!HH", *pair) for pair in pairs)
        elif kind == 206 and count == 15:
            body = rng.randbytes(8) + b"REMB" + rng.randbytes(rng.choice((0, 4, 8, 40)))
        elif kind == 202:
            text = rng.randbytes(rng.choice((0, 3, 200)))
            body = rng.randbytes(4) + bytes((rng.getrandbits(4), len(text))) + text + b"\0"
        else:
            body = rng.randbytes(rng.choice((0, 4, 8, 20, 24, 24 * count + 4)))
        body = _pad(body)
        words = len(body) // 4 if rng.random() < 0.8 else _word(rng, 16)
        flags = 0x80 | count | rng.choice((0, 0, 0, 0x20))
        data += struct.pack("!BBH", flags, kind, words) + body
    return data[:MAX_DATAGRAM]


SCTP_CHUNKS = (*range(15), 64, 128, 130, 132, 192, 193, 255)


def sctp(rng: Random, tag: int, tsn: int) -> bytes:
    """An SCTP packet with a right checksum; `tag` and `tsn` are those of a living association."""
    chunks = b"".join(_chunk(rng, tsn) for _ in range(rng.choice((1, 1, 1, 2, 8))))
    tag = tag if rng.random() < 0.9 else _word(rng, 32)
    return sealed(chunks[: MAX_DATAGRAM - 200], tag)


def sealed(chunks: bytes, tag: int) -> bytes:
    """Chunks as a packet between the usual ports, with its CRC32c."""
    from google_crc32c import value as crc32c

    head = struct.pack("!HHI", 5000, 5000, tag)
    checksum = int(crc32c(head + b"\0\0\0\0" + chunks))
    return head + struct.pack("<I", checksum) + chunks


def _chunk(rng: Random, tsn: int) -> bytes:
    kind = rng.choice(SCTP_CHUNKS)
    near = (tsn + rng.choice((-1, 0, 1, 2, 100, 2**31, rng.getrandbits(32)))) % 2**32
    match kind:
        case 0:
            body = struct.pack("!IHHI", near, _word(rng, 16), _word(rng, 16), _word(rng, 32))
            body += rng.randbytes(rng.choice((0, 1, 30, 900)))
        case 1 | 2:
            body = struct.pack("!IIHHI", _word(rng, 32), _word(rng, 32), 8, _word(rng, 16), near)
            body += _parameters(rng)
        case 3:
            gaps = rng.choice((0, 1, 3, 250))
            body = struct.pack("!IIHH", near, _word(rng, 32), gaps, rng.choice((0, 1, 9)))
            body += rng.randbytes(4 * gaps)
        case 192:
            body = struct.pack("!I", near) + rng.randbytes(rng.choice((0, 4, 40)))
        case _:
            body = _parameters(rng) if rng.random() < 0.6 else rng.randbytes(rng.choice(LENGTHS))
    length = len(body) + 4 if rng.random() < 0.85 else _word(rng, 16)
    return struct.pack("!BBH", kind, rng.choice((0, 3, 7, 255)), length) + _pad(body)


def _parameters(rng: Random) -> bytes:
    data = b""
    for _ in range(rng.choice((0, 1, 2, 6))):
        value = rng.randbytes(rng.choice(LENGTHS))
        length = len(value) + 4 if rng.random() < 0.7 else _word(rng, 16)
        kind = rng.choice((1, 7, 13, 14, 15, 16, 17, 18, 0x8008, 0xC000, _word(rng, 16)))
        data += struct.pack("!HH", kind, length) + _pad(value)
    return data


def nothing(rng: Random) -> bytes:
    """Empty, one byte, or noise."""
    return rng.randbytes(rng.choice((0, 1, 2, 12, 20, 600)))


STRANGE: tuple[Callable[[Random], bytes], ...] = (stun, stun, dtls, dtls, rtp, rtcp, nothing)
