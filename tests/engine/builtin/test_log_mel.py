"""Whisper's spectra: how many, how loud, at which band."""

from __future__ import annotations

import numpy as np
import pytest

from engine.builtin.log_mel import log_mel

SECOND = 16_000


def tone(hz: float, level: float = 10_000) -> np.ndarray:
    return (level * np.sin(2 * np.pi * hz * np.arange(SECOND) / SECOND)).astype(np.int16)


def test_there_is_a_column_for_each_10_ms() -> None:
    assert log_mel(np.zeros(SECOND, np.int16), 80).shape == (80, 100)
    assert log_mel(np.zeros(SECOND, np.int16), 128).shape == (128, 100)


@pytest.mark.parametrize("hz", [200, 440, 1_000, 3_000, 7_000])
def test_a_tone_is_loudest_at_its_band(hz: float) -> None:
    """Slaney's scale: 200/3 Hz a step below 1 kHz, 27 steps for each factor of 6.4 above."""
    steps = hz * 3 / 200 if hz < 1_000 else 15 + 27 * np.log(hz / 1_000) / np.log(6.4)
    most = 15 + 27 * np.log(8) / np.log(6.4)
    expected = steps / most * 81 - 1
    loudest = log_mel(tone(hz), 80)[:, 10:90].mean(axis=1).argmax()
    assert abs(loudest - expected) <= 1


def test_ten_times_the_sound_is_half_a_unit_more_until_the_range_ends() -> None:
    loud, soft = log_mel(tone(440), 80), log_mel(tone(440, 1_000), 80)
    assert loud.max() - soft.max() == pytest.approx(0.5, abs=0.01)
    assert loud.max() - loud.min() == pytest.approx(2.0, abs=1e-3)


def test_silence_is_flat() -> None:
    assert np.allclose(log_mel(np.zeros(SECOND, np.int16), 80), -1.5)
