"""Speech for fake microphones, and what recordings of calls contain."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

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
    return np.sqrt(np.mean(frames.astype(np.float64) ** 2, axis=1)).astype(np.float32)


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


def likeness(heard: Samples, meant: Samples, rate: int, window_s: float = 0.4) -> float:
    """Median over windows of `meant` of the best normalised correlation found in `heard`.

    Each window is aligned anew within +-0.4 s of where the one before was found, because jitter
    buffers stretch time.
    """
    window = int(window_s * rate)
    slack = int(0.4 * rate)
    at = max(0, _best_lag(heard, meant))
    scores = []
    for start in range(0, len(meant) - window, window):
        pattern = meant[start : start + window]
        if np.sqrt(np.mean(pattern**2)) < 0.01:
            continue
        low = max(0, at + start - slack)
        piece = heard[low : low + window + 2 * slack]
        if len(piece) < window:
            break
        lag, score = _aligned(piece, pattern)
        at = low + lag - start
        scores.append(score)
    return float(np.median(scores)) if scores else 0.0


def _best_lag(heard: Samples, meant: Samples) -> int:
    size = 1 << (len(heard) + len(meant)).bit_length()
    spectrum = np.fft.rfft(heard, size) * np.conj(np.fft.rfft(meant, size))
    correlation = np.fft.irfft(spectrum, size)
    lag = int(np.argmax(correlation))
    return lag if lag < size // 2 else lag - size


def _aligned(piece: Samples, pattern: Samples) -> tuple[int, float]:
    correlation = np.correlate(piece, pattern, "valid") if len(pattern) < 2000 else None
    if correlation is None:
        size = 1 << (len(piece) + len(pattern)).bit_length()
        spectrum = np.fft.rfft(piece, size) * np.conj(np.fft.rfft(pattern, size))
        correlation = np.fft.irfft(spectrum, size)[: len(piece) - len(pattern) + 1]
    squares = np.concatenate(([0.0], np.cumsum(piece.astype(np.float64) ** 2)))
    energy = squares[len(pattern) :] - squares[: -len(pattern)]
    norm = np.sqrt(np.maximum(energy, 1e-9) * float(np.sum(pattern.astype(np.float64) ** 2)))
    scores = correlation / norm
    lag = int(np.argmax(scores))
    return lag, float(scores[lag])
