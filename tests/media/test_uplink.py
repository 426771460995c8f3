"""The audio uplink: gapless 20 ms, statistics, errors that are reported, no thread."""

import asyncio
import random
from dataclasses import dataclass, field

import numpy as np
import pytest
from aiortc.rtp import RtcpRrPacket

from media import hooks
from media.opus import SILENT_PACKET, OpusEncoder
from media.red import Copy, pack
from media.uplink import AudioUplink, UnsupportedCodec
from tests.media.network import Sent, VirtualClock, lossy, stream
from tests.media.peers import speech
from tests.media.rig import OPUS, PCMU, RED, Rig, assert_no_decoder_thread, rig


def encoded(seconds: float) -> list[bytes]:
    encoder = OpusEncoder()
    pcm = speech(seconds, 24_000)
    return [encoder.encode(pcm[i : i + 960]) for i in range(0, len(pcm), 960)]


@dataclass
class Ear:
    """Collect what an uplink delivers and check that nothing is missing."""

    clock: VirtualClock = field(default_factory=VirtualClock)
    pcm: bytes = b""
    errors: list[Exception] = field(default_factory=list)

    def attach(self, made: Rig) -> AudioUplink:
        return AudioUplink(made.receiver, self.hear, on_error=self.errors.append, clock=self.clock)

    def hear(self, pts: int, pcm: bytes) -> None:
        assert pts == len(self.pcm) // 2
        assert len(pcm) == 640
        self.pcm += pcm

    async def play(
        self, made: Rig, uplink: AudioUplink, packets: list[Sent], payload_type: int = OPUS
    ) -> None:
        begin, polled = self.clock.now, 0
        for packet in packets:
            while polled * 0.02 <= packet.at:
                self.clock.now = begin + polled * 0.02
                uplink.poll()
                polled += 1
            self.clock.now = begin + packet.at
            await made.feed(
                packet.sequence, packet.timestamp, packet.payload, payload_type=payload_type
            )


def with_payloads(packets: list[Sent], payloads: list[bytes]) -> list[Sent]:
    return [
        Sent(p.at, p.sequence, p.timestamp, payload)
        for p, payload in zip(packets, payloads, strict=True)
    ]


async def test_speech_arrives_gapless_and_without_a_decoder_thread() -> None:
    async with rig("audio") as made:
        ear = Ear()
        uplink = ear.attach(made)
        await made.start()
        await ear.play(made, uplink, with_payloads(stream(100), encoded(2.0)))
        assert len(ear.pcm) == 100 * 640
        assert np.abs(np.frombuffer(ear.pcm, np.int16)).max() > 3000
        assert_no_decoder_thread()
        assert made.receiver.track._queue.qsize() <= 1  # type: ignore[attr-defined]
        assert ear.errors == []


async def test_attaching_after_the_start_ends_the_decoder_thread() -> None:
    async with rig("audio") as made:
        await made.start()
        ear = Ear()
        uplink = ear.attach(made)
        await ear.play(made, uplink, with_payloads(stream(50), encoded(1.0)))
        assert len(ear.pcm) == 50 * 640
        assert_no_decoder_thread()


async def test_loss_is_filled_and_counted_in_webrtc_units() -> None:
    async with rig("audio") as made:
        ear = Ear()
        uplink = ear.attach(made)
        await made.start()
        sent = lossy(with_payloads(stream(500), encoded(10.0)), 0.05)
        await ear.play(made, uplink, sent)
        stats = uplink.stats()
        lost = 500 - len(sent)
        assert len(ear.pcm) == 500 * 640
        assert stats["packetsReceived"] == len(sent)
        assert stats["packetsLost"] == lost
        assert stats["concealedSamples"] + stats["fecSamplesRecovered"] == lost * 320
        assert stats["fecPacketsReceived"] >= 0.5 * lost
        assert stats["totalSamplesReceived"] == 500 * 320
        assert stats["jitterBufferEmittedCount"] == len(sent) * 320
        assert stats["bytesReceived"] == sum(len(p.payload) for p in sent)
        assert stats["jitterBufferDelay"] / stats["jitterBufferEmittedCount"] < 0.010


def redundant(payloads: list[bytes]) -> list[bytes]:
    """Each with a copy of the one before."""
    copies = [[], *([Copy(960, payload)] for payload in payloads)]
    return [pack(OPUS, payload, copy) for payload, copy in zip(payloads, copies, strict=False)]


