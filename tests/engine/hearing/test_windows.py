from __future__ import annotations

import numpy as np
import pytest

from engine.hearing.windows import windows


@pytest.mark.parametrize("step", [1, 3, 7])
def test_windows_begin_a_step_apart_and_end_with_the_last_whole_one(step: int) -> None:
    sound = np.arange(40, dtype=np.int16)[5:]

    found = windows(sound, 8, step)

    begins = range(0, len(sound) - 8 + 1, step)
    assert found.tolist() == [sound[at : at + 8].tolist() for at in begins]
    assert np.shares_memory(found, sound)


def test_windows_of_several_bands_have_time_last() -> None:
    levels = np.arange(12.0, dtype=np.float32).reshape(6, 2)

    found = windows(levels[1:], 3)

    assert found.shape == (3, 2, 3)
    assert found[1].tolist() == levels[2:5].T.tolist()


def test_what_is_shorter_than_a_window_has_none() -> None:
    assert windows(np.zeros(7, np.float32), 8).shape == (0, 8)
    assert windows(np.zeros(3, np.float32), 8, 2).shape == (0, 8)
