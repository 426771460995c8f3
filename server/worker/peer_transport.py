"""A session over WebRTC: tracks for sound and pictures, a data channel for events."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

from aiortc import RTCRtpReceiver

from media.clock import Ticker
from media.downlink import AudioDownlink
from media.opus import OpusEncoder
from media.picture import CameraPicture
from media.playout import Playout
from media.uplink import AudioUplink, UnsupportedCodec
from media.video import VideoUplink
from server.config import Config
from server.endings import has_ended
from server.worker.live_session import LiveSession
from server.worker.session import CallSession
from signaling.errors import ProtocolError
from signaling.ice import IceSettings
from signaling.peer import Peer
from signaling.realtime.door import RealtimeDoor
from signaling.session.core import Door

log = logging.getLogger(__name__)

FLUSH_S = 0.1
DELIVERY_S = 2.0
"""For how long the last words are sent again if they are lost."""
DOUBT_S = 0.5
"""After so much silence it is doubtful whether the client hears,"""
AWAY_S = 2.5
"""and after this certain that it does not: the session rests, and goes on from where it was heard.

Who sends nothing of its own still answers a check each second.
"""
MOST_SILENCE_S = 29.0
"""Consent lasts a second longer (RFC 7675); who is back later needs another connection."""
TELL_WAIT_S = 3.0
"""For how long a failure waits for a data channel that is just being opened."""


class PeerTransport:
    """Owns the peer connection, the uplinks, the playout and the downlink of one session."""

    def __init__(
        self,
        session: CallSession,
        config: Config,
        ice: IceSettings,
        ticker: Ticker,
        threads: Executor,
        on_connected: Callable[[], object],
        live: LiveSession | None = None,
        before: PeerTransport | None = None,
        comes_back: bool = False,
    ) -> None:
        """`live`: what a Live session has beside; it is this transport's to close. `before`: the
        connection that the session's client has lost; it is replaced once the offer is answered.
        `comes_back`: the client was in this conversation before.
        """
        self._before = before
        self._comes_back = comes_back or before is not None
        self._session = session
        self._config = config
        self._ticker = ticker
        self._threads = threads
        self._on_connected = on_connected
        self._live = live
        self._playout: Playout = (
            before._playout
            if before is not None
            else Playout(listener=session.conversation.responses)
            if live is None
            else live.playout
        )
        if before is None:
            session.conversation.responses.use(self._playout)
        if comes_back:
            self._playout.strand()
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
        self._is_camera_on = False
        self._unsubscribes: list[Callable[[], object]] = []
        self._settled = asyncio.Event()
        """The data channel is open, or never will be."""
        self._peer = Peer(
            session.call_id,
            ice,
            self,
            connect_deadline_s=config.calls.connect_deadline_s,
            silence_s=min(config.calls.grace_s, MOST_SILENCE_S),
        )
        self.door = self._make_door()
        if before is None:
            session.carry(self)

    def _make_door(self) -> Door:
        if self._live is not None:
            return self._live.connect(
                self._send, "data_channel", is_open=lambda: self._peer.channel.is_open
            )
        door = RealtimeDoor(
            self._session.commands,
            self._send,
            max_message_bytes=lambda: self._peer.channel.max_message_bytes,
        )
        self._session.audience.add(door)
        return door

    async def answer(self, offer: str) -> str:
        """The SDP answer. Raises as `signaling.peer.Peer.answer` does, and `ProtocolError` where
        the session has ended meanwhile; `close` is then still to be called."""
        answer = await self._peer.answer(offer, downlink=self._downlink, on_receivers=self._attach)
        if self._before is not None:
            if self._session.reason is not None:
                raise has_ended(self._session.reason)
            # One taker at a time.
            self._before._downlink.stop()
            self._playout.strand()
            self._before = None
            self._session.carry(self)
            self._session.away(self)
        wishes = self._peer.opus_wishes
        self._downlink.bind(
            self._peer.audio_sender,
            has_pauses=wishes.has_pauses,
            opens_late=wishes.opens_late,
            max_bitrate=wishes.max_bitrate,
            red_payload_type=wishes.red_payload_type,
        )
        return answer

    async def update_ice(self, fragment: str) -> str:
        """As `signaling.peer.Peer.update_ice`."""
        return await self._peer.update_ice(fragment)

    # ------------------------------------------------------------------ Transport

    @property
    def is_connected(self) -> bool:
        return self._peer.is_connected

    @property
    def is_reachable(self) -> bool:
        return self._peer.is_reachable

    def served(self) -> None:
        # Who opens the channel later is greeted then.
        if self._live is not None:
            self._session.greet(self._live.door)
        elif self._peer.channel.is_open:
            self._session.greet(self.door, comes_back=self._comes_back)

    async def tend(self) -> None:
        """Tell the engine once when the camera goes off, so that it does not describe the past."""
        if self._audio is not None:
            self._session.commands.quality.look(self._audio.stats())
        if self._video is None:
            return
        if self._audio is not None:
            self._video.give_way(*self._audio.arrivals)
        await self._video.tend()
        is_off = self._video.is_off or not self._session.conversation.settings.video.enabled
        if is_off and self._is_camera_on:
            self._is_camera_on = False
            self._session.input.see(1, 1, b"")

    async def settled(self) -> None:
        if self._peer.channel.is_expected and not self._peer.channel.is_open:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TELL_WAIT_S):
                    await self._settled.wait()

    async def flushed(self) -> None:
        if self._peer.is_reachable:
            # Closing at once would overtake the event, which the network may also have lost.
            await asyncio.sleep(FLUSH_S)
            await self._peer.delivered(DELIVERY_S)

    async def close(self) -> None:
        for unsubscribe in self._unsubscribes:
            unsubscribe()
        self._unsubscribes.clear()
        if self._live is not None:
            self._live.close()
        for uplink in (self._audio, self._video):
            if uplink is not None:
                uplink.close()
        self._session.audience.remove(self.door)
        await self._peer.close("hangup")
        self._downlink.stop()

    def _send(self, text: str) -> None:
        self._peer.send(text)

    # ------------------------------------------------------------------ signaling.PeerListener

    def connected(self) -> None:
        log.info("call %s connected", self._session.call_id)
        self._on_connected()
        if not self._peer.channel.is_expected:
            self._is_back()

    def channel_open(self) -> None:
        self._settled.set()
        self._session.greet(self.door, comes_back=self._comes_back)
        self._is_back()

    def message(self, text: str) -> None:
        self.door.receive(text)

    def refused(self, error: ProtocolError) -> None:
        self.door.refuse(error)

    def silent(self, silent_s: float) -> None:
        if not self._is_current:
            return
        if silent_s < DOUBT_S:
            self._playout.trust()
            if self._peer.channel.is_open or not self._peer.channel.is_expected:
                self._is_back()
        elif silent_s < AWAY_S:
            self._playout.doubt()
        elif not self._playout.is_stranded:
            self._playout.strand()
            self._session.away(self)

    def gone(self, reason: str) -> None:
        self._settled.set()
        if self._is_current:
            self._playout.strand()
            self._session.lost(self, reason)

    @property
    def _is_current(self) -> bool:
        """Whether the session has no other connection by now."""
        return self._session.transport is self

    def _is_back(self) -> None:
        if self._playout.is_stranded and self._is_current:
            self._playout.go_on()
            self._session.back(self)

    # ------------------------------------------------------------------ media

    def _attach(self, audio: RTCRtpReceiver | None, video: RTCRtpReceiver | None) -> None:
        if audio is not None:
            hear = self._session.input.hear if self._live is None else self._live.hear
            self._audio = AudioUplink(audio, hear, on_error=self._media_failed)
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

    def _see(self, picture: CameraPicture) -> None:
        if self._session.conversation.settings.video.enabled:
            self._is_camera_on = True
            self._session.input.see(picture.width, picture.height, picture.rgb)

    def _media_failed(self, error: Exception) -> None:
        log.error("the sound of call %s failed", self._session.call_id, exc_info=error)
        self._session.end("media_failed")

    def _video_failed(self, error: Exception) -> None:
        if isinstance(error, UnsupportedCodec):
            self._session.notify("video_unsupported", str(error))
            return
        log.error("the video of call %s failed", self._session.call_id, exc_info=error)
        message = "The camera's pictures cannot be used; the call goes on without them."
        self._session.notify("video_failed", message)

    # ------------------------------------------------------------------ statistics

    async def stats(self) -> list[dict[str, Any]]:
        rows = list((await self._peer.stats()).values())
        rows.append({"type": "media-playout", "kind": "audio"} | playout_stats(self._playout))
        inbound = {} if self._audio is None else self._audio.stats()
        if inbound:
            _merge(rows, "inbound-rtp", "audio", inbound)
        if self._video is not None:
            _merge(rows, "inbound-rtp", "video", self._video.stats())
        outbound = self._downlink.stats()
        _merge(rows, "outbound-rtp", "audio", outbound)
        rows.append(self._session.commands.quality.row(inbound, outbound))
        return rows


def playout_stats(playout: Playout) -> dict[str, Any]:
    return {
        "totalSamplesCount": playout.taken_samples,
        "underruns": playout.underruns,
        "underrunSamples": playout.underrun_samples,
        "clearedSamples": playout.cleared_samples,
        "staleSamples": playout.stale_samples,
        "overflowSamples": playout.overflow_samples,
    }


def _merge(rows: list[dict[str, Any]], kind: str, media: str, more: dict[str, Any]) -> None:
    """Put our own figures over aiortc's, which does not see past its receiver."""
    for row in rows:
        if row.get("type") == kind and row.get("kind") == media:
            row.update(more)
            return
    rows.append({"type": kind, "kind": media} | more)
