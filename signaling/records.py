"""DTLS records in a datagram (RFC 6347 section 4.1, RFC 9147 section 4). Pure functions."""

import struct

import msgspec

HEADER_BYTES = 13
MAX_RECORDS = 32
CHANGE_CIPHER_SPEC, ALERT, HANDSHAKE = 20, 21, 22


class Record(msgspec.Struct, frozen=True):
    """One record with its header."""

    data: bytes
    content_type: int
    is_encrypted: bool
    """Whether it is of an epoch with keys."""


def split(datagram: bytes) -> list[Record] | None:
    """Return the records of a datagram, or None unless it is made of whole, filled records."""
    records: list[Record] = []
    at = 0
    while at < len(datagram):
        record = _record(datagram, at)
        if record is None or len(records) == MAX_RECORDS:
            return None
        records.append(record)
        at += len(record.data)
    return records or None


def _record(datagram: bytes, at: int) -> Record | None:
    content_type = datagram[at]
    if 32 <= content_type < 64:
        return _unified(datagram, at)
    if not 20 <= content_type < 32 or len(datagram) <= at + HEADER_BYTES:
        return None
    _, version, epoch, _, length = struct.unpack_from("!BHH6sH", datagram, at)
    end = at + HEADER_BYTES + length
    if version >> 8 != 0xFE or length == 0 or end > len(datagram):
        return None
    return Record(datagram[at:end], content_type, epoch > 0)


def _unified(datagram: bytes, at: int) -> Record | None:
    """DTLS 1.3: 001CSLEE, of which no connection id (C) is ever negotiated here."""
    flags = datagram[at]
    header = 1 + (2 if flags & 0x08 else 1)
    end = len(datagram)
    if flags & 0x04:
        if end < at + header + 2:
            return None
        (length,) = struct.unpack_from("!H", datagram, at + header)
        header += 2
        end = at + header + length
    # A record holds at least its type and the cipher's tag.
    if flags & 0x10 or end > len(datagram) or end < at + header + 17:
        return None
    return Record(datagram[at:end], flags, True)
