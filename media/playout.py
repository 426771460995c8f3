"""Synthesized speech waiting to be heard: 24 kHz PCM by epoch, taken 20 ms at a time.

Owned by the session. The epoch numbers the stretches of speaking; audio of a stretch that was cut
or superseded is dropped here and nowhere else.
"""

from collections import deque
from typing import Literal, NamedTuple, Protocol

import numpy as np

from media.formats import (
    DOWNLINK_HZ,
    DOWNLINK_PACKET_BYTES,
    DOWNLINK_PACKET_SAMPLES,
    PTIME_MS,
    SAMPLE_BYTES,
)

Loudness = Literal["full", "ducked", "held"]
"""`held`: silent, and no sample passes until it is full again."""

DUCKED_GAIN = 10 ** (-12 / 20)
MAX_LOWERED_PACKETS = 1_500 // PTIME_MS
"""So long an answer stays ducked or held where nobody takes it back: it is never lost for good."""
FADE_SAMPLES = DOWNLINK_HZ * 5 // 1000
MAX_REMEMBERED_EPOCHS = 16
MAX_DOUBTED_PACKETS = 4_000 // PTIME_MS
"""Taken while it was not known whether anybody heard it, and kept for that reason."""
MAX_PLAYED_PACKETS = 1_000 // PTIME_MS
"""Kept for whoever wants to know its echo."""


class HeardPosition(NamedTuple):
    """The part of an epoch that was handed to the track."""

    epoch: int
    samples: int
    """At 24 kHz, from the start of the epoch."""


class PlayoutListener(Protocol):
    """Learns of the progress as packets are taken; must be quick; may push and clear."""

    def started(self, epoch: int) -> None:
        """Note that the first samples of an epoch are taken."""

    def progressed(self, epoch: int, samples: int) -> None:
        """Note that `samples` of an epoch have been taken so far."""

    def drained(self, epoch: int) -> None:
        """Note that a finished epoch was taken to its last sample (none, for an empty one)."""


class _Stretch:
    """The samples of one epoch that are not yet taken."""

    __slots__ = ("epoch", "pcm", "is_finished", "taken_samples")

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.pcm = bytearray()
        self.is_finished = False
        self.taken_samples = 0


