"""A process with callers of the benchmark of calls: real aiortc peers that send prepared packets.

They decode nothing: what the server sends while it is silent is one constant packet, so that where
sound begins and ends shows without. Some of them speak over the answers.
"""

from __future__ import annotations

import asyncio
import random
import time
from functools import partial
from typing import Any

from aiortc import MediaStreamTrack

import omnicall.client
from media.clock import Ticker
from media.formats import RTP_OPUS_PACKET_TICKS
from media.hooks import AudioPacket
from media.opus import SILENT_PACKET
from tests.bench.media_wire import Handler, serve
from tests.bench.packets import CAMERA_FPS, Camera, PacketCarrier, Voice, keyframes, murmur, spoken

TURN_PAUSE_S = 0.1
"""Sound after at least so much silence is the beginning of a turn."""
LATE_S = 0.06
"""A packet that comes so long after the one before is late: a caller's buffer has run dry."""
SPEAK_OVER_S = (6.0, 12.0)
"""Pauses of those who speak over answers."""
GIVE_UP_S = 3.0


class Caller:
    """One call and what came of it; times are of the monotonic clock, which all processes share."""

    def __init__(self, voice: Voice, camera: Camera | None, *, speaks_over: bool) -> None:
        self.failed = ""
        self.packets = self.gaps = self.silent = self.unhushed = 0
        self.worst_s = 0.0
        self.late: list[float] = []
        self.onsets: list[float] = []
        """When sound began after a silence."""
        self.hushed_s: list[float] = []
        """From the first word over an answer until it was silent."""
        self._voice, self._speaks_over = voice, speaks_over
        self._tracks: list[MediaStreamTrack] = [voice] if camera is None else [voice, camera]
        self._last: tuple[int, int, float] | None = None
        self._quiet_since = 0.0
        self._is_loud = False
        self._changed = asyncio.Event()
        self._call: omnicall.client.Call | None = None
        self._task: asyncio.Task[None] | None = None

    def call(self, url: str) -> None:
        """Begin the call; it goes on until `close`."""
        self._task = asyncio.create_task(self._run(url))

    async def _run(self, url: str) -> None:
        carry = partial(PacketCarrier, tracks=self._tracks, heard=self._heard)
        try:
            async with omnicall.client.call(url, transport=carry, reconnect=False) as self._call:
                await (self._speak_over() if self._speaks_over else asyncio.Event().wait())
        except omnicall.client.ClientError as error:
            self.failed = f"{type(error).__name__}: {error}"[:200]

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def result(self) -> dict[str, Any]:
        call = self._call
        ending = "not served" if call is None else str(call.ending or "")
        return {
            "call_id": "" if call is None else call.id,
            "failed": self.failed or ending,
            "packets": self.packets,
            "silent": self.silent,
            "gaps": self.gaps,
            "late": self.late,
            "worst_ms": round(self.worst_s * 1000, 1),
            "onsets": self.onsets,
            "unhushed": self.unhushed,
            "hushed_ms": [round(s * 1000, 1) for s in self.hushed_s],
        }

    def mark(self) -> None:
        """Count from here on."""
        self.packets = self.gaps = self.silent = self.unhushed = 0
        self.worst_s = 0.0
        self.late, self.onsets, self.hushed_s = [], [], []

    def _heard(self, packet: AudioPacket) -> None:
        now = time.monotonic()
        self.packets += 1
        if self._last is not None:
            sequence, timestamp, at = self._last
            follows = packet.sequence_number == (sequence + 1) & 0xFFFF
            is_next = packet.timestamp == (timestamp + RTP_OPUS_PACKET_TICKS) & 0xFFFFFFFF
            self.gaps += not (follows and is_next)
            self.worst_s = max(self.worst_s, now - at)
            if now - at > LATE_S:
                self.late.append(now)
        self._last = packet.sequence_number, packet.timestamp, now
        is_loud = packet.payload != SILENT_PACKET
        self.silent += not is_loud
        if is_loud == self._is_loud:
            return
        self._is_loud = is_loud
        if not is_loud:
            self._quiet_since = now
        elif now - self._quiet_since > TURN_PAUSE_S:
            self.onsets.append(now)
        self._changed.set()

    async def _until(self, is_loud: bool) -> None:
        while self._is_loud != is_loud:
            self._changed.clear()
            await self._changed.wait()

    async def _speak_over(self) -> None:
        while True:
            await asyncio.sleep(random.uniform(*SPEAK_OVER_S))
            await self._until(is_loud=True)
            await asyncio.sleep(0.5)
            if not self._is_loud:
                continue
            begun = time.monotonic()
            self._voice.speak_over()
            try:
                async with asyncio.timeout(GIVE_UP_S):
                    await self._until(is_loud=False)
            except TimeoutError:
                self.unhushed += 1
            else:
                self.hushed_s.append(time.monotonic() - begun)


class Client:
    """All callers of a process, commanded line by line; needs a running loop."""

    def __init__(self) -> None:
        self._callers: list[Caller] = []
        self._ticker = Ticker(phases=4)
        self._quiet, self._loud = murmur(), spoken()
        self._pictures = keyframes()

    async def handle(self, request: dict[str, Any]) -> dict[str, Any]:
        match request["command"]:
            case "call":
                camera = None
                if request["camera"]:
                    camera = Camera(self._pictures, random.random() / CAMERA_FPS)
                voice = Voice(self._quiet, self._loud, self._ticker)
                caller = Caller(voice, camera, speaks_over=request["speaks_over"])
                self._callers.append(caller)
                caller.call(request["url"])
            case "mark":
                for caller in self._callers:
                    caller.mark()
            case "result":
                return {"calls": [caller.result() for caller in self._callers]}
            case "leave":
                leaving, self._callers = self._callers, []
                await asyncio.gather(*(caller.close() for caller in leaving))
            case "stop":
                await asyncio.gather(*(caller.close() for caller in self._callers))
                self._ticker.close()
        return {}


def make_handler() -> Handler:
    """The command handler of a client process; needs a running loop."""
    return Client().handle


def main() -> None:
    """Run until told to stop."""
    serve(make_handler, fast_loop=True)


if __name__ == "__main__":
    main()
