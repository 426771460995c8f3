"""What a session of the native engine hears: sound for units, and utterances in it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

from engine.hearing.hearing import AnswerCut, Counted, Heard, Hearing
from engine.hearing.vad import Offset, Onset, Voice
from engine.ingest.messages import SoundHeard
from engine.ipc.protocol import (
    INPUT_HZ,
    FromEngine,
    SessionWarning,
    SpeechStarted,
    SpeechStopped,
    TurnDetection,
)
from engine.minicpmo.models.unit import UnitSpec

MAX_PENDING_UNITS = 2
"""Sound for units that may wait. Beyond it the engine is too slow and the oldest unit is skipped:
what it hears next is then never more than one unit old."""
STOPPED_UNITS = 2
"""After so long without any sound none is expected."""
MAX_UTTERANCE_S = 30
WARN_EVERY_S = 10.0


class AudioInput:
    """Owned by one session. `units`: sound is kept for units; else for utterances.

    `write` gets each utterance's number and PCM once it is over, empty for steady noise.
    """

    def __init__(
        self,
        session: str,
        detection: TurnDetection,
        send: Callable[[FromEngine], None],
        write: Callable[[int, bytes], None],
        *,
        unit: UnitSpec,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._session = session
        self._send = send
        self._write = write
        self._unit = unit
        self._unit_bytes = 2 * unit.samples(INPUT_HZ)
        self._clock = clock
        self._hearing = Hearing(session, detection, send)
        self.is_ingested = False
        """Its sound comes by `take`: what is heard in it is found in another process."""
        self._ingested = 0
        """Samples that came so."""
        self._ended = 0
        """The utterance that a commit has ended which is yet to come."""
        self._position = 0
        self._is_speaking = False
        self._pending = bytearray()
        self._came: float | None = None
        """When the newest sound came."""
        self._filled: float | None = None
        """When the newest silence was put in its place."""
        self._arrived = 0.0
        self.complete_since = 0.0
        """When the last of the newest unit's sound came, on the monotonic clock."""
        self._is_placed = False
        self.silence = 0
        """Samples that `place` has put between its sound."""
        self._utterance = bytearray()
        self._by_hand = bytearray()
        self.utterances = 0
        self.dropped_ms = 0
        """Sound that was skipped since `take_dropped_ms`."""
        self._untold_ms = 0
        self._warned = -WARN_EVERY_S

    @property
    def is_user_speaking(self) -> bool:
        return self._is_speaking if self.is_ingested else self._hearing.is_speaking

    @property
    def position(self) -> int:
        """Samples of the stream so far."""
        return self._position if self.is_ingested else self._hearing.position

    @property
    def unit_end(self) -> int:
        """Where a unit ends, in samples that came by `take`, unless it `is_placed` nowhere; others
        end before and behind it."""
        size = self._unit_bytes // 2
        return (self._ingested - self.pending) % size

    @property
    def unit_samples(self) -> int:
        return self._unit_bytes // 2

    @property
    def pending(self) -> int:
        """Samples that wait for their unit."""
        return len(self._pending) // 2

    @property
    def pending_ms(self) -> int:
        """Sound that waits for its unit."""
        return self.pending * 1000 // INPUT_HZ

    @property
    def waiting_s(self) -> float:
        """How long the oldest whole unit of sound has been there."""
        behind_s = (len(self._pending) - self._unit_bytes) / (2 * INPUT_HZ)
        return self._clock() - self._arrived + behind_s

    def configure(self, detection: TurnDetection) -> None:
        self._hearing.configure(detection)

    def push(
        self,
        pts: int,
        pcm: bytes,
        *,
        for_units: bool,
        over: bool,
        arrived: float | None = None,
        played: bytes = b"",
    ) -> list[str | Tensor]:
        """Take PCM; tells "cut" where an answer ends by it, and gives each utterance that ended
        [N], unless it was nothing but steady noise.

        `over`: an answer is heard, or about to be. `arrived`: when it came, on the monotonic
        clock, if it waited before it got here. `played`: as `Hearing.push` takes it.
        """
        # Half a sample would misalign all that follows.
        pcm = pcm[: len(pcm) & ~1]
        self._add(pcm, self._clock() if arrived is None else arrived, for_units=for_units)
        return self._follow(self._hearing.push(pts, pcm, over=over, played=played))

    def take(self, heard: SoundHeard, *, for_units: bool) -> list[str | Tensor]:
        """Take PCM in which another process has heard; tells and gives the same as `push`."""
        self.is_ingested = True
        self._ingested += len(heard.pcm) // 2
        self._position, self._is_speaking = heard.position, heard.is_speaking
        if heard.pcm:
            self._add(heard.pcm, heard.arrived, for_units=for_units)
        if heard.is_commit:
            self._ended = self._stop(heard.events)
            return []
        return self._follow(heard.events)

    def _add(self, pcm: bytes, arrived: float, *, for_units: bool) -> None:
        if for_units:
            self._keep(pcm, arrived)
        else:
            self._by_hand += pcm
            del self._by_hand[: -2 * INPUT_HZ * MAX_UTTERANCE_S]

    def _follow(self, events: Iterable[Heard]) -> list[str | Tensor]:
        found: list[str | Tensor] = []
        for event in events:
            match event:
                case Onset():
                    self._utterance = bytearray(event.pcm)
                case Counted():
                    self._started(event.pts)
                case AnswerCut():
                    found.append("cut")
                case Voice():
                    self._utterance += event.pcm
                    del self._utterance[: -2 * INPUT_HZ * MAX_UTTERANCE_S]
                case Offset():
                    self._stopped(event)
                    # A fan that is switched on is recognised as noise once it has run for a while.
                    if event.voiced_ms:
                        found.append(samples(self._utterance))
        return found

    def take_unit(self) -> Tensor | None:
        """Take the samples [N] of the next unit, None while they are not complete."""
        size = self._unit_bytes
        if len(self._pending) < size:
            return None
        chunk = samples(self._pending[:size])
        del self._pending[:size]
        behind_s = len(self._pending) / (2 * INPUT_HZ)
        self.complete_since = self._arrived - behind_s
        return chunk

    @property
    def has_stopped(self) -> bool:
        """Whether no sound comes, or none any more."""
        patience_s = STOPPED_UNITS * self._unit.ms / 1000
        return self._came is None or self._clock() - self._came >= patience_s

    def fill(self) -> None:
        """Where no sound comes, make silence of what a unit lacks of it, once in a unit's time."""
        now, lacking = self._clock(), self._unit_bytes - len(self._pending)
        is_early = self._filled is not None and now - self._filled < self._unit.ms / 1000
        if lacking <= 0 or is_early or not self.has_stopped:
            return
        self._pending += bytes(lacking)
        self._arrived = self._filled = now

    @property
    def is_placed(self) -> bool:
        """Whether its units end where they are to end."""
        return self._is_placed

    def place(self, silence: int) -> None:
        """Put `silence` samples behind the sound for units; these end in their place then."""
        self._is_placed = True
        self._pending += bytes(2 * silence)
        self.silence += silence

    def displace(self) -> None:
        """Let the ends of units be placed anew."""
        self._is_placed = False

    def take_dropped_ms(self) -> int:
        """Return the sound that was skipped since the last call."""
        dropped_ms, self.dropped_ms = self.dropped_ms, 0
        return dropped_ms

    def commit(self) -> tuple[Tensor, int]:
        """Return everything since the last commit (push to talk), and the number of the utterance
        that it ends, 0 if none was under way."""
        ended = self._ended if self.is_ingested else self._stop(self._hearing.stop())
        self._ended = 0
        sound = samples(self._by_hand)
        self._by_hand.clear()
        return sound, ended

    def _stop(self, events: Iterable[Heard]) -> int:
        ended = 0
        for event in events:
            match event:
                case Counted():
                    self._started(event.pts)
                case Offset():
                    self._stopped(event)
                    ended = self.utterances
        return ended

    def clear(self) -> None:
        """Forget what was not yet used."""
        self._by_hand.clear()
        self._pending.clear()
        self.displace()

    def _keep(self, pcm: bytes, arrived: float) -> None:
        self._pending += pcm
        self._arrived = self._came = arrived
        excess = len(self._pending) - MAX_PENDING_UNITS * self._unit_bytes
        if excess > 0:
            # Drop whole units: the model then misses one, not parts of several.
            units = -(-excess // self._unit_bytes)
            del self._pending[: units * self._unit_bytes]
            self.dropped_ms += units * self._unit.ms
            self._untold_ms += units * self._unit.ms
        now = self._clock()
        if self._untold_ms and now - self._warned >= WARN_EVERY_S:
            self._warn(now)

    def _warn(self, now: float) -> None:
        self._send(
            SessionWarning(
                self._session,
                "audio_skipped",
                f"the engine is overloaded: {self._untold_ms / 1000:g} s of sound were not heard",
            )
        )
        self._untold_ms, self._warned = 0, now

    def _started(self, pts: int) -> None:
        self.utterances += 1
        self._send(SpeechStarted(self._session, self.utterances, pts))

    def _stopped(self, event: Offset) -> None:
        self._send(SpeechStopped(self._session, self.utterances, event.pts))
        self._write(self.utterances, bytes(self._utterance) if event.voiced_ms else b"")


def samples(pcm: bytes | bytearray) -> Tensor:
    """int16 PCM as float [N] in [-1, 1]."""
    return torch.from_numpy(np.frombuffer(bytes(pcm), np.int16).astype(np.float32) / 32768)


def pcm_of(sound: Tensor) -> bytes:
    """Samples [N] in [-1, 1] as int16 PCM, which `samples` reads."""
    return (sound.numpy() * 32768).astype(np.int16).tobytes()
