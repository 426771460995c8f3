"""SCTP packets of a peer, judged before aiortc's parser and loops see them (RFC 9260). Pure.

aiortc 1.16.0 walks a parameter of length 0 for ever, asserts on what a peer may send, and does work
in proportion to numbers that a packet names rather than to its size.
"""

import struct
from collections.abc import Callable

MAX_CHUNKS = 64
MAX_PARAMETERS = 32

DATA, INIT, INIT_ACK, SACK, HEARTBEAT, HEARTBEAT_ACK, ABORT, SHUTDOWN = range(8)
ERROR, RECONFIG, FORWARD_TSN = 9, 130, 192
_ONCE = frozenset({SACK, HEARTBEAT, RECONFIG, FORWARD_TSN})
_HEADER_BYTES = 12
_RECONFIG_BYTES = {13: 12, 16: 8, 17: 8}
"""The least that aiortc reads of a re-configuration parameter, by type."""


def is_well_formed(packet: bytes) -> bool:
    """Return whether every chunk is whole and long enough for what aiortc reads of it.

    Of the chunks that ask for work there is at most one of each in a packet.
    """
    kinds: list[int] = []
    at = _HEADER_BYTES
    while at <= len(packet) - 4:
        kind, _, length = struct.unpack_from("!BBH", packet, at)
        body = packet[at + 4 : at + length]
        if length < 4 or len(body) != length - 4 or not _CHECKS.get(kind, _is_any)(body):
            return False
        kinds.append(kind)
        at += length + -length % 4
    is_alone = len(kinds) == 1 or INIT not in kinds
    has_few = len(kinds) <= MAX_CHUNKS and all(kinds.count(kind) <= 1 for kind in _ONCE)
    return bool(kinds) and is_alone and has_few


def is_possible_sack(cumulative_tsn: int, gaps: list[tuple[int, int]], next_tsn: int) -> bool:
    """Return whether a SACK acknowledges only what was sent before `next_tsn`.

    Gap blocks count from the cumulative TSN; they ascend and do not touch (section 3.3.4).
    """
    outstanding = (next_tsn - 1 - cumulative_tsn) % 2**32
    if outstanding >= 2**31:
        return False
    last = 0
    for start, end in gaps:
        if not last < start <= end <= outstanding:
            return False
        last = end
    return True


def is_channel_open(message: bytes) -> bool:
    """Return whether a DCEP message is a whole DATA_CHANNEL_OPEN (RFC 8832 section 5.1)."""
    if len(message) < 12 or message[0] != 3:
        return False
    label, protocol = struct.unpack_from("!HH", message, 8)
    if len(message) != 12 + label + protocol:
        return False
    try:
        message[12 : 12 + label].decode()
        message[12 + label :].decode()
    except UnicodeDecodeError:
        return False
    return True


def _parameters(body: bytes) -> list[tuple[int, int]] | None:
    """Return type and size of the value of each parameter, or None if they are malformed."""
    found: list[tuple[int, int]] = []
    at = 0
    while at <= len(body) - 4:
        kind, length = struct.unpack_from("!HH", body, at)
        if length < 4 or at + length > len(body) or len(found) == MAX_PARAMETERS:
            return None
        found.append((kind, length - 4))
        at += length + -length % 4
    return found


def _is_any(body: bytes) -> bool:
    return True


def _has_bytes(count: int) -> Callable[[bytes], bool]:
    return lambda body: len(body) >= count


def _has_parameters(body: bytes) -> bool:
    return _parameters(body) is not None


def _is_init(body: bytes) -> bool:
    return len(body) >= 16 and _has_parameters(body[16:])


def _is_sack(body: bytes) -> bool:
    if len(body) < 12:
        return False
    gaps, duplicates = struct.unpack_from("!HH", body, 8)
    return len(body) == 12 + 4 * int(gaps + duplicates)


def _is_forward_tsn(body: bytes) -> bool:
    return len(body) >= 4 and len(body) % 4 == 0


def _is_reconfig(body: bytes) -> bool:
    parameters = _parameters(body)
    # A request and a response at most (RFC 6525 section 3.1).
    return (
        parameters is not None
        and len(parameters) <= 2
        and all(
            size >= _RECONFIG_BYTES.get(kind, 0) and (kind != 13 or size % 2 == 0)
            for kind, size in parameters
        )
    )


_CHECKS: dict[int, Callable[[bytes], bool]] = {
    # A chunk without user data is an error (section 6.2.1).
    DATA: _has_bytes(13),
    INIT: _is_init,
    INIT_ACK: _is_init,
    SACK: _is_sack,
    HEARTBEAT: _has_parameters,
    HEARTBEAT_ACK: _has_parameters,
    ABORT: _has_parameters,
    SHUTDOWN: _has_bytes(4),
    ERROR: _has_parameters,
    RECONFIG: _is_reconfig,
    FORWARD_TSN: _is_forward_tsn,
}
