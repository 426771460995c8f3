"""A call: one conversation, from its offer to its end, in the media worker.

Wires a peer connection, the uplinks, the playout and an engine line together; what is said is the
business of `server.worker.conversation` and `server.worker.requests`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

from aiortc import RTCRtpReceiver

from engine.ipc import protocol as p
from engine.ipc.engine_client import EngineClient, EngineFull, EngineGone, EngineSessionLink
from engine.ipc.patience import TICK_S
from media.clock import Ticker
from media.downlink import AudioDownlink
from media.opus import OpusEncoder
from media.picture import CameraPicture
from media.playout import Playout
from media.uplink import AudioUplink, UnsupportedCodec
from media.video import VideoUplink
from server.config import Config
from server.control import AddItem, CallStats, EngineAddress, PlaceCall
from server.endings import FAILURES, REASONS
from server.worker.conversation import Conversation
from server.worker.engine_links import EngineLinks
from server.worker.engine_settings import engine_config, mode_of
from server.worker.requests import Requests
from signaling import server_events as ev
from signaling.errors import ProtocolError
from signaling.fitting import fitted
from signaling.ice import IceSettings
from signaling.peer import Peer
from signaling.server_events import error_event

log = logging.getLogger(__name__)

FLUSH_S = 0.1
DELIVERY_S = 2.0
"""For how long the last words are sent again if they are lost."""
END_ANNOUNCED_S = 30.0
"""So long before the longest duration is reached its end is announced,"""
END_ANNOUNCED_SHARE = 0.25
"""or this share of a short duration."""
OPEN_TRIES = 50
TELL_WAIT_S = 3.0
"""For how long a failure waits for a data channel that is just being opened."""
OPEN_RETRY_S = 0.2
SILENCE_WORDS = {
    "engine_silent": "No answer comes at the moment. Please stay, the call goes on if it can.",
    "engine_back": "The assistant is back.",
}
ENGINE_REASONS = {
    "goodbye": "goodbye",
    "context_limit": "context_limit",
    "shutdown": "server_shutdown",
    "closed": "hangup",
    "failed": "engine_failed",
}


class CallSession:
    """Owns everything of one call: `answer`, then `run` until it returns the reason, `close`."""

    def __init__(
        self,
        place: PlaceCall,
        config: Config,
        ice: IceSettings,
        links: EngineLinks,
        ticker: Ticker,
        threads: Executor,
        on_connected: Callable[[], object],
    ) -> None:
        self.call_id = place.call_id
        self._offer = place.sdp
        self._config = config
        self._links = links
        self._ticker = ticker
        self._threads = threads
        self._since = time.monotonic()
        self._ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._assigned: asyncio.Future[EngineAddress] = asyncio.get_running_loop().create_future()
        self._on_connected = on_connected
        self._place_in_queue: tuple[int, float | None] | None = None
        self._line: EngineSessionLink | None = None
        self._conversation = Conversation(
            place.session, emit=self._emit, to_engine=self._to_engine, session_id=place.call_id
        )
        self._requests = Requests(self._conversation, emit=self._emit, to_engine=self._to_engine)
        self._playout = Playout(listener=self._conversation)
        self._conversation.use(self._playout)
        self._downlink = AudioDownlink(
            self._playout,
            ticker,
            on_error=self._media_failed,
            encoder=OpusEncoder(
                bitrate=config.media.bitrate, complexity=config.media.complexity, fec=False
            ),
        )
        self._audio: AudioUplink | None = None
        self._video: VideoUplink | None = None
        self._is_piece_lost = False
        self._last_pts = 0
        self._is_camera_on = False
        self._unsubscribes: list[Any] = []
        self._settled = asyncio.Event()
        """The data channel is open, or never will be."""
        self._peer = Peer(
            place.call_id, ice, self, connect_deadline_s=config.calls.connect_deadline_s
        )

    @property
    def turns(self) -> int:
        return self._conversation.turns

    # ------------------------------------------------------------------ life

    async def answer(self) -> str:
        """The SDP answer. Raises as `signaling.peer.Peer.answer` does."""
        answer = await self._peer.answer(
            self._offer, downlink=self._downlink, on_receivers=self._attach
        )
        self._downlink.bind(self._peer.audio_sender)
        return answer

    async def run(self) -> str:
        """Talk until the call is over; the reason."""
        try:
            async with asyncio.TaskGroup() as tasks:
                serving = tasks.create_task(self._serve(), name="serve")
                reason = await self._ended
                serving.cancel()
        except Exception:  # noqa: BLE001 - the boundary: a bug ends this call only, and says so
            log.exception("call %s failed", self.call_id)
            reason = "internal_error"
        await self._tell_end(reason)
        return reason

    def end(self, reason: str) -> None:
        """End the call soon; the first reason counts."""
        if not self._ended.done():
            self._ended.set_result(reason)

    async def close(self) -> None:
        """Free everything; the engine's slot first, so that the next call finds it. Idempotent."""
        for unsubscribe in self._unsubscribes:
            unsubscribe()
        self._unsubscribes.clear()
        for uplink in (self._audio, self._video):
            if uplink is not None:
                uplink.close()
        line, self._line = self._line, None
        if line is not None:
            await line.close()
        await self._peer.close("hangup")
        self._downlink.stop()

    async def _serve(self) -> None:
        """Wait for an engine's slot and open the line to it."""
        address = await self._assigned
        try:
            self._line = await self._open_line(await self._links.get(address))
        except (EngineGone, EngineFull, ValueError) as error:
            log.warning("call %s gets no engine: %s", self.call_id, error)
            self.end("engine_full" if isinstance(error, EngineFull) else "engine_gone")
            return
        longest_s = self._config.calls.max_duration_s
        self._conversation.expires_at = int(time.time() + longest_s)
        if self._peer.channel.is_open:
            self._tell_created()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch_camera(), name="camera")
            tasks.create_task(self._run_down(longest_s), name="duration")

    async def _run_down(self, longest_s: float) -> None:
        """End the call when it has been served for so long, not without a word before."""
        announced_s = min(END_ANNOUNCED_S, longest_s * END_ANNOUNCED_SHARE)
        await asyncio.sleep(longest_s - announced_s)
        left = f"{announced_s:.0f} s" if announced_s >= 1 else "a moment"
        message = f"This call ends in {left}: the longest duration of a call is then reached."
        self._emit(ev.SessionWarningEvent(code="call_ends_soon", message=message))
        await asyncio.sleep(announced_s)
        self.end("max_duration")

    async def _watch_camera(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            await self._tend_camera()

    async def _open_line(self, client: EngineClient) -> EngineSessionLink:
        """The slot may still be held by a call that the engine is just ending: ask again."""
        for attempt in itertools.count(1):
            try:
                return await client.open(
                    self.call_id,
                    engine_config(self._conversation.settings),
                    on_message=self._from_engine,
                    on_gone=self._engine_gone,
                    on_silence=self._engine_silent,
                )
            except EngineFull:
                if attempt == OPEN_TRIES:
                    raise
                await asyncio.sleep(OPEN_RETRY_S)
        raise AssertionError("unreachable")

    async def _tend_camera(self) -> None:
        """Tell the engine once when the camera goes off, so that it does not describe the past."""
        if self._video is None:
            return
        await self._video.tend()
        is_off = self._video.is_off or not self._conversation.settings.video.enabled
        if is_off and self._is_camera_on:
            self._is_camera_on = False
            self._to_engine(p.ImageIn(self.call_id, self._last_pts, 1, 1, b""))

    async def _tell_end(self, reason: str) -> None:
        if reason in FAILURES and not self._peer.channel.is_open:
            await self._until_settled()
        if not self._peer.is_reachable:
            return
        message = REASONS.get(reason, reason)
        if reason in FAILURES:
            self._emit(ev.error(message, code=reason, type="server_error"))
        self._emit(ev.SessionEndedEvent(reason=reason, message=message))
        # Closing at once would overtake the event, which the network may also have lost.
        await asyncio.sleep(FLUSH_S)
        await self._peer.delivered(DELIVERY_S)

    async def _until_settled(self) -> None:
        """Wait a moment for the data channel of a caller who is still connecting."""
        if self._peer.channel.is_expected:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TELL_WAIT_S):
                    await self._settled.wait()

    # ------------------------------------------------------------------ from the front

    def assign(self, engine: EngineAddress) -> None:
        if not self._assigned.done():
            self._assigned.set_result(engine)

    def queued(self, position: int, eta_s: float | None) -> None:
        self._place_in_queue = (position, eta_s)
        if self._peer.channel.is_open:
            self._emit(ev.SessionQueued(position=position, eta_s=eta_s))

    def pass_piece(self, piece: p.ItemPiece) -> None:
        """Hand the engine a piece of an item; a lost one is told when the item is complete."""
        is_lost = not self._to_engine(piece)
        self._is_piece_lost = is_lost or (self._is_piece_lost and not piece.first)

    async def update_ice(self, fragment: str) -> str:
        """As `signaling.peer.Peer.update_ice`."""
        return await self._peer.update_ice(fragment)

    def add_item(self, message: AddItem) -> None:
        """Put an uploaded item into the conversation; raises `ProtocolError`."""
        if self._is_piece_lost and not message.last.first:
            raise ProtocolError(
                "No engine serves this session yet, or it does not keep up; try again.",
                code="engine_unavailable",
                type="server_error",
            )
        self._requests.add_item(message.item, message.previous_item_id, message.last)

    # ------------------------------------------------------------------ signaling.PeerListener

    def connected(self) -> None:
        log.info("call %s connected", self.call_id)
        self._on_connected()

    def channel_open(self) -> None:
        self._settled.set()
        if self._line is not None:
            self._tell_created()
        elif self._place_in_queue is not None and not self._assigned.done():
            position, eta_s = self._place_in_queue
            self._emit(ev.SessionQueued(position=position, eta_s=eta_s))

    def _tell_created(self) -> None:
        self._emit(ev.SessionCreated(session=self._conversation.session_object()))
        self._conversation.tell_unused()

    def message(self, text: str) -> None:
        self._requests.take(text)

    def refused(self, error: ProtocolError) -> None:
        self._emit(error_event(error))

    def gone(self, reason: str) -> None:
        self._settled.set()
        self.end(reason)

    # ------------------------------------------------------------------ media

    def _attach(self, audio: RTCRtpReceiver | None, video: RTCRtpReceiver | None) -> None:
        if audio is not None:
            self._audio = AudioUplink(audio, self._hear, on_error=self._media_failed)
            self._unsubscribes.append(self._ticker.subscribe(self._audio.poll))
        if video is not None:
            self._video = VideoUplink(
                video,
                self._see,
                executor=self._threads,
                on_error=self._video_failed,
                max_fps=self._config.media.video_fps,
                max_side=self._config.media.video_side,
                parameter_sets=self._peer.parameter_sets,
            )

    def _hear(self, pts: int, pcm: bytes) -> None:
        self._last_pts = pts
        self._to_engine(p.AudioIn(self.call_id, pts, pcm))

    def _see(self, picture: CameraPicture) -> None:
        if self._conversation.settings.video.enabled:
            self._is_camera_on = True
            self._to_engine(
                p.ImageIn(self.call_id, self._last_pts, picture.width, picture.height, picture.rgb)
            )

    def _media_failed(self, error: Exception) -> None:
        log.error("the sound of call %s failed", self.call_id, exc_info=error)
        self.end("media_failed")

    def _video_failed(self, error: Exception) -> None:
        if isinstance(error, UnsupportedCodec):
            self._emit(ev.SessionWarningEvent(code="video_unsupported", message=str(error)))
            return
        log.error("the video of call %s failed", self.call_id, exc_info=error)
        message = "The camera's pictures cannot be used; the call goes on without them."
        self._emit(ev.SessionWarningEvent(code="video_failed", message=message))

    # ------------------------------------------------------------------ engine

    def _to_engine(self, message: p.Message) -> bool:
        return self._line is not None and self._line.send(message)

    def _from_engine(self, message: p.FromEngine) -> None:
        if isinstance(message, p.SessionEnded):
            self.end(ENGINE_REASONS[message.reason])
            return
        try:
            self._conversation.hear(message)
        except Exception:  # noqa: BLE001 - the boundary: a bug ends this call only
            log.exception("call %s failed", self.call_id)
            self.end("internal_error")

    def _engine_silent(self, is_silent: bool) -> None:
        code = "engine_silent" if is_silent else "engine_back"
        self._emit(ev.SessionWarningEvent(code=code, message=SILENCE_WORDS[code]))

    def _engine_gone(self, reason: str) -> None:
        log.warning("call %s lost its engine: %s", self.call_id, reason)
        self.end("engine_gone")

    # ------------------------------------------------------------------ events and statistics

    def _emit(self, event: Any) -> None:
        for text in fitted(event, self._peer.channel.max_message_bytes):
            self._peer.send(text)

    async def stats(self) -> CallStats:
        """What `/api/stats` shows of this call."""
        rows = list((await self._peer.stats()).values())
        rows.append({"type": "media-playout", "kind": "audio"} | self._playout_stats())
        if self._audio is not None:
            self._merge(rows, "inbound-rtp", "audio", self._audio.stats())
        if self._video is not None:
            self._merge(rows, "inbound-rtp", "video", self._video.stats())
        self._merge(rows, "outbound-rtp", "audio", self._downlink.stats())
        return CallStats(
            call_id=self.call_id,
            state=self._state(),
            since_s=round(time.monotonic() - self._since, 1),
            mode=mode_of(self._conversation.settings),
            turns=self.turns,
            stats=rows,
            latency_ms=dict(self._conversation.latency_ms),
            kv_tokens=self._conversation.kv_tokens,
        )

    def _state(self) -> str:
        if self._ended.done():
            return "ending"
        if not self._peer.is_connected:
            return "connecting"
        return "active" if self._assigned.done() else "queued"

    def _playout_stats(self) -> dict[str, Any]:
        playout = self._playout
        return {
            "totalSamplesCount": playout.taken_samples,
            "underruns": playout.underruns,
            "underrunSamples": playout.underrun_samples,
            "clearedSamples": playout.cleared_samples,
            "staleSamples": playout.stale_samples,
            "overflowSamples": playout.overflow_samples,
        }

    @staticmethod
    def _merge(rows: list[dict[str, Any]], kind: str, media: str, more: dict[str, Any]) -> None:
        """Put our own figures over aiortc's, which does not see past its receiver."""
        for row in rows:
            if row.get("type") == kind and row.get("kind") == media:
                row.update(more)
                return
        rows.append({"type": kind, "kind": media} | more)
