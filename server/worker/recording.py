"""A call that is kept: both sides' sound and the words, where the operator has switched it on."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import msgspec
from msgspec.structs import replace

from engine.ipc.protocol import INPUT_HZ, OUTPUT_HZ
from server.recordings import SOUNDS, RecordedCall, RecordedLine
from server.worker.recording_files import News, Seen, SoundTrack, found, tried_to_write
from signaling.session import events as ev
from signaling.session.items import FunctionCallItem, FunctionOutputItem, Item, MessageItem

FLUSH_S = 1.0
CLOSE_S = 5.0
"""How long a call's end waits for the disk."""
MAX_WAITING_BYTES = 8 * 1024 * 1024
"""Of sound and words that the disk has not taken; beyond it the recording ends."""
MOST_BYTES = 2**32 - 1024
"""A WAV file cannot say a greater size."""
SLACK_SAMPLES = OUTPUT_HZ // 5
"""By so much an answer may be heard unevenly before the user's sound waits for it."""
PICTURE_EVERY_S = 4.0
DISK = ThreadPoolExecutor(1, thread_name_prefix="recordings")
"""Writes for all calls of the process: a disk that hangs costs no other work a thread."""

log = logging.getLogger(__name__)


class CallRecording:
    """Owns the files of one call. Told of everything as a `signaling.session.core.Watcher`.

    Nothing here blocks the loop: `run` writes once a second, in a thread.
    """

    def __init__(
        self,
        folder: Path,
        call_id: str,
        max_bytes: int,
        wall_clock: Callable[[], float] = time.time,
        *,
        has_pictures: bool = False,
    ) -> None:
        """`folder`: this call's; `max_bytes`: of all of it."""
        self._has_pictures = has_pictures
        self._folder = folder
        self._max_bytes = min(max_bytes, MOST_BYTES)
        self._wall_clock = wall_clock
        self._about = RecordedCall(call_id=call_id, began_at=wall_clock())
        self._has_news = True
        self._user, self._assistant = (
            SoundTrack(folder / f"{name}.wav", hz)
            for name, hz in zip(SOUNDS, (INPUT_HZ, OUTPUT_HZ), strict=True)
        )
        self._origin: int | None = None
        """Where the user's own count of samples was when the recording began."""
        self._came = 0
        """How far the user's sound has come by that count, from there,"""
        self._shift = 0
        """by how much it is put later, as the count stood still while an answer was heard,"""
        self._user_end = 0
        """and where it ends therefore."""
        self._sound_began_at: float | None = None
        """By the wall clock; None: nothing was heard yet."""
        self._lines: list[bytes] = []
        self._audible: dict[str, float] = {}
        """When responses began to be heard, while they are."""
        self._seen: Seen | None = None
        self._seen_at = -math.inf
        """When one was kept last: while the count of the sound stands still, one is enough."""
        self._unheard: dict[int, tuple[int, bytearray]] = {}
        """Of answers: how many samples were heard, and the sound behind them."""
        self._num_bytes = 0
        self._waiting_bytes = 0
        self._is_placed = False
        self._writing = asyncio.Lock()
        self._job: tuple[asyncio.Future[Exception | int], int] | None = None
        """What is being written, and how many waiting bytes it takes."""

    # ------------------------------------------------------------------ time

    def _now(self) -> float:
        """As `RecordedLine.began_at`."""
        if self._sound_began_at is None:
            return self._wall_clock()
        self._go_on()
        return self._sound_began_at + self._user_end / INPUT_HZ

    def _begin_sound(self) -> None:
        if self._sound_began_at is None:
            began_at = self._sound_began_at = self._wall_clock()
            began = (*self._about.sounds_began_at, began_at)
            self._about = replace(self._about, sounds_began_at=began)
            self._has_news = True
        self._go_on()

    def _go_on(self) -> None:
        """Until a microphone is heard nothing but the clock counts the time."""
        if self._origin is None and self._sound_began_at is not None:
            passed = round((self._wall_clock() - self._sound_began_at) * INPUT_HZ)
            self._shift = self._user_end = max(self._shift, passed)

    # ------------------------------------------------------------------ sound and pictures

    def hear(self, pts: int, pcm: bytes) -> None:
        """Take the user's sound: 16 kHz, `pts` counts its samples, from anywhere on."""
        self._begin_sound()
        if self._origin is None:
            self._origin = pts
        pts -= self._origin
        # A count that leaps on did not stand still: sound was lost.
        self._shift -= min(self._shift, max(0, pts - self._came))
        self._came = pts + len(pcm) // 2
        self._user_end = self._came + self._shift
        self._add(self._user, pts + self._shift, pcm)

    def see(self, width: int, height: int, rgb: bytes) -> None:
        """Take a picture of what is seen, of which some are kept, if any; empty: it went off."""
        now = self._now()
        is_due = now - self._seen_at >= PICTURE_EVERY_S and self._seen is None
        if rgb and self._has_pictures and is_due and not self._about.is_cut_short:
            self._seen = Seen(now, width, height, rgb)
            self._seen_at = now

    def said(self, epoch: int, pcm: bytes) -> None:
        """Take sound of an answer, which is kept once it was heard."""
        self._unheard.setdefault(epoch, (0, bytearray()))[1].extend(pcm)

    def heard(self, epoch: int, samples: int, *, is_over: bool = False) -> None:
        """So much of an answer was heard; `is_over`: and no more will be."""
        before, sound = self._unheard.get(epoch, (0, bytearray()))
        pcm = bytes(sound[: max(0, samples - before) * 2])
        if pcm:
            self._add_answer(pcm)
        del sound[: len(pcm)]
        if is_over:
            self._unheard.pop(epoch, None)
        elif epoch in self._unheard:
            self._unheard[epoch] = (before + len(pcm) // 2, sound)

    def _add_answer(self, pcm: bytes) -> None:
        """It ends where the user's sound does, which is put later if that cannot be."""
        self._begin_sound()
        at = self._user_end * OUTPUT_HZ // INPUT_HZ - len(pcm) // 2
        behind = self._assistant.end - at
        if behind > SLACK_SAMPLES:
            self._shift += behind * INPUT_HZ // OUTPUT_HZ
            self._user_end = self._came + self._shift
        self._add(self._assistant, at, pcm)

    def _add(self, track: SoundTrack, at: int, pcm: bytes) -> None:
        if self._takes(track.growth(at, len(pcm)), len(pcm)):
            track.add(at, pcm)

    def _takes(self, grown: int, num_bytes: int) -> bool:
        """Count what makes the files so much longer; whether there is room for it."""
        if self._about.is_cut_short:
            return False
        self._num_bytes += grown
        self._waiting_bytes += num_bytes
        if self._num_bytes <= self._max_bytes and self._waiting_bytes <= MAX_WAITING_BYTES:
            return True
        self._waiting_bytes -= num_bytes
        self._cut_short()
        return False

    def _cut_short(self) -> None:
        if not self._about.is_cut_short:
            log.warning("the recording of call %s is cut short", self._about.call_id)
            self._about = replace(self._about, is_cut_short=True)
            self._has_news = True

    # ------------------------------------------------------------------ words

    def tell(self, event: ev.SessionEvent, asked_as: str | None = None) -> None:
        """As `signaling.session.core.Watcher`: keep the words."""
        match event:
            case ev.TranscriptCompleted(item_id=item_id, text=text, start_ms=start_ms):
                self._note(item_id, "user", text, self._heard_at(start_ms))
            case ev.ItemPlaced(item=item):
                self.note(item)
            case ev.ResponseAudible(response_id=response_id):
                self._audible[response_id] = self._now()
            case ev.OutputEnded(response=response, item=item):
                self.note(item, self._audible.get(response.id))
            case ev.ResponseEnded(response=response):
                self._audible.pop(response.id, None)

    def _heard_at(self, ms: int) -> float:
        """When the user's sound came to this point of its own count."""
        if self._sound_began_at is None or self._origin is None:
            return self._wall_clock()
        samples = ms * INPUT_HZ // 1000 - self._origin + self._shift
        return self._sound_began_at + max(0, min(samples, self._user_end)) / INPUT_HZ

    def note(self, item: Item | None, began_at: float | None = None) -> None:
        """Keep the words of an item as it stands; `began_at`: when they began, now by default."""
        if began_at is None:
            began_at = self._now()
        match item:
            case MessageItem(role=role, parts=parts):
                texts = [part.text for part in parts if part.text]
                self._note(item.id, role, "\n".join(texts), began_at)
            case FunctionCallItem(name=name, arguments=arguments):
                self._note(item.id, "function", f"{name}({arguments})", began_at)
            case FunctionOutputItem(output=output):
                self._note(item.id, "function", output, began_at)

    def note_rest(self, items: Iterable[Item | None]) -> None:
        """Keep what was heard so far of answers that do not end any more."""
        began_at = next(reversed(self._audible.values()), None)
        for item in items:
            self.note(item, began_at)

    def _note(
        self,
        item_id: str,
        role: Literal["user", "assistant", "system", "function"],
        text: str,
        began_at: float,
    ) -> None:
        if not text:
            return
        # Half a surrogate pair is no character.
        text = text.encode(errors="replace").decode()
        at = round(self._wall_clock(), 2)
        began_at = round(began_at, 2)
        told = RecordedLine(at=at, began_at=began_at, item_id=item_id, role=role, text=text)
        line = msgspec.json.encode(told) + b"\n"
        if self._takes(len(line), len(line)):
            self._lines.append(line)

    # ------------------------------------------------------------------ on disk

    async def run(self) -> None:
        """Write what has come, once a second, until cancelled."""
        while True:
            await self._flush()
            await asyncio.sleep(FLUSH_S)

    async def close(self, reason: str) -> None:
        """Write the rest and how the call ended, for a moment. Idempotent."""
        if self._about.ended_at is not None:
            return
        for epoch in list(self._unheard):
            self.heard(epoch, 0, is_over=True)
        self._about = replace(self._about, ended_at=self._wall_clock(), reason=reason)
        self._has_news = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self._flush()
                if self._has_news:  # Something was not written: that is told at least.
                    await self._flush()
        if self._job is not None or self._has_news:
            log.warning("the end of call %s is not recorded in time", self._about.call_id)

    async def _flush(self) -> None:
        async with self._writing:
            await self._settle()
            if not self._is_placed:
                await self._place()
            news = News(
                tracks=[(track, track.take()) for track in (self._user, self._assistant)],
                lines=self._lines,
                seen=self._seen,
                about=self._about,
                is_about_new=self._has_news,
            )
            self._lines, self._seen, self._has_news = [], None, False
            writing = asyncio.get_running_loop().run_in_executor(
                DISK, tried_to_write, self._folder, news
            )
            self._job = writing, news.num_bytes
            await self._settle()

    async def _settle(self) -> None:
        """Wait for what is being written; where that is cancelled it goes on, and whoever writes
        next waits for it."""
        if self._job is None:
            return
        writing, num_bytes = self._job
        await asyncio.wait([writing])
        self._job = None
        self._waiting_bytes -= num_bytes
        outcome = writing.result()
        if isinstance(outcome, int):
            self._num_bytes += outcome
            return
        is_disk = isinstance(outcome, OSError)
        reason = outcome.strerror if isinstance(outcome, OSError) else "it cannot be written"
        log.warning("a call cannot be recorded: %s", reason, exc_info=None if is_disk else outcome)
        self._cut_short()

    async def _place(self) -> None:
        """Go on where another media worker had recorded the call."""
        loop = asyncio.get_running_loop()
        before = await loop.run_in_executor(DISK, found, self._folder)
        self._is_placed = True
        self._num_bytes += before.num_bytes
        if before.about is not None:
            self._about = replace(
                self._about,
                began_at=before.about.began_at,
                is_cut_short=self._about.is_cut_short or before.about.is_cut_short,
                sounds_began_at=before.about.sounds_began_at + self._about.sounds_began_at,
            )
        if before.number:
            for track, name in zip((self._user, self._assistant), SOUNDS, strict=True):
                track.path = self._folder / f"{name}-{before.number + 1}.wav"
