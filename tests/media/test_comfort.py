"""The noise that stands in for a caller's surroundings: as loud, as coloured, without an end."""

import numpy as np

from media.comfort import WINDOW_PACKETS, BackgroundNoise
from tests.media.peers import speech

PACKET = 640


def room(seconds: float, level: float, seed: int = 1) -> bytes:
    """Return dull noise: most of it lies below 2 kHz."""
    white = np.random.default_rng(seed).normal(0, 1, int(seconds * 16_000))
    dull = np.convolve(white, np.hanning(9), "same")
    return bytes((dull / dull.std() * level).astype("<i2").tobytes())


def told(noise: BackgroundNoise, pcm: bytes) -> None:
    for at in range(0, len(pcm), PACKET):
        noise.hear(pcm[at : at + PACKET])


def rms(pcm: bytes) -> float:
    return float(np.std(np.frombuffer(pcm, "<i2").astype(float)))


def test_nothing_is_known_before_anything_was_heard() -> None:
    assert BackgroundNoise().noise(320) == bytes(640)


def test_the_noise_is_as_loud_and_as_dull_as_the_room_between_the_words() -> None:
    noise = BackgroundNoise()
    told(noise, speech(1.0, 16_000) + room(0.5, 60) + speech(1.0, 16_000))
    pcm = noise.noise(16_000)
    assert len(pcm) == 32_000
    assert 40 < rms(pcm) < 75
    power = np.abs(np.fft.rfft(np.frombuffer(pcm, "<i2").astype(float))) ** 2
    assert power[:2000].sum() > 10 * power[4000:].sum()


def test_it_goes_on_evenly_in_pieces_of_any_length() -> None:
    noise = BackgroundNoise()
    told(noise, room(1.0, 100))
    pieces = [noise.noise(n) for n in (320, 1, 0, 160, 333, 320, 16_000)]
    assert [len(p) // 2 for p in pieces] == [320, 1, 0, 160, 333, 320, 16_000]
    levels = [rms(pieces[-1][at : at + 6400]) for at in range(0, 32_000, 6400)]
    assert max(levels) < 1.5 * min(levels)


def test_a_room_that_was_left_is_forgotten() -> None:
    noise = BackgroundNoise()
    told(noise, room(1.0, 10))
    told(noise, room(WINDOW_PACKETS * 2 * 0.02 + 1.0, 300, seed=2))
    assert rms(noise.noise(16_000)) > 150


def test_a_microphone_that_is_muted_stays_so() -> None:
    noise = BackgroundNoise()
    told(noise, bytes(PACKET * 20))
    assert rms(noise.noise(3200)) == 0


def test_packets_of_other_lengths_teach_nothing() -> None:
    noise = BackgroundNoise()
    noise.hear(room(0.06, 500))
    assert noise.noise(320) == bytes(640)
