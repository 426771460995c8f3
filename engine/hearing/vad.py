"""Finds where the user's utterances begin and end in a stream of 16 kHz PCM."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator

import numpy as np
import webrtcvad
from msgspec import Struct

from engine.hearing.echo import EchoTrack
from engine.hearing.noisefloor import Levels, NoiseFloor, quiet_of, stands_out
from engine.hearing.surroundings import Surroundings
from engine.hearing.turnend import TurnEnd
from engine.ipc.protocol import INPUT_HZ, TurnDetection

FRAME_MS = 20
FRAME = INPUT_HZ * FRAME_MS // 1000
FRAME_BYTES = 2 * FRAME
ONSET_WINDOW = 6
ONSET_VOICED = 4
LEAST_SILENT_FRAMES = 5
MAX_UTTERANCE_MS = 30_000
FLOOR_DB = -62.0
"""Quieter frames are never speech, whatever their spectrum."""
GROWTH_SHARE = 0.3
"""Of the way from the background to the loudest speech."""
RANGE_DB = 38.0
"""Frames this far below the recent peak are the detector's own hangover (up to 100 ms)."""
SPEAKING_DECAY_DB = 0.1
IDLE_DECAY_DB = 1.0
"""How fast the peak is forgotten, per frame."""
STRICT_MODE = 2
STRICT_VOCAL = 2
"""Frames of an onset that must have a pitch or the hiss of an "s" before an answer is cut. The
detector takes any sudden noise for speech; its mode 3 does less so, but also misses the "s" of
"stop" and is 160 ms late there."""
MIN_PERIODICITY = 0.45
MIN_CROSSINGS = 0.4
"""Sign changes per sample of an "s"."""
MIN_HISS_DB = -42.0
SHORTEST_PERIOD = INPUT_HZ // 400
LONGEST_PERIOD = INPUT_HZ // 70
QUIETEST_DB = -90.0


class Onset(Struct, frozen=True, tag=True):
    """Speech began at `pts`; `pcm` is all of it so far, the prefix padding before it included."""

    pts: int
    pcm: bytes


class Voice(Struct, frozen=True, tag=True):
    """The next stretch of an utterance, pauses included."""

    pcm: bytes
    silent_ms: int = 0
    """Of the pause that it is part of, so far; 0: it is voiced."""


class Offset(Struct, frozen=True, tag=True):
    """Speech ended at `pts`, the end of the last voiced frame; it is known at `known_pts`."""

    pts: int
    known_pts: int
    voiced_ms: int
    """Of what stands out of the surroundings; 0: it was nothing but steady noise."""
    too_long: bool = False
    """It was cut at its longest; what follows is another utterance."""


Event = Onset | Voice | Offset


class Frame(Struct, frozen=True):
    """What was found in 20 ms of sound."""

    voiced: bool
    level_db: float
    vocal: bool
    """With a pitch, or like an "s"; known only where it was asked for."""
    pitched: bool = False
    """The same, with a pitch."""


def mode_of(threshold: float) -> int:
    """The detector's aggressiveness, 0 to 3; below 2 it takes loud noise for speech."""
    return 0 if threshold < 0.2 else 1 if threshold < 0.4 else 2 if threshold < 0.7 else 3


class Frames:
    """Cuts a stream with positions into frames; owns what does not fill one yet."""

    def __init__(self) -> None:
        self._partial = bytearray()
        self.pts = 0
        """Where the next frame begins."""

    @property
    def position(self) -> int:
        """Samples of the stream taken so far."""
        return self.pts + len(self._partial) // 2

    def push(self, pts: int, pcm: bytes) -> Iterator[bytes]:
        """Take PCM at `pts`: what overlaps is ignored, a gap is skipped."""
        pcm = pcm[: len(pcm) & ~1]
        missing = pts - self.position
        if missing > 0:
            self._partial.clear()
            self.pts = pts
        elif missing < 0:
            pcm = pcm[-2 * missing :]
        self._partial += pcm
        while len(self._partial) >= FRAME_BYTES:
            frame = bytes(self._partial[:FRAME_BYTES])
            del self._partial[:FRAME_BYTES]
            self.pts += FRAME
            yield frame


