"""Filter banks: frame counts, where a tone lands, and that filters cover the band evenly."""

from __future__ import annotations

import math

import pytest
import torch

from engine.dsp.fbank import fbank
from engine.dsp.mel_filters import prompt_mel, slaney_filters, whisper_log_mel


def tone(hz: float, seconds: float, rate: int) -> torch.Tensor:
    return 0.3 * (2 * math.pi * hz * torch.arange(int(seconds * rate)) / rate).sin()


def test_fbank_has_a_frame_per_ten_milliseconds() -> None:
    assert fbank(tone(300, 1.0, 16_000)).shape == (98, 80)


def test_fbank_of_a_tone_peaks_in_the_band_around_it() -> None:
    def mel(hz: float) -> float:
        return 1127 * math.log(1 + hz / 700)

    step = (mel(8000) - mel(20)) / 81
    expected = (mel(1500) - mel(20)) / step - 1
    assert abs(float(fbank(tone(1500, 0.5, 16_000)).mean(0).argmax()) - expected) < 1


def test_fbank_ignores_a_constant_offset() -> None:
    sound = tone(440, 0.3, 16_000)
    assert torch.allclose(fbank(sound), fbank(sound + 0.2), atol=2e-2)


def test_fbank_refuses_less_than_a_frame() -> None:
    with pytest.raises(ValueError, match="399"):
        fbank(torch.zeros(399))


def test_slaney_filters_have_equal_area() -> None:
    filters = slaney_filters(24_000, 1920, 80, 0.0, 8000.0)
    areas = filters.sum(1) * 24_000 / 1920
    assert torch.allclose(areas[20:], torch.ones(60), atol=0.05)


def test_log_mels_have_the_frames_the_networks_expect() -> None:
    assert whisper_log_mel(tone(200, 2.0, 16_000), 128).shape == (128, 200)
    assert prompt_mel(tone(200, 2.0, 24_000)).shape == (100, 80)


def test_whisper_log_mel_spans_at_most_eight_powers_of_ten() -> None:
    mel = whisper_log_mel(tone(200, 1.0, 16_000), 128)
    assert float(mel.max() - mel.min()) <= 8 / 4 + 1e-6
