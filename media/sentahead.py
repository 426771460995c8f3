"""Synthesised speech that is sent ahead of its time, to a client that plays it at its own.

In the place of `media.playout.Playout` where there is no track. What was sent cannot be taken back,
and what of it was heard only the client knows: until it says so, it is taken to play without a
pause from the moment that it got the first sample. A client that cannot drop what it got is sent
little ahead.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from media.formats import DOWNLINK_HZ, SAMPLE_BYTES
from media.playout import Loudness

MAX_CHUNK_BYTES = DOWNLINK_HZ * SAMPLE_BYTES // 2
MAX_REMEMBERED_EPOCHS = 16


class SentListener(Protocol):
    """Learns of what is sent and, by the clock, of what must have been heard."""

    def started(self, epoch: int) -> None:
        """Note that the first samples of an epoch are sent."""

    def sent(self, epoch: int, start: int, pcm: bytes) -> None:
        """Send these samples, which lie `start` samples from the epoch's beginning."""

    def progressed(self, epoch: int, samples: int) -> None:
        """Note that `samples` of an epoch must have been heard so far."""

    def drained(self, epoch: int) -> None:
        """Note that a finished epoch must have been heard to its last sample."""


class _Sent:
    """The samples of one epoch that were sent, and when they play."""

    __slots__ = ("epoch", "is_finished", "played", "plays_from", "samples")

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.samples = 0
        self.played = 0
        """When `plays_from` was set."""
        self.plays_from = 0.0
        self.is_finished = False

    def heard(self, now: float) -> int:
        passed = round(max(0.0, now - self.plays_from) * DOWNLINK_HZ)
        return min(self.samples, self.played + passed) if self.samples else 0


class SentAhead:
    """Sends what is pushed, `max_ahead_s` before its time; call `tick` some times a second."""

    can_hold = False

    def __init__(
        self,
        *,
        listener: SentListener,
        clock: Callable[[], float] = time.monotonic,
        max_ahead_s: float = math.inf,
    ) -> None:
        self.sent_samples = 0
        self.stale_samples = 0
        """Dropped on `push`: of an epoch that was cut, finished or superseded."""
        self._listener = listener
        self._clock = clock
        self._max_ahead = max_ahead_s * DOWNLINK_HZ
        self._epochs: deque[_Sent] = deque()
        self._unsent: deque[tuple[_Sent, bytes]] = deque()
        self._newest = -1
        self._is_newest_open = False
        self._heard: dict[int, int] = {}

    @property
    def waiting_ms(self) -> int:
        """Return how much sound cannot have been heard yet."""
        unsent = sum(len(chunk) // SAMPLE_BYTES for _, chunk in self._unsent)
        return (self._ahead(self._clock()) + unsent) * 1000 // DOWNLINK_HZ

    def _ahead(self, now: float) -> int:
        return sum(sent.samples - sent.heard(now) for sent in self._epochs)

    def push(self, epoch: int, pcm: bytes) -> None:
        """Send int16 PCM of an epoch; a newer epoch finishes the one before."""
        sent = self._open(epoch)
        if sent is None:
            self.stale_samples += len(pcm) // SAMPLE_BYTES
            return
        for at in range(0, len(pcm), MAX_CHUNK_BYTES):
            self._unsent.append((sent, pcm[at : at + MAX_CHUNK_BYTES]))
        self._send_due()

    def finish(self, epoch: int) -> None:
        """Declare the epoch complete: no samples follow those pushed."""
        sent = self._open(epoch)
        if sent is not None:
            sent.is_finished = True
            self._is_newest_open = False

    def clear(self) -> None:
        """Nothing of what was pushed so far is played any more. Calls no listener."""
        now = self._clock()
        self._is_newest_open = False
        self._unsent.clear()
        while self._epochs:
            sent = self._epochs.popleft()
            self._remember(sent.epoch, sent.heard(now))

    def lower(self, loudness: Loudness) -> None:
        """Nothing: what was sent is as loud as it is, and only the client can change that."""

    def heard(self, epoch: int) -> int:
        """Return the samples of an epoch that must have been heard, 0 for one long past."""
        for sent in self._epochs:
            if sent.epoch == epoch:
                return sent.heard(self._clock())
        return self._heard.get(epoch, 0)

    def take_played(self) -> bytes:
        """Return nothing: when the client plays what it got only the client knows."""
        return b""

    def tick(self) -> None:
        """Tell what must have been heard by now, and send what is due."""
        self._send_due()
        while self._epochs:
            front = self._epochs[0]
            heard = front.heard(self._clock())
            if heard:
                self._listener.progressed(front.epoch, heard)
            if not self._epochs or self._epochs[0] is not front:
                return
            waits = bool(self._unsent) and self._unsent[0][0] is front
            if not front.is_finished or heard < front.samples or waits:
                return
            self._epochs.popleft()
            self._remember(front.epoch, heard)
            self._listener.drained(front.epoch)

    def _send_due(self) -> None:
        while self._unsent:
            now = self._clock()
            ahead = self._ahead(now)
            sent, chunk = self._unsent[0]
            if ahead and ahead + len(chunk) // SAMPLE_BYTES > self._max_ahead:
                return
            self._unsent.popleft()
            self._send(sent, chunk, now)

    def _send(self, sent: _Sent, chunk: bytes, now: float) -> None:
        start = sent.samples
        if sent.heard(now) == start:
            # It ran dry, or begins, behind what is still playing before it.
            sent.played, sent.plays_from = start, max(now, self._end_before(sent))
        sent.samples += len(chunk) // SAMPLE_BYTES
        self.sent_samples += len(chunk) // SAMPLE_BYTES
        if start == 0:
            self._listener.started(sent.epoch)
        self._listener.sent(sent.epoch, start, chunk)

    def _open(self, epoch: int) -> _Sent | None:
        if epoch < self._newest or (epoch == self._newest and not self._is_newest_open):
            return None
        if epoch > self._newest:
            if self._is_newest_open and self._epochs:
                self._epochs[-1].is_finished = True
            self._newest = epoch
            self._is_newest_open = True
            self._epochs.append(_Sent(epoch))
        return self._epochs[-1]

    def _end_before(self, sent: _Sent) -> float:
        ends = [
            other.plays_from + (other.samples - other.played) / DOWNLINK_HZ
            for other in self._epochs
            if other is not sent and other.epoch < sent.epoch and other.samples
        ]
        return max(ends, default=0.0)

    def _remember(self, epoch: int, samples: int) -> None:
        self._heard[epoch] = samples
        while len(self._heard) > MAX_REMEMBERED_EPOCHS:
            del self._heard[next(iter(self._heard))]
