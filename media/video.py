"""From a received video track to the model: a picture now and then, always the newest.

A sender is decoded whole, unless it sends much more than is wanted and has proven that it answers
requests for keyframes: of that one only keyframes are decoded, one a second. Owned by the session,
in the media worker's event loop; decodes in an executor.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from typing import Any

from aiortc import RTCRtpReceiver
from aiortc.rtp import RtpPacket

from media import hooks
from media.formats import RTP_VIDEO_HZ
from media.frames import EncodedFrame, FrameAssembler
from media.keyframes import REPEAT_S, KeyframeRequests
from media.picture import CameraPicture, Decoded, PictureDecoder
from media.videobudget import VideoBudget

CODECS = ("vp8", "h264")
KEYFRAME_INTERVAL_S = 1.0
"""Between keyframes asked of a sender at full rate; the model looks once a second."""
MIN_PLI_INTERVAL_S = 0.5
MAX_PENDING_FRAMES = 64
MAX_PENDING_BYTES = 4 << 20
"""Frames of an unbroken chain that may wait for the decoder."""
MAX_CORE = 0.3
CORE_BURST_S = 3.0
"""Part of a core, and seconds of it at once, for frames of a sender at full rate."""
IDLE_S = 0.9
"""Without a packet the sender stands still, or is switched off."""
MAX_PLI_INTERVAL_S = 8.0
FULL_RATE, WANTED_RATE = 1.75, 1.4
"""Multiples of max_fps from which, and below which, a sender is taken to send too much."""
EARLY = 0.75
"""Part of the picture interval after which a picture is taken: senders are not exact."""
RATE_WEIGHT = 0.2
MAX_FRAME_GAP_S = 10.0
MAX_INTERVAL_S = 2.0


class VideoUplink:
    """Deliver `sink(picture)` on the event loop, at most about `max_fps` times a second.

    Pictures are scaled down to `max_side`. While one is being decoded only the newest decodable
    frames are kept. `parameter_sets` are those of the offer, by payload type. `tend` must be called
    about every second. `on_error` gets the first exception, for instance of the sink, which closes
    the uplink; frames that do not decode are counted and a keyframe is asked for.
    """

    def __init__(
        self,
        receiver: RTCRtpReceiver,
        sink: Callable[[CameraPicture], None],
        *,
        executor: Executor,
        on_error: Callable[[Exception], None],
        max_fps: float = 2.0,
        max_side: int = 640,
        parameter_sets: Mapping[int, tuple[bytes, ...]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.last_arrival: float | None = None
        """When the latest packet came, on the clock; None before the first."""
        self._receiver = receiver
        self._sink = sink
        self._executor = executor
        self._on_error = on_error
        self._max_fps = max_fps
        self._clock = clock
        self._assembler = FrameAssembler(parameter_sets or {})
        self._requests = KeyframeRequests()
        self._decoder = PictureDecoder(max_side)
        self._pending: list[tuple[EncodedFrame, int]] = []
        self._job: asyncio.Future[Decoded] | None = None
        self._is_chain_whole = False
        self._is_full_rate = False
        self._allowance_s = CORE_BURST_S
        self._allowed_s: float | None = None
        self._has_newer = False
        self._ssrc: int | None = None
        self._last_report_s: float | None = None
        self._has_said_bye = False
        self._interval_s = 0.0
        self._last_timestamp: int | None = None
        self._last_frame_s = 0.0
        self._pts_ms = 0.0
        self._picture_pts_ms: float | None = None
        self._last_picture_s: float | None = None
        self._last_pli_s: float | None = None
        self._is_closed = False
        self._counts = dict.fromkeys(
            ("packetsReceived", "bytesReceived", "framesReceived", "framesDecoded")
            + ("keyFramesDecoded", "framesDropped", "decodeErrors", "pliCount", "pictures")
            + ("frameWidth", "frameHeight"),
            0,
        )
        self._budget = VideoBudget()
        hooks.take_video(
            receiver,
            self._on_packet,
            self._on_report,
            self._on_bye,
            limit=lambda: self._budget.limit,
            clock=clock,
        )

    def close(self) -> None:
        """Deliver nothing from now on, and go on discarding what arrives."""
        self._is_closed = True
        self._pending.clear()

    def stats(self) -> dict[str, float | int]:
        """Return counters by their webrtc-stats names and units."""
        reception = hooks.reception(self._receiver)
        return {
            **self._counts,
            "packetsLost": reception.packets_lost,
            "jitter": reception.jitter_s,
            "framesPerSecond": 1 / self._interval_s if self._interval_s else 0.0,
            "packetsDiscarded": self._assembler.late_packets,
            "bitrateLimit": self._budget.limit,
            "gaps": self._assembler.gaps,
        }

    @property
    def is_off(self) -> bool:
        """Whether the track says that nothing is shown: it left, or it is alive without pictures.

        Never because nothing came: a picture may stand still.
        """
        if self.last_arrival is None:
            return False
        return self._has_said_bye or self._requests.is_off(
            self._clock(), self.last_arrival, self._last_report_s
        )

    def give_way(self, sound_received: int, sound_lost: int, spread_s: float) -> None:
        """Look how the caller's sound arrives (`media.videobudget`); call it about every second."""
        self._budget.look(
            self._clock(), sound_received, sound_lost, spread_s, self._counts["bytesReceived"]
        )

    async def tend(self) -> None:
        """Do what is due although no packet came: show the newest picture, ask who stands still."""
        if self._is_closed or self.last_arrival is None:
            return
        now = self._clock()
        if self._has_newer and self._job is None and not self._pending:
            self._decode([], int(self._pts_ms))
        is_idle = now - self.last_arrival >= IDLE_S and not self._has_said_bye
        if is_idle and self._ssrc is not None and self._is_time_to_ask(now):
            self._ask(now)
            await hooks.request_keyframe(self._receiver, self._ssrc)

    def _on_report(self, ssrc: int) -> None:
        if ssrc == self._ssrc:
            self._last_report_s = self._clock()

    def _on_bye(self, sources: list[int]) -> None:
        self._has_said_bye = self._has_said_bye or self._ssrc in sources

    def _on_packet(self, packet: RtpPacket, codec: str) -> bool:
        """Take a packet; return whether to ask for a keyframe."""
        if self._is_closed or codec not in CODECS:
            return False
        try:
            return self._take(packet, codec)
        except Exception as exc:  # noqa: BLE001  handed to the session, which ends the call
            self.close()
            self._on_error(exc)
            return False

    def _take(self, packet: RtpPacket, codec: str) -> bool:
        now = self._clock()
        self.last_arrival = now
        self._counts["packetsReceived"] += 1
        self._counts["bytesReceived"] += len(packet.payload)
        self._ssrc = packet.ssrc
        self._has_said_bye = False
        if self._last_picture_s is None:
            self._last_picture_s = now
        for frame in self._assembler.push(packet, codec, now):
            self._offer(frame, now)
        self._start_decoding()
        if not self._wants_keyframe(now):
            return False
        self._ask(now)
        return True

    def _offer(self, frame: EncodedFrame, now: float) -> None:
        """Queue a frame for decoding, or drop it."""
        self._counts["framesReceived"] += 1
        self._follow_time(frame, now)
        if frame.is_key:
            self._requests.came(now, self._interval_s)
        else:
            self._requests.ignored(now)
        pts_ms = int(self._pts_ms)
        is_skipping = self._is_full_rate and self._requests.is_answering
        if is_skipping and (not frame.is_key or not self._is_due(pts_ms)):
            self._drop(frame)
            return
        if frame.is_key:
            self._drop_pending()
            self._is_chain_whole = True
        elif self._assembler.needs_keyframe or self._is_too_much(now):
            self._drop_pending()
            self._is_chain_whole = False
        if self._is_chain_whole:
            self._pending.append((frame, pts_ms))
        else:
            self._drop(frame)

    def _drop(self, frame: EncodedFrame) -> None:
        del frame
        self._is_chain_whole = False
        self._counts["framesDropped"] += 1

    def _is_too_much(self, now: float) -> bool:
        """Tell whether the frames behind a keyframe cost more than a call may."""
        elapsed_s = now - (self._allowed_s or now)
        self._allowed_s = now
        self._allowance_s = min(CORE_BURST_S, self._allowance_s + elapsed_s * MAX_CORE)
        waiting_bytes = sum(len(frame.data) for frame, _ in self._pending)
        is_backed_up = len(self._pending) >= MAX_PENDING_FRAMES or waiting_bytes > MAX_PENDING_BYTES
        return is_backed_up or (self._is_full_rate and self._allowance_s <= 0)

    def _drop_pending(self) -> None:
        self._counts["framesDropped"] += len(self._pending)
        self._pending.clear()

    def _follow_time(self, frame: EncodedFrame, now: float) -> None:
        """Advance the media time and learn the sender's frame rate."""
        if self._last_timestamp is not None:
            ticks = (frame.timestamp - self._last_timestamp) & 0xFFFFFFFF
            elapsed_s = ticks / RTP_VIDEO_HZ
            if elapsed_s > MAX_FRAME_GAP_S:
                elapsed_s = max(0.0, now - self._last_frame_s)
            self._pts_ms += elapsed_s * 1000
            change_s = min(elapsed_s, MAX_INTERVAL_S) - self._interval_s
            self._interval_s += change_s * (RATE_WEIGHT if self._interval_s else 1.0)
        self._last_timestamp = frame.timestamp
        self._last_frame_s = now
        if self._interval_s:
            limit = WANTED_RATE if self._is_full_rate else FULL_RATE
            self._is_full_rate = self._interval_s * self._max_fps * limit < 1

    def _is_due(self, pts_ms: float) -> bool:
        latest = self._picture_pts_ms
        return latest is None or pts_ms - latest >= EARLY * 1000 / self._max_fps

    def _start_decoding(self) -> None:
        if self._job is not None or not self._pending or self._is_closed:
            return
        frames = [frame for frame, _ in self._pending]
        pts_ms = self._pending[-1][1]
        self._pending.clear()
        is_wanted = self._is_due(pts_ms)
        self._has_newer = not is_wanted
        self._decode(frames, pts_ms if is_wanted else None)

    def _decode(self, frames: list[EncodedFrame], pts_ms: int | None) -> None:
        if pts_ms is not None:
            self._picture_pts_ms = pts_ms
            self._has_newer = False
        loop = asyncio.get_running_loop()
        self._job = loop.run_in_executor(self._executor, self._decoder.decode, frames, pts_ms)
        self._job.add_done_callback(self._finish_decoding)

    def _finish_decoding(self, job: "asyncio.Future[Any]") -> None:
        self._job = None
        if self._is_closed or job.cancelled():
            return
        try:
            self._apply(job.result())
        except Exception as exc:  # noqa: BLE001  handed to the session, which ends the call
            self.close()
            self._on_error(exc)
            return
        self._start_decoding()

    def _apply(self, decoded: Decoded) -> None:
        counts = self._counts
        counts["framesDecoded"] += decoded.frames
        counts["keyFramesDecoded"] += decoded.keyframes
        counts["decodeErrors"] += decoded.errors
        counts["framesDropped"] += decoded.errors
        self._allowance_s -= decoded.cpu_s
        if decoded.errors:
            self._is_chain_whole = False
            self._drop_pending()
        if decoded.frames:
            counts["frameWidth"], counts["frameHeight"] = decoded.width, decoded.height
            self._last_picture_s = self._clock()
        if decoded.picture is not None:
            counts["pictures"] += 1
            self._sink(decoded.picture)

    def _wants_keyframe(self, now: float) -> bool:
        if not self._is_time_to_ask(now):
            return False
        is_broken = self._assembler.needs_keyframe or not self._is_chain_whole
        if self._is_full_rate and self._requests.is_answering:
            latest_s = max(self._last_picture_s or now, self._last_pli_s or 0.0)
            return now - latest_s >= KEYFRAME_INTERVAL_S
        if is_broken:
            return True
        return self._requests.wants_probe(now)

    def _is_time_to_ask(self, now: float) -> bool:
        """Ask again and again, but ever less often who does not answer."""
        if self._last_pli_s is None:
            return True
        doublings = min(max(0, self._requests.unanswered - 1), 10)
        interval_s: float = min(MIN_PLI_INTERVAL_S * (1 << doublings), MAX_PLI_INTERVAL_S)
        if self._requests.is_answering:
            interval_s = min(interval_s, REPEAT_S * IDLE_S)
        return now - self._last_pli_s >= interval_s

    def _ask(self, now: float) -> None:
        self._last_pli_s = now
        self._requests.asked(now)
        self._counts["pliCount"] += 1
