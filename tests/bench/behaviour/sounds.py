"""What callers of the behaviour bench let hear: 24 kHz float sound, made from seeds.

Voices are espeak-ng's; noises are generated. Levels are of the active part, in dBFS.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.builtin.espeak import shared_espeak
from tests.speech import resample

RATE = 24_000
Sound = NDArray[np.float32]

VOICES = ("en-us", "en-us+f2", "en-gb", "en-gb+f4", "en-us+m3", "en-gb-scotland", "en-us+f5")
LEVEL_DB = -26.0
"""Of a caller who speaks normally."""
FRAME = RATE // 50


def spoken(
    text: str,
    voice: str,
    rate_wpm: int = 165,
    level_db: float = LEVEL_DB,
    *,
    pause_after: int | None = None,
    pause_s: float = 0.0,
) -> Sound:
    """The text at a level; `pause_s` of silence before the word of index `pause_after`."""
    espeak = shared_espeak()
    made = espeak.speak(text, voice, rate_wpm, lambda: False)
    sound = resample((made.pcm / 32768).astype(np.float32), espeak.sample_rate, RATE)
    if pause_after is not None:
        at = round(made.words[pause_after][1] * RATE / 1000)
        at = _quietest(sound, at)
        gap = np.zeros(round(pause_s * RATE), np.float32)
        sound = np.concatenate([_faded(sound[:at], 5), gap, _faded(sound[at:][::-1], 5)[::-1]])
    return at_level(trimmed(sound), level_db)


def _quietest(sound: Sound, at: int) -> int:
    """The quietest 5 ms within 60 ms of a place: where a speaker would pause."""
    size = RATE // 200
    starts = range(max(0, at - 12 * size), min(len(sound) - size, at + 6 * size), size)
    return min(starts, key=lambda start: float(np.sum(sound[start : start + size] ** 2)))


def _faded(sound: Sound, ms: int) -> Sound:
    """The last `ms` go to zero."""
    length = min(len(sound), ms * RATE // 1000)
    out = sound.copy()
    if length:
        out[-length:] *= np.linspace(1, 0, length, dtype=np.float32)
    return out


def trimmed(sound: Sound) -> Sound:
    """Without the silence before and after, to 10 ms."""
    loud = np.flatnonzero(np.abs(sound) > 0.003 * max(1e-9, float(np.abs(sound).max())) * 3)
    if not len(loud):
        return sound
    margin = RATE // 100
    return sound[max(0, loud[0] - margin) : loud[-1] + margin]


def level_of(sound: Sound) -> float:
    """The active level: of the 20 ms frames within 25 dB of the loudest."""
    frames = sound[: len(sound) // FRAME * FRAME].reshape(-1, FRAME).astype(np.float64)
    power = np.mean(frames**2, axis=1) if len(frames) else np.array([np.mean(sound**2)])
    active = power[power > power.max() * 10**-2.5]
    return float(10 * np.log10(active.mean() + 1e-12))


def at_level(sound: Sound, db: float) -> Sound:
    return (sound * 10 ** ((db - level_of(sound)) / 20)).astype(np.float32)


def silence(seconds: float) -> Sound:
    return np.zeros(round(seconds * RATE), np.float32)


def room(seconds: float, seed: int = 1, level_db: float = -72.0) -> Sound:
    """What a microphone gives when nobody speaks."""
    rng = np.random.default_rng(seed)
    white = rng.standard_normal(round(seconds * RATE)).astype(np.float32)
    return (white * 10 ** (level_db / 20)).astype(np.float32)


def shaped(seconds: float, rng: np.random.Generator, slope_db: float, low: float) -> Sound:
    """Noise that falls by `slope_db` an octave above `low` Hz."""
    count = round(seconds * RATE)
    spectrum = np.fft.rfft(rng.standard_normal(count))
    hz = np.fft.rfftfreq(count, 1 / RATE)
    octaves = np.log2(np.maximum(hz, low) / low)
    spectrum *= 10 ** (-slope_db * octaves / 20) * (hz > 40)
    return np.fft.irfft(spectrum, count).astype(np.float32)


def fan(seconds: float, seed: int, level_db: float) -> Sound:
    rng = np.random.default_rng(seed)
    noise = shaped(seconds, rng, 5.0, 120.0)
    t = np.arange(len(noise)) / RATE
    hum = np.sin(2 * np.pi * rng.uniform(90, 140) * t) * 0.4 * noise.std()
    return at_level((noise + hum).astype(np.float32), level_db)


def babble(seconds: float, seed: int, level_db: float, talkers: int = 6) -> Sound:
    """Several people who talk at once."""
    rng = np.random.default_rng(seed)
    mixed = silence(seconds)
    for _ in range(talkers):
        voice = VOICES[rng.integers(len(VOICES))]
        text = CHATTER[rng.integers(len(CHATTER))]
        one = spoken(text, voice, int(rng.integers(140, 200)), -26.0)
        one = np.concatenate([one, silence(0.3)])
        start = int(rng.integers(len(one)))
        times = 2 + len(mixed) // len(one)
        mixed += np.tile(one, times)[start : start + len(mixed)] * 10 ** (rng.uniform(-4, 0) / 20)
    return at_level(mixed, level_db)


def hum(seed: int, level_db: float = LEVEL_DB) -> Sound:
    """ "Mm-hm" with a closed mouth, which espeak-ng would spell: two murmurs, the second higher."""
    rng = np.random.default_rng(seed)
    pitch = float(rng.uniform(95, 230))
    parts: list[Sound] = []
    for rise, seconds in ((0.95, rng.uniform(0.14, 0.22)), (1.2, rng.uniform(0.16, 0.28))):
        t = np.arange(round(seconds * RATE)) / RATE
        phase = 2 * np.pi * np.cumsum(pitch * rise * (1 + 0.05 * t)) / RATE
        voice = sum(
            np.sin(k * phase) / k * 10 ** (-max(0.0, k * pitch * rise - 300) / 350)
            for k in range(1, 12)
        )
        edge = np.minimum(1, np.minimum(t, t[::-1]) / 0.03)
        parts += [np.asarray(voice * edge, np.float32), silence(float(rng.uniform(0.04, 0.09)))]
    breath = shaped(len(parts[1]) / RATE, rng, 3.0, 300.0)
    parts[1] = (breath / breath.std() * 0.02)[: len(parts[1])]
    return at_level(np.concatenate(parts[:-1]), level_db)


def cough(seed: int, level_db: float) -> Sound:
    """One or two bursts of rough noise, without a pitch."""
    rng = np.random.default_rng(seed)
    parts = []
    for _ in range(int(rng.integers(1, 3))):
        burst = shaped(float(rng.uniform(0.18, 0.32)), rng, 2.0, 400.0)
        t = np.arange(len(burst)) / RATE
        parts += [burst * np.minimum(1, t / 0.008) * np.exp(-t / 0.09), silence(0.12)]
    return at_level(np.concatenate(parts[:-1]).astype(np.float32), level_db)


def door(seed: int, level_db: float) -> Sound:
    """A slam: a thud of low modes, a click, and the room after it."""
    rng = np.random.default_rng(seed)
    count = round(0.5 * RATE)
    t = np.arange(count) / RATE
    thud = sum(
        rng.uniform(0.4, 1.0) * np.sin(2 * np.pi * hz * t + rng.uniform(0, 6)) * np.exp(-t / decay)
        for hz, decay in zip(rng.uniform(60, 420, 8), rng.uniform(0.04, 0.14, 8), strict=True)
    )
    click = shaped(0.5, rng, 3.0, 300.0) * np.exp(-t / 0.03)
    return at_level((thud + click / click.std() * 0.5).astype(np.float32), level_db)


def keyboard(seconds: float, seed: int, level_db: float) -> Sound:
    """Keys, six or so a second: each a press and a release of a few ms."""
    rng = np.random.default_rng(seed)
    out = silence(seconds)
    at = 0.02
    while at < seconds - 0.2:
        for delay, gain in ((0.0, 1.0), (rng.uniform(0.06, 0.1), 0.5)):
            key = shaped(0.03, rng, 1.0, 1500.0)
            key *= np.exp(-np.arange(len(key)) / RATE / 0.005)
            start = round((at + delay) * RATE)
            out[start : start + len(key)] += gain * key[: len(out) - start] / key.std()
        at += rng.uniform(0.1, 0.25)
    return at_level(out, level_db)


def music(seconds: float, seed: int, level_db: float) -> Sound:
    """Chords and a melody of plucked tones over a beat."""
    rng = np.random.default_rng(seed)
    out = silence(seconds)
    beat_s = float(rng.uniform(0.35, 0.55))
    root = float(rng.uniform(110, 180))
    steps = (0, 2, 4, 5, 7, 9, 11, 12)
    for number in range(int(seconds / beat_s) + 1):
        notes = [root * 2 ** (steps[rng.integers(8)] / 12 + 1)]
        if number % 4 == 0:
            base = steps[rng.integers(5)]
            notes += [root * 2 ** ((base + third) / 12) for third in (0, 4, 7)]
        length = round(beat_s * 2.5 * RATE)
        t = np.arange(length) / RATE
        tone = sum(
            np.sin(2 * np.pi * hz * k * t) / k**1.5 * np.exp(-t * (1.5 + k))
            for hz in notes
            for k in range(1, 7)
        )
        start = round(number * beat_s * RATE)
        kept = min(length, len(out) - start)
        if kept > 0:
            out[start : start + kept] += (tone * np.minimum(1, t / 0.005))[:kept]
    return at_level(out, level_db)


def telephone(sound: Sound) -> Sound:
    """300 to 3400 Hz, as narrow-band telephony passes it."""
    spectrum = np.fft.rfft(sound)
    hz = np.fft.rfftfreq(len(sound), 1 / RATE)
    spectrum *= 1 / (1 + np.exp(-(hz - 300) / 25)) * 1 / (1 + np.exp((hz - 3400) / 60))
    return np.fft.irfft(spectrum, len(sound)).astype(np.float32)


def clipped(sound: Sound, over_db: float = 12.0) -> Sound:
    """Driven so far over full scale."""
    gain = 10 ** ((over_db - 20 * np.log10(np.abs(sound).max() + 1e-9)) / 20)
    return np.asarray(np.clip(sound * gain, -0.98, 0.98), np.float32)


def mixed(speech: Sound, noise: Sound, lead_s: float) -> Sound:
    """Speech that begins `lead_s` into the noise."""
    out = noise.copy()
    start = round(lead_s * RATE)
    kept = min(len(speech), len(out) - start)
    out[start : start + kept] += speech[:kept]
    return np.asarray(np.clip(out, -0.99, 0.99), np.float32)


CHATTER = (
    "I told him that the train would be late again and of course it was, so we waited an hour",
    "the new restaurant around the corner is really good and not even expensive you should go",
    "when we were on holiday last summer the weather was so bad that we stayed inside and read",
    "my sister bought a house with a garden and now she spends all her weekends cutting the grass",
)
