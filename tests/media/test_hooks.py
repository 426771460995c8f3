"""The hooks into aiortc: the version they are for, and that each still fires."""

import importlib.metadata

import aiortc
import pytest
from aiortc.rtp import RtcpPsfbPacket, RtcpRtpfbPacket, RtpPacket

from media import hooks
from tests.media.rig import OPUS, VP8, VP8_RTX, assert_no_decoder_thread, rig

VP8_START = b"\x10" + b"\x10\x02\x00\x9d\x01\x2a\x40\x01\xf0\x00" + bytes(20)


def test_the_installed_aiortc_is_the_one_hooked() -> None:
    assert hooks.AIORTC_VERSION == aiortc.__version__ == importlib.metadata.version("aiortc")
    hooks.check_version()


def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aiortc, "__version__", "1.17.0")
    with pytest.raises(RuntimeError, match="1.17.0"):
        hooks.check_version()


async def test_audio_hook_gets_known_payload_types() -> None:
    async with rig("audio") as made:
        got: list[tuple[int, str]] = []
        hooks.take_audio(made.receiver, lambda p, codec: got.append((p.sequence_number, codec)))
        await made.start()
        await made.feed(7, 0, b"\x78", payload_type=OPUS)
        await made.feed(8, 960, b"\x78", payload_type=111)
        assert got == [(7, "opus")]
        assert hooks.reception(made.receiver).packets_received == 1


async def test_statistics_are_kept_for_a_bounded_number_of_sources() -> None:
    async with rig("audio") as made:
        hooks.take_audio(made.receiver, lambda p, codec: None)
        await made.start()
        for ssrc in range(100):
            await made.feed(1, 0, b"\x78", payload_type=OPUS, ssrc=ssrc)
        streams = made.receiver._RTCRtpReceiver__remote_streams  # type: ignore[attr-defined]
        assert len(streams) == hooks.MAX_SOURCES


async def test_video_hook_gets_payloads_and_sends_pli_and_nack() -> None:
    async with rig("video") as made:
        seen: list[tuple[int, str, bytes]] = []

        def on_packet(packet: RtpPacket, codec: str) -> bool:
            seen.append((packet.sequence_number, codec, packet.payload))
            return len(seen) == 1

        hooks.take_video(made.receiver, on_packet)
        await made.start()
        await made.feed(1, 0, VP8_START, payload_type=VP8)
        await made.feed(3, 0, VP8_START, payload_type=VP8)
        resent = b"\x00\x02" + VP8_START
        await made.feed(900, 0, resent, payload_type=VP8_RTX, ssrc=2)
        assert seen == [(n, "vp8", VP8_START) for n in (1, 3, 2)]
        assert len(made.transport.rtcp(RtcpPsfbPacket)) == 1
        assert [p.lost for p in made.transport.rtcp(RtcpRtpfbPacket)] == [[2]]
        assert_no_decoder_thread()
        assert made.receiver.track._queue.qsize() <= 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("jump", [600, 20_000, 32_767, 50_000])
async def test_a_jump_of_the_video_sequence_asks_for_nothing_again(jump: int) -> None:
    async with rig("video") as made:
        hooks.take_video(made.receiver, lambda p, codec: False)
        await made.start()
        await made.feed(1, 0, VP8_START, payload_type=VP8)
        await made.feed(1 + jump, 0, VP8_START, payload_type=VP8)
        assert made.transport.rtcp(RtcpRtpfbPacket) == []
        await made.feed(3 + jump, 0, VP8_START, payload_type=VP8)
        assert [p.lost for p in made.transport.rtcp(RtcpRtpfbPacket)] == [[(2 + jump) & 0xFFFF]]


@pytest.mark.parametrize("kind", ["audio", "video"])
@pytest.mark.parametrize("is_started", [False, True])
async def test_discarded_receiver_keeps_nothing(kind: str, is_started: bool) -> None:
    async with rig(kind) as made:
        if is_started:
            await made.start()
        hooks.discard(made.receiver)
        if not is_started:
            await made.start()
        for i in range(200):
            await made.feed(
                i, i * 960, VP8_START, payload_type=OPUS if kind == "audio" else VP8, marker=1
            )
        assert made.receiver.track._queue.qsize() <= 1  # type: ignore[attr-defined]
        assert made.receiver._RTCRtpReceiver__jitter_buffer._origin is None  # type: ignore[attr-defined]
