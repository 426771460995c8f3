"""A process that checks a recording that is to become a voice, and puts it into one form.

The file comes on standard input. On standard output goes a line of JSON, which says what it is or
why it is refused, then the sound as a WAV file: 24 kHz, mono, 16 bits. A process, because what
strangers send is decoded by FFmpeg, which is not loaded where HTTP is answered.
"""

from __future__ import annotations

import io
import json
import os
import resource
import sys
import wave
from typing import Any, NamedTuple

import av
import numpy as np
from numpy.typing import NDArray

HZ = 24_000
MIN_SECONDS, MAX_SECONDS = 3.0, 20.0
MIN_SPOKEN_S = 1.5
SILENT_DBFS = -50.0
CLIP_LEVEL = 0.999
MAX_CLIPPED = 0.005
"""Share of samples at full scale."""
MIN_CONTRAST_DB = 10.0
"""Of loud moments over quiet ones; steady noise has 3 or less, speech in a quiet room over 25."""
SPOKEN_BELOW_DB = 25.0
"""So far below the loud moments still counts as speech."""
FRAME_S = 0.02
FLOOR_DB = -120.0
MAX_RATE = 192_000
MAX_CHANNELS = 8
CPU_S = 30
MEMORY_BYTES = 4 << 30

Samples = NDArray[np.float32]


class VoiceRefused(Exception):
    """The recording cannot be a voice; the text is for people.

    `code` is one of unreadable, too_short, too_long, silent, clipped, too_noisy.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class CheckedVoice(NamedTuple):
    """A recording in the form in which it is kept."""

    pcm: bytes
    """24 kHz, mono, int16."""
    seconds: float
    level_dbfs: float
    contrast_db: float


def check(data: bytes) -> CheckedVoice:
    """Decode a sound file of any format that PyAV reads; raises `VoiceRefused`. Blocks."""
    samples, rate = _decode(data)
    seconds = samples.shape[1] / rate
    if seconds < MIN_SECONDS:
        raise VoiceRefused(
            "too_short", f"It has {seconds:.1f} s; at least {MIN_SECONDS:g} s are needed."
        )
    if seconds > MAX_SECONDS:
        raise VoiceRefused("too_long", f"At most {MAX_SECONDS:g} s are taken; cut it.")
    if not np.isfinite(samples).all():
        raise VoiceRefused("unreadable", "It holds values that are no numbers.")
    mono = samples.mean(axis=0)
    level = _dbfs(float(np.sqrt(np.square(mono).mean())))
    if level < SILENT_DBFS:
        raise VoiceRefused("silent", f"It is silent, or nearly so ({level:.0f} dBFS).")
    clipped = float((np.abs(samples) >= CLIP_LEVEL).mean())
    if clipped > MAX_CLIPPED:
        raise VoiceRefused(
            "clipped",
            f"It is too loud: {100 * clipped:.1f} % of it is clipped. Record at a lower level.",
        )
    contrast = _check_speech(mono, rate)
    return CheckedVoice(_kept_form(samples, rate), seconds, level, contrast)


def _check_speech(mono: Samples, rate: int) -> float:
    """How far what is loud stands out of the rest, in dB; raises `VoiceRefused`."""
    size = max(1, round(FRAME_S * rate))
    frames = mono[: len(mono) // size * size].reshape(-1, size)
    levels = 20 * np.log10(np.sqrt(np.square(frames).mean(axis=1)).clip(10 ** (FLOOR_DB / 20)))
    quiet, loud = np.percentile(levels, (10, 90))
    contrast = float(loud - quiet)
    if contrast < MIN_CONTRAST_DB:
        raise VoiceRefused(
            "too_noisy",
            f"No speech stands out of the noise ({contrast:.0f} dB). Record in a quiet room, "
            "close to the microphone.",
        )
    spoken_s = float((levels > loud - SPOKEN_BELOW_DB).mean()) * len(mono) / rate
    if spoken_s < MIN_SPOKEN_S:
        raise VoiceRefused(
            "too_short", f"Only {spoken_s:.1f} s of it are speech; {MIN_SPOKEN_S:g} s are needed."
        )
    return contrast


def _decode(data: bytes) -> tuple[Samples, int]:
    """Samples [channels, N] in [-1, 1] and their rate; no more than is too long."""
    pieces: list[NDArray[Any]] = []
    try:
        with av.open(io.BytesIO(data), "r", metadata_errors="replace") as opened:
            if not opened.streams.audio:
                raise VoiceRefused("unreadable", "There is no sound in this file.")
            stream = opened.streams.audio[0]
            rate, length = int(stream.rate), 0
            if not 8_000 <= rate <= MAX_RATE or stream.channels > MAX_CHANNELS:
                raise VoiceRefused(
                    "unreadable", f"{rate} Hz with {stream.channels} channels are not taken."
                )
            resampler = av.AudioResampler(format="fltp", layout=stream.layout, rate=rate)
            for packet in opened.demux(stream):
                for piece in _sound_of(packet, resampler):
                    pieces.append(piece)
                    length += piece.shape[1]
                if length > (MAX_SECONDS + 1) * rate:
                    break
    except (av.FFmpegError, ValueError, OverflowError) as error:
        raise VoiceRefused("unreadable", "It is not a sound file that can be read.") from error
    if not pieces:
        raise VoiceRefused("unreadable", "There is no sound in this file.")
    return np.concatenate(pieces, axis=1).astype(np.float32), rate


def _sound_of(packet: Any, resampler: av.AudioResampler) -> list[NDArray[Any]]:
    """What of a packet is not damaged."""
    try:
        frames = packet.decode()
    except (av.error.InvalidDataError, av.error.EOFError):
        return []
    return [part.to_ndarray() for frame in frames for part in resampler.resample(frame)]


def _kept_form(samples: Samples, rate: int) -> bytes:
    frame = av.AudioFrame.from_ndarray(
        np.ascontiguousarray(samples.mean(axis=0, keepdims=True)), format="fltp", layout="mono"
    )
    frame.sample_rate = rate
    resampler = av.AudioResampler(format="s16", layout="mono", rate=HZ)
    made = [*resampler.resample(frame), *resampler.resample(None)]
    return b"".join(part.to_ndarray().astype("<i2").tobytes() for part in made)


def _dbfs(amplitude: float) -> float:
    return 20 * float(np.log10(max(amplitude, 10 ** (FLOOR_DB / 20))))


def wav(pcm: bytes) -> bytes:
    """24 kHz mono int16 samples as a file."""
    packed = io.BytesIO()
    with wave.open(packed, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(HZ)
        file.writeframes(pcm)
    return packed.getvalue()


def answer(data: bytes) -> bytes:
    """What is said of a file: a line of JSON, then the sound if it can be a voice. Blocks."""
    sound = b""
    told: dict[str, Any]
    try:
        checked = check(data)
        told = {
            "seconds": round(checked.seconds, 2),
            "level_dbfs": round(checked.level_dbfs, 1),
            "contrast_db": round(checked.contrast_db, 1),
        }
        sound = wav(checked.pcm)
    except VoiceRefused as refused:
        told = {"code": refused.code, "message": str(refused)}
    return json.dumps(told).encode() + b"\n" + sound


def main() -> None:
    """Check what comes on standard input."""
    os.nice(5)
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    sys.stdout.buffer.write(answer(sys.stdin.buffer.read()))
