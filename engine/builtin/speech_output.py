"""One answer on its way to the playout: chunks, timed words, never further ahead than allowed."""

from __future__ import annotations

import asyncio
import logging
from collections import deque

import numpy as np
from numpy.typing import NDArray

from engine.base import Send
from engine.builtin.interfaces import Speech
from engine.ipc.protocol import MAX_AHEAD_MS, OUTPUT_HZ, AudioOut, TextOut

FIRST_CHUNK = OUTPUT_HZ * 100 // 1000
CHUNK = OUTPUT_HZ * 160 // 1000
MAX_AHEAD = OUTPUT_HZ * MAX_AHEAD_MS // 1000
PLAYOUT_GRACE_S = 5.0
"""How much later than its length a finished answer may be reported as heard."""

logger = logging.getLogger(__name__)


class SpeechOutput:
    """Owns an epoch: what was sent, what was heard, what waits. One per response."""

    def __init__(self, session: str, epoch: int, send: Send, *, with_audio: bool) -> None:
        self._session = session
        self.epoch = epoch
        self._send = send
        self._with_audio = with_audio
        self._waiting: deque[NDArray[np.int16]] = deque()
        self._words: list[tuple[int, str]] = []
        self._shown = 0
        self._queued = 0
        self._sent = 0
        self._heard = 0
        self._closed_text = False
        self._closed_audio = not with_audio
        self._has_room = asyncio.Event()
        self._over = asyncio.Event()
        self._cut = False
        self._ending = False
        self.is_done = False
        """`ResponseDone` was sent."""

    @property
    def is_over(self) -> bool:
        """It has been played or cut."""
        return self._over.is_set()

    @property
    def has_begun(self) -> bool:
        return self._sent > 0 or self._shown > 0

    @property
    def text(self) -> str:
        return "".join(word for _, word in self._words)

    def heard_text(self, samples: int) -> str:
        """Return the text spoken within the first `samples`."""
        return "".join(word for at, word in self._words if at < samples).rstrip()

    def push(self, speech: Speech) -> None:
        """Add the next stretch and send what the playout has room for."""
        if self._cut:
            return
        self._ending = speech.last
        base = self._queued if self._with_audio else 0
        words = speech.words if self._with_audio else tuple((0, word) for _, word in speech.words)
        self._words += [(base + at, word) for at, word in words]
        if self._with_audio:
            self._queue(speech.pcm)
        self._pump()

    async def drained(self) -> None:
        """Wait until all that was pushed is under way."""
        while self._waiting and not self._cut:
            self._has_room.clear()
            await self._has_room.wait()

    def finish(self) -> None:
        """Close the text and the sound if the last `push` could not know that it was the last."""
        if self._cut:
            return
        if not self._closed_text:
            self._send(TextOut(self._session, self.epoch, self._sent, "", last=True))
        if not self._closed_audio:
            self._send(AudioOut(self._session, self.epoch, self._sent, b"", last=True))
        self._closed_text = self._closed_audio = True
        if not self._with_audio:
            self._over.set()

    def skip(self) -> None:
        """There is nothing to be said."""
        self._over.set()

    def on_heard(self, samples: int, final: bool) -> None:
        """Playout reached `samples`; `final`: it will go no further."""
        self._heard = max(self._heard, min(samples, self._sent))
        if final:
            self._over.set()
        self._pump()

    def cut(self) -> None:
        """Send nothing more."""
        self._cut = True
        self._waiting.clear()
        self._has_room.set()
        self._over.set()

    async def wait_played(self) -> None:
        """Wait until it was heard or cut; give up on a playout that does not report."""
        while not self.is_over:
            unheard_s = (self._sent - self._heard) / OUTPUT_HZ
            try:
                async with asyncio.timeout(unheard_s + PLAYOUT_GRACE_S):
                    await self._over.wait()
            except TimeoutError:
                if self.is_done:
                    logger.debug("playout did not report the end of epoch %d", self.epoch)
                    return

    def _queue(self, pcm: NDArray[np.int16]) -> None:
        start = 0
        while start < len(pcm):
            size = CHUNK if self._queued else FIRST_CHUNK
            self._waiting.append(pcm[start : start + size])
            self._queued += len(self._waiting[-1])
            start += size

    def _pump(self) -> None:
        if self._cut:
            return
        while self._waiting:
            chunk = self._waiting[0]
            if self._sent + len(chunk) - self._heard > MAX_AHEAD:
                return
            self._waiting.popleft()
            is_last = self._ending and not self._waiting
            self._show(None if is_last else self._sent + len(chunk), is_last)
            self._send(
                AudioOut(self._session, self.epoch, self._sent, chunk.tobytes(), last=is_last)
            )
            self._sent += len(chunk)
            self._closed_audio |= is_last
        self._show(None, self._ending and not self._with_audio)
        self._has_room.set()

    def _show(self, until: int | None, is_last: bool) -> None:
        """Send the words spoken before the sample `until`; None: all of them."""
        while self._shown < len(self._words):
            at, word = self._words[self._shown]
            if until is not None and at >= until:
                return
            self._shown += 1
            last = is_last and self._shown == len(self._words)
            self._send(TextOut(self._session, self.epoch, at, word, last=last))
            self._closed_text |= last
        if is_last and self._with_audio and not self._closed_text:
            # The last word is longer than the last chunk, so it went out before.
            self._closed_text = True
            self._send(TextOut(self._session, self.epoch, self._sent, "", last=True))
