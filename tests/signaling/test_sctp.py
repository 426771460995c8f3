"""SCTP packets are judged before aiortc's parser: what passes neither raises nor loops."""

import random
import struct

import pytest
from aiortc import rtcsctptransport as theirs
from google_crc32c import value as crc32c
from hypothesis import given, settings
from hypothesis import strategies as st

from signaling import sctp


def chunk(kind: int, body: bytes, length: int | None = None) -> bytes:
    length = len(body) + 4 if length is None else length
    return struct.pack("!BBH", kind, 0, length) + body + bytes(-len(body) % 4)


def packet(*chunks: bytes) -> bytes:
    head, body = struct.pack("!HHL", 5000, 5000, 7), b"".join(chunks)
    return head + struct.pack("<L", crc32c(head + bytes(4) + body)) + body


def parameter(kind: int, value: bytes, length: int | None = None) -> bytes:
    length = len(value) + 4 if length is None else length
    return struct.pack("!HH", kind, length) + value + bytes(-len(value) % 4)


DATA = chunk(sctp.DATA, bytes(12) + b"hello")
SACK = chunk(sctp.SACK, struct.pack("!LLHHHH", 1, 1000, 1, 0, 2, 3))
INIT = chunk(sctp.INIT, bytes(16) + parameter(0x8008, b"\xc0\x82"))
RECONFIG = chunk(sctp.RECONFIG, parameter(13, bytes(12) + b"\0\1"))
FORWARD = chunk(sctp.FORWARD_TSN, bytes(8))
GOOD = [
    packet(DATA),
    packet(SACK, DATA, DATA),
    packet(INIT),
    packet(RECONFIG),
    packet(FORWARD, DATA),
    packet(chunk(sctp.HEARTBEAT, parameter(1, b"time"))),
    packet(chunk(sctp.ABORT, b"")),
    packet(chunk(10, b"cookie"), DATA),
    packet(chunk(0x81, b"unknown")),
]


@pytest.mark.parametrize("good", GOOD, ids=repr)
def test_what_peers_send_is_well_formed(good: bytes) -> None:
    assert sctp.is_well_formed(good)
    theirs.parse_packet(good)


@pytest.mark.parametrize(
    "chunks",
    [
        (),
        (chunk(sctp.DATA, bytes(12)),),
        (chunk(sctp.DATA, b""),),
        (chunk(sctp.DATA, b"", length=0),),
        (chunk(sctp.DATA, bytes(16), length=400),),
        (INIT, DATA),
        (chunk(sctp.INIT, bytes(8)),),
        (SACK, SACK),
        (FORWARD, FORWARD),
        (RECONFIG, RECONFIG),
        (chunk(sctp.HEARTBEAT, b""),) * 2,
        (DATA,) * (sctp.MAX_CHUNKS + 1),
        (chunk(sctp.SACK, struct.pack("!LLHH", 1, 1000, 60_000, 0)),),
        (chunk(sctp.SACK, bytes(4)),),
        (chunk(sctp.FORWARD_TSN, bytes(6)),),
        (chunk(sctp.FORWARD_TSN, b""),),
        (chunk(sctp.SHUTDOWN, b"\0"),),
        (chunk(sctp.RECONFIG, parameter(13, bytes(4))),),
        (chunk(sctp.RECONFIG, parameter(17, bytes(8)) * 3),),
        # aiortc would walk these for ever.
        (chunk(sctp.HEARTBEAT, parameter(1, b"", length=0)),),
        (chunk(sctp.ABORT, parameter(1, b"", length=0)),),
        (chunk(sctp.INIT, bytes(16) + parameter(1, b"", length=0)),),
        (chunk(sctp.ERROR, parameter(1, b"", length=3)),),
        (chunk(sctp.RECONFIG, parameter(13, b"", length=0)),),
        (chunk(sctp.HEARTBEAT, parameter(1, b"abcd", length=40)),),
        (chunk(sctp.INIT, bytes(16) + parameter(9, b"") * 40),),
    ],
)
def test_others_are_not(chunks: tuple[bytes, ...]) -> None:
    assert not sctp.is_well_formed(packet(*chunks))


@settings(deadline=None)
@given(st.sampled_from(GOOD), st.randoms(use_true_random=False))
def test_what_passes_of_mutated_packets_aiortc_parses(seed: bytes, chance: random.Random) -> None:
    body = bytearray(seed[12:])
    for _ in range(chance.randrange(1, 5)):
        body[chance.randrange(len(body))] = chance.choice([0, 1, 3, 4, 255, chance.randrange(256)])
    mutated = packet(bytes(body))
    if sctp.is_well_formed(mutated):
        *_, chunks = theirs.parse_packet(mutated)
        for found in chunks:
            if isinstance(found, theirs.ReconfigChunk):
                for kind, value in found.params:
                    if kind in theirs.RECONFIG_PARAM_TYPES:
                        theirs.RECONFIG_PARAM_TYPES[kind].parse(value)


def test_a_sack_acknowledges_what_was_sent() -> None:
    assert sctp.is_possible_sack(9, [], next_tsn=10)
    assert sctp.is_possible_sack(5, [(2, 2), (4, 4)], next_tsn=10)
    assert not sctp.is_possible_sack(2**32 - 1, [(2, 4)], next_tsn=3)
    assert sctp.is_possible_sack(2**32 - 1, [(2, 3)], next_tsn=3)
    assert not sctp.is_possible_sack(10, [], next_tsn=10)
    assert not sctp.is_possible_sack(5, [(2, 5)], next_tsn=10)
    assert not sctp.is_possible_sack(5, [(3, 2)], next_tsn=10)
    assert not sctp.is_possible_sack(5, [(2, 3), (3, 4)], next_tsn=10)
    assert not sctp.is_possible_sack(5, [(1, 65_535)] * 290, next_tsn=10)


def open_message(label: bytes, protocol: bytes = b"", extra: int = 0) -> bytes:
    head = struct.pack("!BBHLHH", 3, 0, 0, 0, len(label) + extra, len(protocol))
    return head + label + protocol


def test_a_channel_is_opened_by_a_whole_message() -> None:
    assert sctp.is_channel_open(open_message("größer".encode(), b"json"))
    assert not sctp.is_channel_open(open_message(b"\xff"))
    assert not sctp.is_channel_open(open_message(b"events", extra=9))
    assert not sctp.is_channel_open(open_message(b"events")[:8])
    assert not sctp.is_channel_open(b"\x02")
