"""STUN messages, read before aioice's parser sees them (RFC 8489 section 5). Pure functions.

aioice 0.13.0 raises more than ValueError for malformed attributes, and hands up as media what it
takes for no STUN at all. What `read` accepts it parses without an error; a property test says so.
"""

import binascii
import hashlib
import hmac
import struct

import msgspec

HEADER_BYTES = 20
COOKIE = 0x2112A442
FINGERPRINT_XOR = 0x5354554E
BINDING_REQUEST = 0x0001
BINDING_RESPONSE = 0x0101
BINDING_ERROR = 0x0111

_METHODS = frozenset({0x1, 0x2, 0x3, 0x4, 0x6, 0x7, 0x8, 0x9})
_METHOD_BITS = 0x3EEF
_USERNAME, _INTEGRITY, _ERROR_CODE, _PRIORITY = 0x0006, 0x0008, 0x0009, 0x0024
_FINGERPRINT = 0x8028
_LENGTHS = {
    **dict.fromkeys((0x0003, 0x000C, 0x000D, 0x0019, _PRIORITY, _FINGERPRINT), 4),
    **dict.fromkeys((0x8029, 0x802A), 8),
    _INTEGRITY: 20,
}
_ADDRESSES = frozenset({0x0001, 0x0004, 0x0005, 0x0012, 0x0016, 0x0020, 0x802B, 0x802C})
_ADDRESS_BYTES = {1: 8, 2: 20}
_STRINGS = frozenset({_USERNAME, 0x0014, 0x8022})


class StunMessage(msgspec.Struct, frozen=True):
    """What of a well-formed message decides whether it is let in."""

    kind: int
    """Class and method: BINDING_REQUEST and the like."""
    transaction_id: bytes
    username: bytes | None = None
    has_priority: bool = False
    integrity_at: int | None = None
    """Where MESSAGE-INTEGRITY begins."""


def read(data: bytes) -> StunMessage | None:
    """Return the message, or None unless every length, text and checksum in it is right."""
    if len(data) < HEADER_BYTES or len(data) % 4:
        return None
    kind, length, cookie, transaction_id = struct.unpack_from("!HHI12s", data)
    if kind & _METHOD_BITS not in _METHODS or kind > 0x3FFF:
        return None
    if cookie != COOKIE or len(data) != HEADER_BYTES + length:
        return None
    username, has_priority, integrity_at = None, False, None
    at = HEADER_BYTES
    while at < len(data):
        attribute, size = struct.unpack_from("!HH", data, at)
        value = data[at + 4 : at + 4 + size]
        # What follows MESSAGE-INTEGRITY is not signed, and ignored (RFC 8489 section 14.5).
        if integrity_at is None or attribute == _FINGERPRINT:
            if len(value) != size or not _is_well_formed(attribute, value, data[:at]):
                return None
            if attribute == _USERNAME:
                username = value
            elif attribute == _INTEGRITY:
                integrity_at = at
            has_priority = has_priority or attribute == _PRIORITY
        at += 4 + size + -size % 4
    return StunMessage(kind, transaction_id, username, has_priority, integrity_at)


def is_signed(data: bytes, message: StunMessage, key: bytes) -> bool:
    """Return whether the message's MESSAGE-INTEGRITY was made with `key` (HMAC-SHA1)."""
    if message.integrity_at is None:
        return False
    at = message.integrity_at
    signed = data[:2] + struct.pack("!H", at - HEADER_BYTES + 24) + data[4:at]
    return hmac.compare_digest(hmac.digest(key, signed, hashlib.sha1), data[at + 4 : at + 24])


def _is_well_formed(attribute: int, value: bytes, before: bytes) -> bool:
    if attribute in _ADDRESSES:
        return len(value) >= 2 and len(value) == _ADDRESS_BYTES.get(value[1])
    if attribute in _STRINGS:
        return _is_text(value)
    if attribute == _ERROR_CODE:
        return len(value) >= 4 and _is_text(value[4:])
    if attribute in _LENGTHS and len(value) != _LENGTHS[attribute]:
        return False
    return attribute != _FINGERPRINT or value == _fingerprint(before)


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _fingerprint(before: bytes) -> bytes:
    checked = before[:2] + struct.pack("!H", len(before) - HEADER_BYTES + 8) + before[4:]
    return struct.pack("!I", binascii.crc32(checked) ^ FINGERPRINT_XOR)