class Playout:
    """A queue of epochs, bounded to `max_ms` of sound.

    What exceeds the bound is the newest and is dropped: the oldest is about to be heard.
    """

    can_hold = True

    def __init__(self, *, max_ms: int = 30_000, listener: PlayoutListener) -> None:
        self.pushed_samples = 0
        self.taken_samples = 0
        self.stale_samples = 0
        """Dropped on `push`: of an epoch that was cut, finished or superseded."""
        self.overflow_samples = 0
        """Dropped on `push`: beyond the bound."""
        self.cleared_samples = 0
        """Dropped by `clear`."""
        self.underruns = 0
        """Times that an unfinished epoch had nothing left to play."""
        self.underrun_samples = 0
        """Zeros played in their course."""
        self._max_samples = max_ms * DOWNLINK_HZ // 1000
        self._listener = listener
        self._stretches: deque[_Stretch] = deque()
        self._newest = -1
        self._is_newest_open = False
        self._heard: dict[int, int] = {}
        self._waiting_samples = 0
        self._tail = b""
        self._is_underrun = False
        self._loudness: Loudness = "full"
        self._gain = 1.0
        """Of the last sample that was taken."""
        self._lowered_packets = 0
        self._doubted: deque[tuple[int, bytes]] | None = None
        """What was taken since it became doubtful, by epoch; None: all of it is heard."""
        self._played: deque[bytes] = deque(maxlen=MAX_PLAYED_PACKETS)
        self.is_stranded = False
        """Nothing is taken, because nobody would hear it."""

    @property
    def waiting_ms(self) -> int:
        """Return how much sound waits to be taken."""
        return self._waiting_samples * 1000 // DOWNLINK_HZ

    @property
    def is_idle(self) -> bool:
        """Return whether nothing waits and nothing is expected."""
        return not self._stretches and not self._tail

    def push(self, epoch: int, pcm: bytes) -> None:
        """Append int16 PCM to an epoch; a newer epoch finishes the one before."""
        if len(pcm) % SAMPLE_BYTES:
            raise ValueError(f"{len(pcm)} bytes are no whole number of int16 samples")
        samples = len(pcm) // SAMPLE_BYTES
        stretch = self._open(epoch)
        if stretch is None:
            self.stale_samples += samples
            return
        room = max(0, self._max_samples - self._waiting_samples)
        self.overflow_samples += max(0, samples - room)
        accepted = min(samples, room)
        stretch.pcm += pcm[: accepted * SAMPLE_BYTES]
        self._waiting_samples += accepted
        self.pushed_samples += accepted

    def finish(self, epoch: int) -> None:
        """Declare the epoch complete: no samples follow those pushed."""
        if self._open(epoch) is not None:
            self._finish_newest()

    def clear(self) -> HeardPosition | None:
        """Cut at once: the next packet fades out within 5 ms, all that waits is dropped.

        Epochs known so far accept nothing more. Returns what was heard of the epoch being played,
        the fade included; None when nothing was playing or waiting. Calls no listener.
        """
        self._is_newest_open = False
        self._is_underrun = False
        gain, self._gain, self._loudness = self._gain, 1.0, "full"
        if self._doubted is not None:
            self._doubted.clear()
        if not self._stretches:
            return None
        front = self._stretches[0]
        if front.taken_samples and gain and not self.is_stranded:
            fade = bytes(front.pcm[: FADE_SAMPLES * SAMPLE_BYTES])
            self._count_taken(front, len(fade) // SAMPLE_BYTES)
            self._tail = _faded_out(_scaled(fade, gain, gain))
        self.cleared_samples += self._waiting_samples
        self._waiting_samples = 0
        for stretch in self._stretches:
            self._remember(stretch)
        self._stretches.clear()
        return HeardPosition(front.epoch, front.taken_samples)

    def lower(self, loudness: Loudness) -> None:
        """Change how loud the answers are from the next packet on, until told otherwise, cut, or
        1.5 s are over: 12 dB lower, or silent, with nothing of them lost."""
        if loudness != self._loudness:
            self._loudness, self._lowered_packets = loudness, 0

    def doubt(self) -> None:
        """Whether what is taken from now on is heard is not known, until `trust` or `strand`."""
        if self._doubted is None:
            self._doubted = deque(maxlen=MAX_DOUBTED_PACKETS)

    def trust(self) -> None:
        """What was taken is heard."""
        self._doubted = None

    def strand(self) -> None:
        """Nobody hears anything: take back what was in doubt, and give nothing until `go_on`."""
        doubted, self._doubted = self._doubted or (), None
        self.is_stranded = True
        self._tail = b""
        for epoch, pcm in reversed(doubted):
            self._take_back(epoch, pcm)

    def go_on(self) -> None:
        """Somebody listens again: from where it was heard last."""
        self.is_stranded = False
        self._doubted = None
        self._is_underrun = bool(self._stretches and self._stretches[0].taken_samples)

    def take(self) -> bytes | None:
        """Return the next 20 ms, padded with zeros where an epoch ends or runs dry.

        None when idle.
        """
        pcm = None if self.is_stranded else self._take()
        if pcm is not None:
            self._played.append(pcm)
        return pcm

    def take_played(self) -> bytes:
        """Return what was taken since this was last asked, of the last second, whole packets."""
        played = b"".join(self._played)
        self._played.clear()
        return played

    def _take(self) -> bytes | None:
        if self._loudness != "full":
            self._lowered_packets += 1
            if self._lowered_packets > MAX_LOWERED_PACKETS:
                self._loudness = "full"
        if self._tail:
            tail, self._tail = self._tail, b""
            return tail.ljust(DOWNLINK_PACKET_BYTES, b"\0")
        while self._stretches and self._stretches[0].is_finished and not self._stretches[0].pcm:
            self._drop_front()
        if not self._stretches:
            return None
        if self._loudness == "held":
            return self._fallen_silent()
        front = self._stretches[0]
        is_dry = len(front.pcm) < DOWNLINK_PACKET_BYTES and not front.is_finished
        if front.taken_samples == 0:
            if not front.pcm:
                return None
            self._listener.started(front.epoch)
        wanted = DUCKED_GAIN if self._loudness == "ducked" else 1.0
        before, self._gain = self._gain, wanted
        pcm = _scaled(self._cut(front, is_dry), before, wanted)
        self._listener.progressed(front.epoch, front.taken_samples)
        # The listener may have cut the epoch just now.
        if front.is_finished and not front.pcm and front in self._stretches:
            self._drop_front()
        return pcm

    def heard(self, epoch: int) -> int:
        """Return the samples taken of an epoch, 0 for one long past or not begun."""
        for stretch in self._stretches:
            if stretch.epoch == epoch:
                return stretch.taken_samples
        return self._heard.get(epoch, 0)

    def _open(self, epoch: int) -> _Stretch | None:
        if epoch < self._newest or (epoch == self._newest and not self._is_newest_open):
            return None
        if epoch > self._newest:
            if self._is_newest_open:
                self._finish_newest()
            self._newest = epoch
            self._is_newest_open = True
            self._stretches.append(_Stretch(epoch))
        return self._stretches[-1]

    def _finish_newest(self) -> None:
        self._stretches[-1].is_finished = True
        self._is_newest_open = False

    def _cut(self, front: _Stretch, is_dry: bool) -> bytes:
        pcm = bytes(front.pcm[:DOWNLINK_PACKET_BYTES])
        del front.pcm[:DOWNLINK_PACKET_BYTES]
        if self._doubted is not None:
            self._doubted.append((front.epoch, pcm))
        samples = len(pcm) // SAMPLE_BYTES
        self._count_taken(front, samples)
        if self._is_underrun and pcm:
            pcm = _faded_in(pcm)
        if is_dry:
            self.underruns += not self._is_underrun
            self.underrun_samples += DOWNLINK_PACKET_SAMPLES - samples
            pcm = _faded_out(pcm)
        self._is_underrun = is_dry
        return pcm.ljust(DOWNLINK_PACKET_BYTES, b"\0")

    def _fallen_silent(self) -> bytes | None:
        """What is heard of a held epoch: its next 5 ms fade out, and come again later."""
        front = self._stretches[0]
        if not front.taken_samples:
            self._gain = 0.0
            return None
        fade = bytes(front.pcm[: FADE_SAMPLES * SAMPLE_BYTES]) if self._gain else b""
        pcm = _faded_out(_scaled(fade, self._gain, self._gain))
        self._gain = 0.0
        return pcm.ljust(DOWNLINK_PACKET_BYTES, b"\0")

    def _take_back(self, epoch: int, pcm: bytes) -> None:
        if not self._stretches or self._stretches[0].epoch != epoch:
            stretch = _Stretch(epoch)
            stretch.is_finished = True
            stretch.taken_samples = self._heard.get(epoch, 0)
            self._stretches.appendleft(stretch)
        front = self._stretches[0]
        front.pcm[:0] = pcm
        self._count_taken(front, -(len(pcm) // SAMPLE_BYTES))

    def _count_taken(self, stretch: _Stretch, samples: int) -> None:
        stretch.taken_samples += samples
        self.taken_samples += samples
        self._waiting_samples -= samples

    def _drop_front(self) -> None:
        front = self._stretches.popleft()
        self._is_underrun = False
        self._remember(front)
        self._listener.drained(front.epoch)

    def _remember(self, stretch: _Stretch) -> None:
        self._heard[stretch.epoch] = stretch.taken_samples
        while len(self._heard) > MAX_REMEMBERED_EPOCHS:
            del self._heard[next(iter(self._heard))]


def _faded_out(pcm: bytes) -> bytes:
    return _with_ramp(pcm, -1)


def _faded_in(pcm: bytes) -> bytes:
    return _with_ramp(pcm, 1)


def _with_ramp(pcm: bytes, direction: int) -> bytes:
    """Scale the first (direction 1) or last (-1) 5 ms linearly from or to zero."""
    samples = np.frombuffer(pcm, np.int16).astype(np.float32)
    length = min(FADE_SAMPLES, len(samples))
    ramp = np.linspace(0.0, 1.0, length + 2, dtype=np.float32)[1:-1]
    if direction > 0:
        samples[:length] *= ramp
    elif length:
        samples[-length:] *= ramp[::-1]
    return samples.astype(np.int16).tobytes()


def _scaled(pcm: bytes, begin: float, end: float) -> bytes:
    """Scale by `end`, reached from `begin` within the first 5 ms."""
    if begin == end == 1.0 or not pcm:
        return pcm
    samples = np.frombuffer(pcm, np.int16).astype(np.float32)
    length = min(FADE_SAMPLES, len(samples))
    samples[:length] *= np.linspace(begin, end, length, dtype=np.float32)
    samples[length:] *= end
    return samples.astype(np.int16).tobytes()
