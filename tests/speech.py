"""Speech for fake microphones, and what recordings of calls contain."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.hearing.windows import windows

Samples = NDArray[np.float32]

DATA = Path(__file__).parent / "engine" / "data"
BROWSER_HZ = 48_000
FRAME_MS = 10


def read_wav(path: Path) -> tuple[int, Samples]:
    """Rate and samples (-1 to 1) of a mono 16 bit file."""
    with wave.open(str(path), "rb") as file:
        assert file.getnchannels() == 1 and file.getsampwidth() == 2, path
        pcm = np.frombuffer(file.readframes(file.getnframes()), np.int16)
        return file.getframerate(), (pcm / 32768).astype(np.float32)


def resample(samples: Samples, rate: int, wanted: int) -> Samples:
    """By the spectrum: exact for what both rates can hold."""
    if rate == wanted:
        return samples
    count = round(len(samples) * wanted / rate)
    spectrum = np.fft.rfft(samples)
    kept = np.zeros(count // 2 + 1, complex)
    shared = min(len(spectrum), len(kept))
    kept[:shared] = spectrum[:shared]
    return (np.fft.irfft(kept, count) * (wanted / rate)).astype(np.float32)


def microphone(path: Path, said: list[tuple[float, str]], total_s: float) -> Path:
    """Write a 48 kHz file in which each utterance (a name in tests/engine/data) begins at its
    second, over faint noise: digital silence is what no microphone gives."""
    noise = np.random.default_rng(1).standard_normal(int(total_s * BROWSER_HZ))
    mixed = (noise * 1e-4).astype(np.float32)
    for at_s, name in said:
        rate, speech = read_wav(DATA / f"{name}.wav")
        speech = resample(speech, rate, BROWSER_HZ)
        start = int(at_s * BROWSER_HZ)
        end = min(len(mixed), start + len(speech))
        mixed[start:end] += speech[: end - start]
    pcm = (np.clip(mixed, -1, 1) * 32767).astype(np.int16)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(BROWSER_HZ)
        file.writeframes(pcm.tobytes())
    return path


def envelope(samples: Samples, rate: int) -> Samples:
    """RMS of each 10 ms."""
    frame = rate * FRAME_MS // 1000
    frames = samples[: len(samples) // frame * frame].reshape(-1, frame)
    level: Samples = np.sqrt(np.mean(frames.astype(np.float64) ** 2, axis=1)).astype(np.float32)
    return level


def stretches(
    samples: Samples, rate: int, *, threshold: float = 0.01, gap_s: float = 0.3
) -> list[tuple[float, float]]:
    """Begin and end, in s, of what is louder than `threshold`; shorter gaps are bridged."""
    found: list[tuple[float, float]] = []
    for index in np.flatnonzero(envelope(samples, rate) > threshold):
        begin, end = index * FRAME_MS / 1000, (index + 1) * FRAME_MS / 1000
        if found and begin - found[-1][1] <= gap_s:
            found[-1] = (found[-1][0], end)
        else:
            found.append((begin, end))
    return found


def likeness(heard: Samples, meant: Samples, rate: int) -> float:
    """How well the sound of `meant` is found in `heard`: median over its windows, 1 is the same.

    Compares band energies over time, window by window, each window aligned anew: a jitter buffer
    stretches and shrinks time by pitch periods, which ruins the phase but not the sound. Another
    sentence of the same voice scores below 0.6.
    """
    pattern, sound = band_energies(meant, rate), band_energies(heard, rate)
    scores: list[float] = []
    at = 0
    for start in range(0, len(pattern) - WINDOW_FRAMES + 1, WINDOW_FRAMES // 2):
        window = pattern[start : start + WINDOW_FRAMES]
        first = max(0, at + start - SLACK_FRAMES) if scores else 0
        last = at + start + SLACK_FRAMES if scores else len(sound) - WINDOW_FRAMES
        found = [
            (_correlation(window, sound[lag : lag + WINDOW_FRAMES]), lag)
            for lag in range(first, min(last, len(sound) - WINDOW_FRAMES) + 1)
        ]
        if not found:
            break
        score, lag = max(found)
        scores.append(score)
        at = lag - start
    return float(np.median(scores)) if scores else 0.0


WINDOW_FRAMES = 40
SLACK_FRAMES = 12
NUM_BANDS = 24
FLOOR_DB = -60.0


def band_energies(samples: Samples, rate: int) -> Samples:
    """dB over `FLOOR_DB` below the peak, per 10 ms and band from 100 Hz to 7 kHz."""
    hop, size = rate * FRAME_MS // 1000, rate * 2 * FRAME_MS // 1000
    if len(samples) < size:
        return np.zeros((0, NUM_BANDS), np.float32)
    frames = windows(samples, size, hop) * np.hanning(size)
    power = np.abs(np.fft.rfft(frames, axis=1)) ** 2
    edges = np.geomspace(100, 7000, NUM_BANDS + 1) * size / rate
    starts = np.maximum(1, edges[:-1].astype(int))
    ends = np.maximum(starts + 1, edges[1:].astype(int))
    bands = np.stack(
        [power[:, a:b].mean(axis=1) for a, b in zip(starts, ends, strict=True)], axis=1
    )
    level = 10 * np.log10(bands / max(float(bands.max()), 1e-12) + 1e-12)
    energies: Samples = (np.maximum(level, FLOOR_DB) - FLOOR_DB).astype(np.float32)
    return energies


def _correlation(one: Samples, other: Samples) -> float:
    a, b = one - one.mean(), other - other.mean()
    norm = float(np.sqrt(np.sum(a * a) * np.sum(b * b)))
    return float(np.sum(a * b)) / norm if norm > 0 else 0.0
