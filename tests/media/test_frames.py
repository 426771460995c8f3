"""Frame assembly: complete at the marker, reordered, retransmitted, never a broken chain."""

import random

from aiortc.rtp import RtpPacket

from media.frames import MAX_GAP_S, MAX_PACKETS, EncodedFrame, FrameAssembler

KEY, INTER = b"\x10" + bytes(15), b"\x11" + bytes(15)


class Wire:
    """Make the packets of consecutive frames and push them."""

    def __init__(self, codec: str = "vp8", *sets: bytes) -> None:
        self.codec = codec
        self.assembler = FrameAssembler({97: sets})
        self.sequence = 65_530
        self.timestamp = 1000
        self.now = 0.0
        self.got: list[EncodedFrame] = []

    def packets(self, payloads: list[bytes], *, marker: bool = True) -> list[RtpPacket]:
        """One frame of these payloads."""
        made = []
        for i, payload in enumerate(payloads):
            is_last = marker and i == len(payloads) - 1
            made.append(RtpPacket(97, int(is_last), self.sequence, self.timestamp, 1, payload))
            self.sequence = (self.sequence + 1) & 0xFFFF
        self.timestamp += 3000
        return made

    def frame(self, data: bytes, parts: int = 3) -> list[RtpPacket]:
        rest = [b"\x00" + bytes([i]) * 8 for i in range(1, parts)]
        return self.packets([b"\x10" + data, *rest])

    def push(self, *packets: RtpPacket, ssrc: int = 1) -> int:
        before = len(self.got)
        for packet in packets:
            packet.ssrc = ssrc
            self.got += self.assembler.push(packet, self.codec, self.now)
        return len(self.got) - before


def test_a_frame_is_complete_with_its_last_packet() -> None:
    wire = Wire()
    key = wire.frame(KEY)
    assert wire.push(*key[:2]) == 0
    assert wire.push(key[2]) == 1
    assert wire.got[0].is_key
    assert wire.got[0].data == KEY + b"\x01" * 8 + b"\x02" * 8
    assert wire.push(*wire.frame(INTER)) == 1
    assert not wire.got[1].is_key


def test_a_frame_without_marker_ends_where_the_next_begins() -> None:
    wire = Wire()
    key, inter = wire.frame(KEY, 1)[0], wire.frame(INTER, 1)[0]
    key.marker = 0
    wire.push(key)
    assert wire.push(inter) == 2


def test_packets_in_any_order_give_frames_in_order() -> None:
    wire = Wire()
    wire.push(*wire.frame(KEY))
    packets = [packet for _ in range(6) for packet in wire.frame(INTER)]
    random.Random(1).shuffle(packets)
    assert wire.push(*packets) == 6
    times = [frame.timestamp for frame in wire.got]
    assert times == sorted(times)


def test_nothing_comes_before_the_first_keyframe() -> None:
    wire = Wire()
    assert wire.push(*wire.frame(INTER)) == 0
    assert wire.assembler.needs_keyframe
    assert wire.push(*wire.frame(KEY)) == 1
    assert not wire.assembler.needs_keyframe


def test_a_retransmission_within_the_wait_saves_the_chain() -> None:
    wire = Wire()
    wire.push(*wire.frame(KEY))
    lost = wire.frame(INTER)
    later = wire.frame(INTER)
    wire.push(lost[0], lost[2], *later)
    wire.now += MAX_GAP_S / 2
    assert wire.push(lost[1]) == 2
    assert wire.assembler.gaps == 0


def test_after_an_unrepaired_loss_frames_wait_for_a_keyframe() -> None:
    wire = Wire()
    wire.push(*wire.frame(KEY))
    lost = wire.frame(INTER)
    wire.push(lost[0], lost[2])
    wire.now += MAX_GAP_S * 1.1
    assert wire.push(*wire.frame(INTER)) == 0
    assert wire.assembler.needs_keyframe
    assert wire.push(*wire.frame(INTER)) == 0
    assert wire.push(*wire.frame(KEY), *wire.frame(INTER)) == 2
    assert wire.assembler.gaps == 1


def test_a_keyframe_behind_a_gap_is_not_held_back() -> None:
    wire = Wire()
    wire.push(*wire.frame(KEY))
    wire.push(*wire.frame(INTER)[:2])
    assert wire.push(*wire.frame(KEY)) == 1


def test_a_new_ssrc_or_a_jump_starts_anew() -> None:
    wire = Wire()
    wire.push(*wire.frame(KEY))
    assert wire.push(*wire.frame(INTER), ssrc=2) == 0
    assert wire.push(*wire.frame(KEY), ssrc=2) == 1
    wire.sequence = (wire.sequence + 20_000) & 0xFFFF
    assert wire.push(*wire.frame(INTER), ssrc=2) == 0
    assert wire.push(*wire.frame(KEY), ssrc=2) == 1


def test_empty_packets_are_no_frames() -> None:
    wire = Wire()
    wire.push(*wire.frame(KEY))
    padding = wire.packets([b""], marker=False)[0]
    wire.timestamp -= 3000
    padding.timestamp = wire.timestamp - 3000
    wire.push(padding)
    assert wire.push(*wire.frame(INTER)) == 1
    assert all(frame.data for frame in wire.got)


def test_random_packets_never_break_it_nor_grow_it() -> None:
    rng = random.Random(5)
    wire = Wire()
    for _ in range(20_000):
        wire.now += rng.choice((0, 0.01))
        data = rng.randbytes(rng.choice((0, 1, 20)))
        payload = rng.choice((b"\x10", b"\x00")) + data if data else b""
        near = rng.random() < 0.9
        sequence = rng.randrange(400) if near else rng.randrange(65_536)
        timestamp = rng.randrange(50) * 3000
        codec = rng.choice(("vp8", "h264"))
        packet = RtpPacket(97, int(rng.random() < 0.3), sequence, timestamp, 1, payload)
        packet.ssrc = rng.choice((1, 1, 1, 2))
        wire.assembler.push(packet, codec, wire.now)
        assert len(wire.assembler._parts) <= MAX_PACKETS + 1