async def test_copies_in_later_packets_replace_what_is_lost() -> None:
    heard: list[bytes] = []
    payloads = encoded(2.0)
    whole = with_payloads(stream(100), payloads)
    copying = with_payloads(stream(100), redundant(payloads))
    for sent, payload_type in [(whole, OPUS), (copying[:7] + copying[8:], RED)]:
        async with rig("audio") as made:
            ear = Ear()
            uplink = ear.attach(made)
            await made.start()
            await ear.play(made, uplink, sent, payload_type)
            assert ear.errors == []
            heard.append(ear.pcm)
            stats = uplink.stats()
    assert heard[0] == heard[1]
    assert (stats["packetsLost"], stats["packetsDiscarded"]) == (1, 0)
    assert (stats["fecPacketsReceived"], stats["concealedSamples"]) == (1, 0)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x80\0\0",
        pack(PCMU, SILENT_PACKET, [Copy(960, SILENT_PACKET)]),
        pack(RED, pack(OPUS, SILENT_PACKET, []), []),
    ],
    ids=["empty", "cut", "of_another_codec", "in_itself"],
)
async def test_a_malformed_packet_with_copies_is_concealed(payload: bytes) -> None:
    async with rig("audio") as made:
        ear = Ear()
        uplink = ear.attach(made)
        await made.start()
        payloads = [pack(OPUS, SILENT_PACKET, [])] * 50
        payloads[20] = payload
        await ear.play(made, uplink, with_payloads(stream(50), payloads), RED)
        stats = uplink.stats()
        assert ear.errors == [] and len(ear.pcm) == 50 * 640
        assert (stats["packetsDiscarded"], stats["concealedSamples"]) == (1, 320)


async def test_receiver_reports_carry_the_loss_that_turns_fec_on() -> None:
    async with rig("audio") as made:
        ear = Ear()
        uplink = ear.attach(made)
        await made.start()
        packets = with_payloads(stream(100), encoded(2.0))
        await ear.play(made, uplink, packets[:40] + packets[50:])
        assert hooks.reception(made.receiver).packets_lost == 10
        await asyncio.wait_for(made.transport.has_sent.wait(), 10)
        report = made.transport.rtcp(RtcpRrPacket)[0].reports[0]
        assert report.packets_lost == 10
        assert report.fraction_lost == 256 // 10


@pytest.mark.parametrize("payload", [b"", b"\x7a\xff\xff", b"\x03\x31", b"\x78\xff" * 3])
async def test_garbage_is_concealed(payload: bytes) -> None:
    async with rig("audio") as made:
        ear = Ear()
        uplink = ear.attach(made)
        await made.start()
        payloads = encoded(1.0)
        payloads[20] = payload
        await ear.play(made, uplink, with_payloads(stream(50), payloads))
        assert len(ear.pcm) >= 50 * 640
        assert ear.errors == []


async def test_random_payloads_never_break_the_timeline() -> None:
    async with rig("audio") as made:
        ear, rng = Ear(), random.Random(9)
        uplink = ear.attach(made)
        await made.start()
        payloads = [rng.randbytes(rng.randrange(60)) for _ in range(1000)]
        await ear.play(made, uplink, with_payloads(stream(1000), payloads))
        assert ear.errors == []
        assert len(ear.pcm) // 2 == pytest.approx(20 * 16_000, rel=0.1)


async def test_odd_packet_durations_are_cut_to_20_ms() -> None:
    async with rig("audio") as made:
        ear = Ear()
        uplink = ear.attach(made)
        await made.start()
        silence_10_ms, silence_60_ms = b"\xf0\xff\xfe", b"\xfb\x03\xff\xff\xff"
        await ear.play(made, uplink, stream(7, ms=10, payload=silence_10_ms))
        packets = stream(
            5, ms=60, payload=silence_60_ms, sequence=107, timestamp=5000 + 7 * 480, at=0.08
        )
        await ear.play(made, uplink, packets)
        assert len(ear.pcm) == (70 + 300) // 20 * 640


async def test_failing_sink_is_reported_once_and_closes_the_uplink() -> None:
    async with rig("audio") as made:
        errors: list[Exception] = []
        calls: list[int] = []

        def sink(pts: int, pcm: bytes) -> None:
            calls.append(pts)
            raise KeyError("sink")

        uplink = AudioUplink(made.receiver, sink, on_error=errors.append)
        await made.start()
        for packet in with_payloads(stream(5), encoded(0.1)):
            await made.feed(packet.sequence, packet.timestamp, packet.payload, payload_type=OPUS)
        uplink.poll()
        assert [type(e) for e in errors] == [KeyError]
        assert calls == [0]


async def test_another_codec_is_an_error_and_not_silence() -> None:
    async with rig("audio") as made:
        ear = Ear()
        ear.attach(made)
        await made.start()
        await made.feed(1, 0, bytes(160), payload_type=PCMU)
        assert [type(e) for e in ear.errors] == [UnsupportedCodec]


async def test_closed_uplink_is_silent() -> None:
    async with rig("audio") as made:
        ear = Ear()
        uplink = ear.attach(made)
        await made.start()
        uplink.close()
        await made.feed(1, 0, encoded(0.02)[0], payload_type=OPUS)
        uplink.poll()
        assert ear.pcm == b""