class Segmenter:
    """Owns the detector and the audio not yet assigned to an utterance."""

    def __init__(self, detection: TurnDetection) -> None:
        self._vad = webrtcvad.Vad()
        self.frames = Frames()
        self._window: deque[bool] = deque(maxlen=ONSET_WINDOW)
        self._vocal: deque[bool] = deque(maxlen=ONSET_WINDOW)
        self._last_frame = bytes(FRAME_BYTES)
        self._before: deque[bytes] = deque()
        self._peak_db = QUIETEST_DB
        self._floor = NoiseFloor()
        self.echo = EchoTrack()
        self._surroundings = Surroundings()
        self._levels: deque[Levels] = deque(maxlen=ONSET_WINDOW)
        self._utterance: list[tuple[bool, Levels]] = []
        self._reset_utterance()
        self.configure(detection)

    def configure(self, detection: TurnDetection) -> None:
        """Change the settings; an utterance under way goes on."""
        self._mode = mode_of(detection.threshold)
        self._hangover_frames = math.ceil(detection.silence_duration_ms / FRAME_MS)
        self._most_patience = detection.patience
        self._prefix_frames = detection.prefix_padding_ms // FRAME_MS
        self._trim_before()

    @property
    def position(self) -> int:
        """Samples of the stream taken so far."""
        return self.frames.position

    def push(self, pts: int, pcm: bytes, *, strict: bool) -> list[Event]:
        """Take PCM at `pts` (what overlaps is ignored, a gap is skipped). `strict`: a false alarm
        would cut an answer, so only clear speech counts as an onset."""
        events: list[Event] = []
        for frame in self.frames.push(pts, pcm):
            events += self.step(frame, strict=strict)[1]
        return events

    def step(
        self, frame: bytes, *, strict: bool, is_judged: bool = False
    ) -> tuple[Frame, list[Event]]:
        """Take the next frame of `frames`. `is_judged`: an utterance begins by `begin` alone, and
        its end is not looked for."""
        strict = strict and not self.is_speaking
        self._vad.set_mode(max(self._mode, STRICT_MODE) if strict else self._mode)
        level_db = rms_db(frame)
        levels = self._floor.push(frame)
        decay_db = SPEAKING_DECAY_DB if self.is_speaking else IDLE_DECAY_DB
        self._peak_db = max(level_db, self._peak_db - decay_db)
        voiced = (
            bool(self._vad.is_speech(frame, INPUT_HZ))
            and level_db > self._peak_db - RANGE_DB
            and level_db > self._least_db
            and bool(stands_out(levels, self._floor.levels))
        )
        self.echo.hear(levels)
        is_echo = voiced and self.echo.covers(levels)
        voiced = voiced and not is_echo
        around = self._last_frame + frame
        self._last_frame = frame
        wants_vocal = (strict or is_judged) and voiced
        pitched = wants_vocal and is_pitched(around)
        vocal = pitched or (wants_vocal and is_hiss(around))
        found = Frame(voiced, level_db, vocal, pitched)
        if self.is_speaking:
            if voiced and self._most_patience > 1:
                self.turn_end.add(pitch_of(around))
            self._surroundings.spoken(level_db)
            return found, self._go_on(frame, voiced, levels, is_judged)
        if not is_echo:
            self._surroundings.idle(level_db)
        self._window.append(voiced)
        self._levels.append(levels)
        self._vocal.append(vocal)
        self._before.append(frame)
        if not is_judged and self._is_onset(strict):
            return found, [self.begin()]
        self._trim_before()
        return found, []

    @property
    def _least_db(self) -> float:
        """What is weaker is the background; that may grow a little while somebody speaks."""
        background_db = max(FLOOR_DB, self._surroundings.loudest_db)
        above_db = self._peak_db - background_db if self.is_speaking else 0.0
        return background_db + GROWTH_SHARE * max(0.0, above_db)

    def stop(self) -> list[Event]:
        """End the utterance under way, if any, now."""
        return [self._end(self._pts, too_long=False)] if self.is_speaking else []

    def abandon(self) -> None:
        """Forget the utterance under way: it was none."""
        self._reset_utterance()

    @property
    def _pts(self) -> int:
        return self.frames.pts

    def _is_onset(self, strict: bool) -> bool:
        if sum(self._window) < ONSET_VOICED:
            return False
        return not strict or sum(self._vocal) >= STRICT_VOCAL

    def begin(self) -> Onset:
        """Begin an utterance with the first voiced frame of the last few."""
        recent = list(self._window)
        since = len(recent) - (recent.index(True) if True in recent else 0)
        self.is_speaking = True
        self._surroundings.began()
        self._utterance = list(zip(recent, self._levels, strict=True))[-since:]
        self._silent_frames = 0
        self._last_voiced_pts = self._pts
        pcm = b"".join(self._before)
        self._before.clear()
        return Onset(self._pts - since * FRAME, pcm)

    def _go_on(self, frame: bytes, voiced: bool, levels: Levels, is_judged: bool) -> list[Event]:
        self._utterance.append((voiced, levels))
        if voiced:
            self._silent_frames = 0
            self._last_voiced_pts = self._pts
        else:
            self._silent_frames += 1
        too_long = len(self._utterance) * FRAME_MS >= MAX_UTTERANCE_MS
        is_over = not is_judged and self._is_over()
        voice = Voice(frame, self._silent_frames * FRAME_MS)
        if is_over or too_long:
            return [voice, self._end(self._pts, too_long=too_long)]
        return [voice]

    def _is_over(self) -> bool:
        if self._silent_frames < LEAST_SILENT_FRAMES:
            return False
        patience = 1.0
        if self._most_patience > 1:
            patience = self.turn_end.patience(self._most_patience)
        return self._silent_frames >= self._hangover_frames * patience

    def _end(self, known_pts: int, *, too_long: bool) -> Offset:
        offset = Offset(self._last_voiced_pts, known_pts, self._voiced_ms(), too_long)
        self._reset_utterance()
        return offset

    def _voiced_ms(self) -> int:
        """Judged by what is known of the surroundings now, the silence behind the speech included:
        steady noise that set in is found to be speech at first, some of it for a moment only."""
        voiced = np.array([voiced for voiced, _ in self._utterance])
        levels = np.array([levels for _, levels in self._utterance])
        floor = self._floor.levels
        if self._silent_frames:
            floor = np.maximum(floor, quiet_of(levels[-self._silent_frames :]))
        voiced &= stands_out(levels, floor)
        in_window = np.convolve(voiced, np.ones(ONSET_WINDOW, int))
        return int(voiced.sum()) * FRAME_MS if in_window.max() >= ONSET_VOICED else 0

    def _reset_utterance(self) -> None:
        self.is_speaking = False
        self.turn_end = TurnEnd()
        self._window.clear()
        self._vocal.clear()
        self._levels.clear()
        self._utterance = []
        self._silent_frames = 0
        self._last_voiced_pts = 0
        self._peak_db = QUIETEST_DB

    def _trim_before(self) -> None:
        while len(self._before) > self._prefix_frames + ONSET_WINDOW:
            self._before.popleft()


