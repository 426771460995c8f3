"""Packets of sound are read as aiortc reads them, and refused where it refuses them."""

import random
import struct

import pytest
from aiortc.rtp import RtpPacket

from media.hooks import AudioPacket
from signaling.sound_packet import SoundPacket, read_sound, ssrc_of


def test_fields_are_those_that_aiortc_reads() -> None:
    chance = random.Random(3)
    read = 0
    for _ in range(4000):
        first = 0x80 | chance.choice([0, 0x10, 0x20, 0x30]) | chance.choice([0, 0, 1, 15])
        data = bytes([first]) + chance.randbytes(11 + chance.randrange(90))
        if first & 0x10:
            at = 12 + 4 * (first & 15)
            words = chance.randrange(4)
            data = data[:at] + struct.pack("!HH", 0x2222, words) + data[at + 4 :]
        try:
            known = RtpPacket.parse(data)
        except (ValueError, struct.error):
            with pytest.raises(ValueError, match="malformed|truncated"):
                read_sound(data)
            continue
        packet: AudioPacket = read_sound(data)
        read += 1
        for name in SoundPacket.__struct_fields__:
            assert getattr(packet, name) == getattr(known, name), (name, data.hex())
        assert ssrc_of(data) == known.ssrc
    assert read > 1000


def test_another_version_is_refused() -> None:
    with pytest.raises(ValueError, match="malformed"):
        read_sound(b"\x40" + bytes(20))
