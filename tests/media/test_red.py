"""Packets that carry copies of earlier ones: written as RFC 2198 says, read from anybody."""

import random

from media.red import MAX_COPIES, Copy, Redundant, pack, unpack

OPUS = 111


def test_a_packet_is_written_as_the_rfc_says() -> None:
    packet = pack(OPUS, b"now", [Copy(1920, b"before"), Copy(960, b"then")])
    assert packet == (
        bytes([0x80 | OPUS, 1920 >> 6, (1920 & 63) << 2, 6])
        + bytes([0x80 | OPUS, 960 >> 6, (960 & 63) << 2, 4])
        + bytes([OPUS])
        + b"beforethennow"
    )
    assert unpack(packet) == Redundant(OPUS, b"now", (Copy(1920, b"before"), Copy(960, b"then")))


def test_what_cannot_be_told_is_left_out() -> None:
    copies = [Copy(20_000, b"early"), Copy(960, bytes(1024)), Copy(480, b"fits")]
    assert unpack(pack(OPUS, b"now", copies)) == Redundant(OPUS, b"now", (Copy(480, b"fits"),))


def test_copies_of_another_kind_are_left_out() -> None:
    packet = bytearray(pack(OPUS, b"now", [Copy(960, b"then")]))
    packet[0] = 0x80 | 13
    assert unpack(bytes(packet)) == Redundant(OPUS, b"now", ())


def test_a_malformed_packet_is_refused() -> None:
    whole = pack(OPUS, b"", [Copy(960, b"then")])
    assert all(unpack(whole[:size]) is None for size in range(len(whole)))
    assert unpack(bytes([0x80, 0, 0, 0]) * (MAX_COPIES + 1) + bytes([OPUS])) is None


def test_no_bytes_whatever_are_believed_beyond_their_end() -> None:
    rng = random.Random(5)
    for _ in range(2000):
        packet = bytes(rng.choices([OPUS, 0x80 | OPUS, 0, 4, 255], k=rng.randrange(40)))
        found = unpack(packet)
        if found is not None:
            assert len(found.payload) + sum(len(c.payload) for c in found.copies) < len(packet)
