"""From a received video track to the model: a picture now and then, always the newest.

A sender that sends about what is wanted is decoded whole. One at full rate is asked for a keyframe
each second and only those are decoded. Owned by the session, in the media worker's event loop;
decodes in an executor.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

from aiortc import RTCRtpReceiver
from aiortc.rtp import RtpPacket

from media import hooks
from media.formats import RTP_VIDEO_HZ
from media.frames import EncodedFrame, FrameAssembler
from media.picture import Decoded, Picture, PictureDecoder

CODECS = ("vp8", "h264")
KEYFRAME_INTERVAL_S = 1.0
"""Between keyframes asked of a sender at full rate; the model looks once a second."""
MIN_PLI_INTERVAL_S = 0.5
MAX_PENDING_FRAMES = 8
"""Frames of an unbroken chain that may wait for the decoder."""
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
    frames are kept. `on_error` gets the first exception, for instance of the sink, which closes the
    uplink; frames that do not decode are counted and a keyframe is asked for.
    """

    def __init__(
        self,
        receiver: RTCRtpReceiver,
        sink: Callable[[Picture], None],
        *,
        executor: Executor,
        on_error: Callable[[Exception], None],
        max_fps: float = 2.0,
        max_side: int = 640,
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
        self._assembler = FrameAssembler()
        self._decoder = PictureDecoder(max_side)
        self._pending: list[tuple[EncodedFrame, int]] = []
        self._job: asyncio.Future[Decoded] | None = None
        self._is_chain_whole = True
        self._is_full_rate = False
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
        hooks.take_video(receiver, self._on_packet, self._on_payload)

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
            "gaps": self._assembler.gaps,
        }

    def _on_packet(self, packet: RtpPacket, codec: str) -> None:
        del codec
        self.last_arrival = self._clock()
        self._counts["packetsReceived"] += 1
        self._counts["bytesReceived"] += len(packet.payload)

    def _on_payload(self, packet: RtpPacket, codec: str, data: bytes) -> bool:
        """Take a depayloaded packet; return whether to ask for a keyframe."""
        if self._is_closed or codec not in CODECS:
            return False
        try:
            return self._take(packet, codec, data)
        except Exception as exc:  # noqa: BLE001  handed to the session, which ends the call
            self.close()
            self._on_error(exc)
            return False

    def _take(self, packet: RtpPacket, codec: str, data: bytes) -> bool:
        now = self._clock()
        if self._last_picture_s is None:
            self._last_picture_s = now
        frames = self._assembler.push(
            packet.ssrc,
            packet.sequence_number,
            packet.timestamp,
            bool(packet.marker),
            codec,
            packet.payload,
            data,
            now,
        )
        for frame in frames:
            self._offer(frame, now)
        self._start_decoding()
        return self._wants_keyframe(now)

    def _offer(self, frame: EncodedFrame, now: float) -> None:
        """Queue a frame for decoding, or drop it."""
        self._counts["framesReceived"] += 1
        self._follow_time(frame, now)
        pts_ms = int(self._pts_ms)
        if self._is_full_rate and (not frame.is_key or not self._is_due(pts_ms)):
            self._is_chain_whole = False
            self._counts["framesDropped"] += 1
            return
        if frame.is_key:
            self._drop_pending()
            self._is_chain_whole = True
        elif self._assembler.needs_keyframe or len(self._pending) >= MAX_PENDING_FRAMES:
            self._drop_pending()
            self._is_chain_whole = False
        if self._is_chain_whole:
            self._pending.append((frame, pts_ms))
        else:
            self._counts["framesDropped"] += 1

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
        if is_wanted:
            self._picture_pts_ms = pts_ms
        loop = asyncio.get_running_loop()
        self._job = loop.run_in_executor(
            self._executor, self._decoder.decode, frames, pts_ms if is_wanted else None
        )
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
        if self._last_pli_s is not None and now - self._last_pli_s < MIN_PLI_INTERVAL_S:
            return False
        latest_s = max(self._last_picture_s or now, self._last_pli_s or 0.0)
        if self._is_full_rate:
            is_wanted = now - latest_s >= KEYFRAME_INTERVAL_S
        elif self._assembler.needs_keyframe or not self._is_chain_whole:
            is_wanted = True
        else:
            # A picture may come as late as the sender's own interval.
            is_wanted = now - latest_s > KEYFRAME_INTERVAL_S + self._interval_s
        if not is_wanted:
            return False
        self._last_pli_s = now
        self._counts["pliCount"] += 1
        return True
