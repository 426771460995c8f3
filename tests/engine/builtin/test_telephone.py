"""What a telephone's line took away is put back roughly, and nothing is done to whole voices."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.builtin import log_mel as spectra
from engine.builtin.log_mel import log_mel
from tests.bench.behaviour.sounds import RATE, spoken
from tests.engine.builtin.rig import speech
from tests.speech import resample

BANDS = 80
PADDING = 100
"""Columns."""


def voice(name: str) -> NDArray[np.int16]:
    return np.pad(np.frombuffer(speech(name), np.int16), (0, 160 * PADDING))


def through_a_telephone(pcm: NDArray[np.int16]) -> NDArray[np.int16]:
    spectrum = np.fft.rfft(pcm)
    hz = np.fft.rfftfreq(len(pcm), 1 / 16_000)
    spectrum *= 1 / (1 + np.exp(-(hz - 300) / 25)) / (1 + np.exp((hz - 3400) / 60))
    return np.rint(np.fft.irfft(spectrum, len(pcm))).astype(np.int16)


def plain(pcm: NDArray[np.int16], monkeypatch: pytest.MonkeyPatch) -> NDArray[np.float32]:
    with monkeypatch.context() as patch:
        patch.setattr(spectra, "widened", lambda mel, centres: mel)
        return log_mel(pcm, BANDS)


@pytest.mark.parametrize("name", ["what_time", "tell_story"])
def test_a_telephone_voice_is_nearer_to_the_whole_one(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, narrow = voice(name), through_a_telephone(voice(name))
    wanted = log_mel(whole, BANDS)[:, :-PADDING]
    before = np.abs(plain(narrow, monkeypatch)[:, :-PADDING] - wanted).mean(axis=1)
    after = np.abs(log_mel(narrow, BANDS)[:, :-PADDING] - wanted).mean(axis=1)
    assert after[:8].mean() < 0.6 * before[:8].mean()
    assert after[65:75].mean() < 0.75 * before[65:75].mean()
    assert np.array_equal(after[10:58], before[10:58])


def test_silence_behind_it_stays_silence() -> None:
    silent = log_mel(through_a_telephone(voice("what_time")), BANDS)[:, -PADDING // 2 :]
    assert silent.max() == silent.min()


@pytest.mark.parametrize("name", ["what_time", "tell_story"])
def test_whole_voices_are_left_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert np.array_equal(log_mel(voice(name), BANDS), plain(voice(name), monkeypatch))


def test_a_dark_voice_without_an_s_is_a_whole_one(monkeypatch: pytest.MonkeyPatch) -> None:
    said = np.rint(resample(spoken("are you all alone", "en-us+m7"), RATE, 16_000) * 32_767)
    pcm = np.pad(said.astype(np.int16), (0, 160 * PADDING))
    assert np.array_equal(log_mel(pcm, BANDS), plain(pcm, monkeypatch))
    narrow = through_a_telephone(pcm)
    assert not np.array_equal(log_mel(narrow, BANDS), plain(narrow, monkeypatch))
