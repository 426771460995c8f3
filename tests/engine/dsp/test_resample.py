"""Resampling: lengths, pitch and level of a tone, and that nothing above the band folds back."""

from __future__ import annotations

import math

import pytest
import torch

from engine.dsp.resample import resample


def tone(hz: float, rate: int, seconds: float = 0.5) -> torch.Tensor:
    return (2 * math.pi * hz * torch.arange(int(seconds * rate)) / rate).sin()


@pytest.mark.parametrize(
    ("source", "target"), [(16_000, 24_000), (22_050, 24_000), (44_100, 16_000), (48_000, 16_000)]
)
def test_a_tone_stays_the_same_tone(source: int, target: int) -> None:
    ours, wanted = resample(tone(440, source), source, target), tone(440, target)
    assert len(ours) == math.ceil(len(tone(440, source)) * target / source)
    middle = slice(200, min(len(ours), len(wanted)) - 200)
    assert torch.allclose(ours[middle], wanted[middle], atol=5e-3)


def test_what_is_above_the_new_band_is_removed() -> None:
    quiet = resample(tone(11_000, 48_000), 48_000, 16_000)[200:-200]
    assert float(quiet.abs().max()) < 0.02


def test_the_same_rate_is_the_same_sound() -> None:
    sound = tone(300, 16_000)
    assert resample(sound, 16_000, 16_000) is sound


def test_channels_are_resampled_alone() -> None:
    two = torch.stack([tone(300, 16_000), tone(700, 16_000)])
    both = resample(two, 16_000, 24_000)
    assert torch.allclose(both[1], resample(two[1], 16_000, 24_000), atol=1e-6)
