"""Speech of a telephone for a model that learned from whole voices: what the line took away.

Nothing above 3.4 kHz comes through, and little below 300 Hz. What was there is not known, but
roughly where it was: above, the voice itself mirrored and weaker, as it is in many an old
recording; below, as much as voices have in the mean. Of 144 sentences in fourteen voices of
espeak-ng 10 and 15 % fewer words are wrong (`tests.bench.ears`; docs/behaviour.md).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LOWEST_HZ, HIGHEST_HZ = 350.0, 3600.0
"""Of what such a line lets through, with what its slopes leave."""
MIRROR_HZ = 8000.0
"""A frequency above is made of the one that is as far below this."""
MIRROR = -1.0
"""Decades of power by which it is weaker at 4 kHz,"""
MIRROR_PER_HZ = -0.0003
"""and by which it falls from there."""
MISSING = -4.7
"""Decades between what is above 4 kHz and the voice: voices have -1.2 to -3.2, dark ones without
an "s" -4.4, a telephone -5 or less."""
MOST_LOW = 3.0
"""Decades by which what is below is made stronger."""
SPOKEN, HEARD = 3.5, 8.0
"""Decades below the loudest; columns that are weaker are no speech, or nothing at all."""
VOICES_LOW = (-0.1, 0.8, 1.2, 1.7, 2.1, 2.0, 1.8)
"""Decades of the mean of seven voices above what they have from 0.5 to 2 kHz,"""
VOICES_LOW_HZ = (40.0, 77.0, 114.0, 150.0, 187.0, 224.0, 261.0)
"""at these frequencies."""


def widened(mel: NDArray[np.float64], centres: NDArray[np.float64]) -> NDArray[np.float64]:
    """[bands, columns] of log10 power around `centres`, Hz; as it is where nothing is missing."""
    spoken = mel[:, mel.max(axis=0) > mel.max() - SPOKEN]
    power = 10.0**spoken
    voice = power[(centres > 500) & (centres < 3000)].mean()
    if power[(centres > 4000) & (centres < 7500)].mean() > voice * 10**MISSING:
        return mel
    # What was filled up with nothing stays nothing.
    heard = mel.max(axis=0) > mel.max() - HEARD
    below, above = centres < LOWEST_HZ, centres > HIGHEST_HZ
    middle = spoken[(centres > 500) & (centres < 2000)].mean()
    usual = middle + np.interp(centres[below], VOICES_LOW_HZ, VOICES_LOW)
    out = mel[:, heard]
    out[below] += np.clip(usual - spoken[below].mean(axis=1), 0.0, MOST_LOW)[:, None]
    source = np.abs(centres - (MIRROR_HZ - centres[above])[:, None]).argmin(axis=1)
    weaker = MIRROR + MIRROR_PER_HZ * (centres[above] - MIRROR_HZ / 2)
    out[above] = np.logaddexp2(out[above] / _LOG2, (out[source] + weaker[:, None]) / _LOG2) * _LOG2
    whole = mel.copy()
    whole[:, heard] = out
    return whole


_LOG2 = float(np.log10(2))
