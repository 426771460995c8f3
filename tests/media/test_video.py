"""The video uplink: newest picture, keyframes only at full rate, bounded work, PLI."""

import asyncio
import fractions
from concurrent.futures import Executor, Future
from typing import Any

import av
import numpy as np
import pytest
from aiortc.codecs.h264 import H264Encoder
from aiortc.codecs.vpx import Vp8Encoder
from aiortc.rtp import (
    RTCP_PSFB_APP,
    RTCP_PSFB_PLI,
    RtcpByePacket,
    RtcpPsfbPacket,
    RtcpSenderInfo,
    RtcpSrPacket,
    unpack_remb_fci,
)

from media.frames import EncodedFrame
from media.picture import CameraPicture, PictureDecoder
from media.video import MAX_PENDING_FRAMES, VideoUplink
from media.videobudget import MAX_BITRATE
from tests.media.network import VirtualClock
from tests.media.rig import H264, VP8, Rig, assert_no_decoder_thread, rig


class HandExecutor(Executor):
    """Run jobs when told."""

    def __init__(self) -> None:
        self.jobs: list[tuple[Future[Any], Any]] = []

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.jobs.append((future, lambda: fn(*args, **kwargs)))
        return future

    def run(self) -> None:
        jobs, self.jobs = self.jobs, []
        for future, job in jobs:
            future.set_result(job())