def rms_db(frame: bytes) -> float:
    """Level of a frame in dBFS, -90 at least."""
    samples = np.frombuffer(frame, np.int16).astype(np.float32)
    power = float(samples @ samples) / max(1, len(samples))
    return max(QUIETEST_DB, 10 * math.log10(power / 32768**2 + 1e-9))


def is_hiss(pcm: bytes) -> bool:
    """Whether the second half of 40 ms of sound is like an "s"."""
    samples = np.frombuffer(pcm, np.int16).astype(np.float32)
    latest = samples[len(samples) // 2 :]
    crossings = np.count_nonzero(latest[1:] * latest[:-1] < 0) / max(1, len(latest))
    return bool(crossings > MIN_CROSSINGS) and rms_db(pcm) > MIN_HISS_DB


def is_pitched(pcm: bytes) -> bool:
    """Whether 40 ms of sound are like a vowel: with a pitch of 70 to 400 Hz."""
    return pitch_of(pcm) is not None


def pitch_of(pcm: bytes) -> float | None:
    """The pitch of 40 ms of sound in Hz, if it is like a vowel."""
    samples = np.frombuffer(pcm, np.int16).astype(np.float32)
    samples -= samples.mean()
    spectrum = np.fft.rfft(samples, 2 * len(samples))
    correlation = np.fft.irfft(np.abs(spectrum) ** 2)[: LONGEST_PERIOD + 1]
    # Long lags overlap less; without this a low voice would seem less periodic.
    correlation *= len(samples) / (len(samples) - np.arange(len(correlation)))
    period = SHORTEST_PERIOD + int(correlation[SHORTEST_PERIOD:].argmax())
    is_clear = correlation[period] > MIN_PERIODICITY * max(float(correlation[0]), 1.0)
    return INPUT_HZ / period if is_clear else None