class Camera:
    """Encode frames and let them arrive in virtual time."""

    def __init__(self, made: Rig, codec: str = "vp8", *, fps: float = 2.0) -> None:
        self.made = made
        self.clock = VirtualClock()
        self.executor = HandExecutor()
        self.pictures: list[CameraPicture] = []
        self.errors: list[Exception] = []
        self.fps = fps
        self.answers = True
        self.payload_type = VP8 if codec == "vp8" else H264
        self.uplink = VideoUplink(
            made.receiver,
            self.pictures.append,
            executor=self.executor,
            on_error=self.errors.append,
            clock=self.clock,
        )
        self._encoder = Vp8Encoder() if codec == "vp8" else H264Encoder()
        self._index = 0
        self._sequence = 60_000

    @property
    def num_pli(self) -> int:
        return len(self.feedback(RTCP_PSFB_PLI))

    def feedback(self, kind: int) -> list[RtcpPsfbPacket]:
        return [p for p in self.made.transport.rtcp(RtcpPsfbPacket) if p.fmt == kind]

    async def shoot(
        self, size: tuple[int, int] = (320, 240), *, loses: bool = False, decodes: bool = True
    ) -> None:
        """Send one frame, as a keyframe when one was asked for since the last."""
        image = np.zeros((size[1], size[0], 3), np.uint8)
        image[:, : size[0] // 2, 0] = 250
        image[:, size[0] // 2 :, 2] = 40 + self._index % 8 * 20
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts = int(self._index * 90_000 / self.fps)
        frame.time_base = fractions.Fraction(1, 90_000)
        pli = self.num_pli
        is_key = self.answers and pli > getattr(self, "_answered", 0)
        self._answered = pli
        payloads, timestamp = self._encoder.encode(frame, is_key)
        self.clock.now = 1000.0 + self._index / self.fps
        self._index += 1
        for i, payload in enumerate(payloads):
            self._sequence += 1
            if not loses:
                await self.made.feed(
                    self._sequence,
                    timestamp,
                    payload,
                    payload_type=self.payload_type,
                    marker=int(i == len(payloads) - 1),
                )
        if decodes:
            await self.develop()

    async def develop(self) -> None:
        while self.executor.jobs:
            self.executor.run()
            for _ in range(4):
                await asyncio.sleep(0)


@pytest.mark.parametrize("codec", ["vp8", "h264"])
async def test_a_slow_sender_is_decoded_whole(codec: str) -> None:
    async with rig("video") as made:
        camera = Camera(made, codec)
        await made.start()
        for _ in range(10):
            await camera.shoot()
        assert [p.pts_ms for p in camera.pictures] == [500 * i for i in range(10)]
        picture = camera.pictures[-1]
        assert (picture.width, picture.height) == (320, 240)
        rgb = np.frombuffer(picture.rgb, np.uint8).reshape(240, 320, 3)
        assert rgb[120, 60].tolist() == pytest.approx([250, 0, 0], abs=30)
        stats = camera.uplink.stats()
        assert stats["framesReceived"] == stats["framesDecoded"] == 10
        # The first, and those that show that the sender answers.
        assert stats["keyFramesDecoded"] <= 3
        assert stats["pliCount"] == camera.num_pli <= 2
        assert camera.uplink.last_arrival == camera.clock.now
        assert_no_decoder_thread()
        assert made.receiver.track._queue.qsize() <= 1  # type: ignore[attr-defined]


async def test_of_a_fast_sender_only_requested_keyframes_are_decoded() -> None:
    async with rig("video") as made:
        camera = Camera(made, fps=30)
        await made.start()
        for _ in range(300):
            await camera.shoot()
        stats = camera.uplink.stats()
        assert 8 <= len(camera.pictures) <= 17
        assert 8 <= camera.num_pli <= 11
        assert stats["framesDecoded"] <= 110
        assert stats["framesDropped"] == 300 - stats["framesDecoded"]
        gaps = np.diff([p.pts_ms for p in camera.pictures])
        assert gaps.min() >= 370
        assert gaps.max() <= 1200


async def test_a_sender_with_rare_keyframes_that_answers_nothing_is_seen_all_the_time() -> None:
    async with rig("video") as made:
        camera = Camera(made, fps=15)
        camera.answers = False
        await made.start()
        for _ in range(300):
            await camera.shoot()
        gaps = np.diff([p.pts_ms for p in camera.pictures])
        assert len(camera.pictures) >= 30
        assert gaps.max() <= 600
        # Asked ever less often.
        assert camera.num_pli <= 15


async def test_a_picture_that_stands_still_is_shown_and_no_camera_that_is_off() -> None:
    async with rig("video") as made:
        camera = Camera(made, fps=15)
        camera.answers = False
        await made.start()
        for _ in range(31):
            await camera.shoot()
        last_ms = int(30 / 15 * 1000)
        for _ in range(60):
            camera.clock.now += 1
            await camera.uplink.tend()
            await camera.develop()
        assert camera.pictures[-1].pts_ms == last_ms
        assert not camera.uplink.is_off


async def test_a_camera_that_is_alive_and_shows_nothing_is_off_until_it_shows_again() -> None:
    async with rig("video") as made:
        camera = Camera(made, fps=15)
        await made.start()
        for _ in range(90):
            await camera.shoot()
        for _ in range(5):
            camera.clock.now += 1
            report = RtcpSrPacket(1, RtcpSenderInfo(0, 0, 0, 0))
            await made.receiver._handle_rtcp_packet(report)
            await camera.uplink.tend()
        assert camera.uplink.is_off
        camera._index += 75
        await camera.shoot()
        assert not camera.uplink.is_off


async def test_a_camera_that_says_goodbye_is_off() -> None:
    async with rig("video") as made:
        camera = Camera(made, fps=5)
        await made.start()
        await camera.shoot()
        await made.receiver._handle_rtcp_packet(RtcpByePacket([77]))
        assert not camera.uplink.is_off
        await made.receiver._handle_rtcp_packet(RtcpByePacket([1]))
        assert camera.uplink.is_off
        await camera.shoot()
        assert not camera.uplink.is_off


async def test_a_sender_that_costs_too_much_is_seen_at_its_keyframes() -> None:
    async with rig("video") as made:
        camera = Camera(made, fps=15)
        camera.answers = False
        await made.start()
        for _ in range(10):
            await camera.shoot()
        camera.uplink._allowance_s = -10.0
        before = camera.uplink.stats()["framesDecoded"]
        for _ in range(30):
            await camera.shoot()
        assert camera.uplink.stats()["framesDecoded"] == before
        camera.answers = True
        for _ in range(150):
            await camera.shoot()
        assert camera.uplink.stats()["framesDecoded"] > before


async def test_a_sender_that_slows_down_is_decoded_whole_again() -> None:
    async with rig("video") as made:
        camera = Camera(made, fps=30)
        await made.start()
        for _ in range(60):
            await camera.shoot()
        camera.fps, camera._index = 2.0, 5
        for _ in range(20):
            await camera.shoot()
        before = len(camera.pictures)
        for _ in range(10):
            await camera.shoot()
        assert len(camera.pictures) - before == 10


@pytest.mark.parametrize("codec", ["vp8", "h264"])
async def test_sizes_may_change(codec: str) -> None:
    async with rig("video") as made:
        camera = Camera(made, codec)
        await made.start()
        for size in ((640, 360), (960, 540), (320, 180), (180, 320)):
            for _ in range(2):
                await camera.shoot(size)
        sizes = [(p.width, p.height) for p in camera.pictures[::2]]
        assert sizes == [(640, 360), (640, 360), (320, 180), (180, 320)]
        assert all(len(p.rgb) == p.width * p.height * 3 for p in camera.pictures)
        assert camera.uplink.stats()["frameHeight"] == 320


async def test_a_loss_asks_for_a_keyframe_and_shows_no_broken_picture() -> None:
    async with rig("video") as made:
        camera = Camera(made)
        await made.start()
        for _ in range(12):
            await camera.shoot()
        learned = camera.num_pli
        for i in range(12, 24):
            await camera.shoot(loses=i == 17)
        assert camera.num_pli == learned + 1
        assert camera.uplink.stats()["gaps"] == 1
        times = [p.pts_ms for p in camera.pictures]
        assert 8500 not in times
        assert times[-1] == 11_500
        assert len(times) >= 21


async def test_while_one_is_decoded_only_the_newest_frames_wait() -> None:
    async with rig("video") as made:
        camera = Camera(made)
        await made.start()
        for _ in range(40):
            await camera.shoot(decodes=False)
        assert len(camera.executor.jobs) == 1
        assert len(camera.uplink._pending) <= MAX_PENDING_FRAMES
        await camera.develop()
        assert camera.pictures[-1].pts_ms > 15_000
        assert len(camera.pictures) <= 3


async def test_frames_that_do_not_decode_are_counted_and_a_keyframe_is_asked_for() -> None:
    async with rig("video") as made:
        camera = Camera(made)
        await made.start()
        garbage = b"\x10" + b"\x10\x02\x00\x00\x00\x00" + bytes(40)
        await made.feed(1, 0, garbage, payload_type=VP8, marker=1)
        await camera.develop()
        camera.clock.now += 0.6
        await made.feed(2, 45_000, b"\x10\x11" + bytes(40), payload_type=VP8, marker=1)
        assert camera.uplink.stats()["decodeErrors"] == 1
        assert camera.num_pli == 1
        assert camera.errors == []


async def test_failing_sink_is_reported_and_closes_the_uplink() -> None:
    async with rig("video") as made:
        camera = Camera(made)

        def fail(picture: CameraPicture) -> None:
            raise KeyError("sink")

        camera.uplink._sink = fail
        await made.start()
        for _ in range(3):
            await camera.shoot()
        assert [type(e) for e in camera.errors] == [KeyError]


async def test_closed_uplink_decodes_nothing() -> None:
    async with rig("video") as made:
        camera = Camera(made)
        await made.start()
        await camera.shoot(decodes=False)
        camera.uplink.close()
        await camera.develop()
        await camera.shoot()
        assert camera.pictures == []


def test_a_header_that_claims_a_huge_picture_is_refused() -> None:
    data = b"\x10\x02\x00\x9d\x01\x2a\xff\x3f\xff\x3f" + bytes(200)
    decoded = PictureDecoder(640).decode([EncodedFrame("vp8", 0, True, data)], 0)
    assert decoded.errors == 1
    assert decoded.picture is None


async def test_a_camera_is_told_to_give_way_to_sound_that_is_lost() -> None:
    async with rig("video") as made:
        camera = Camera(made)
        await made.start()
        limits = []
        for i in range(20):
            camera.clock.now += 0.5
            await made.feed(i, i * 45_000, b"\x10\x11" + bytes(12_000), payload_type=VP8)
            camera.uplink.give_way(25 * i, 5 * max(0, i - 9), 0.02)
            told = camera.feedback(RTCP_PSFB_APP)
            limits.append(unpack_remb_fci(told[-1].fci) if told else None)
        assert limits[8] == (MAX_BITRATE, [1])
        final = limits[-1]
        assert final is not None
        assert final[0] < 12_000 * 8 * 2
        assert camera.uplink.stats()["bitrateLimit"] <= final[0]
