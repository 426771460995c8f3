"""Speech over noise: its end is found, and noise alone is none."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from engine.hearing.surroundings import Ranked, Surroundings
from engine.hearing.vad import FRAME, Offset, Segmenter
from engine.ipc.protocol import TurnDetection
from tests.bench.behaviour import sounds
from tests.bench.behaviour.sounds import LEVEL_DB, RATE, Sound, mixed, spoken
from tests.speech import resample

LEAD_S = 3.0


def offsets(sound: Sound) -> list[Offset]:
    """The ends of what is taken for speech."""
    segmenter = Segmenter(TurnDetection())
    pcm = (np.clip(resample(sound, RATE, 16_000), -1, 1) * 32_767).astype(np.int16).tobytes()
    events = []
    for at in range(0, len(pcm) - 2 * FRAME + 1, 2 * FRAME):
        events += segmenter.push(at // 2, pcm[at : at + 2 * FRAME], strict=False)
    return [event for event in events if isinstance(event, Offset) and event.voiced_ms]


@pytest.mark.parametrize(
    ("noise", "below_db"),
    [(sounds.fan, 15.0), (sounds.fan, 5.0), (sounds.babble, 20.0), (sounds.babble, 10.0)],
)
@pytest.mark.parametrize("seed", [1, 4])
def test_the_end_of_a_sentence_over_noise_is_found(
    noise: Callable[[float, int, float], Sound], below_db: float, seed: int
) -> None:
    speech = spoken("what time is it", sounds.VOICES[seed])
    length_s = LEAD_S + len(speech) / RATE
    found = offsets(mixed(speech, noise(length_s + 1.5, seed, LEVEL_DB - below_db), LEAD_S))
    ends_ms = [offset.known_pts / 16 - length_s * 1000 for offset in found]
    assert any(0 <= end_ms <= 600 for end_ms in ends_ms), ends_ms


@pytest.mark.parametrize("level_db", [-50.0, -38.0, -30.0])
def test_a_fan_is_no_speech(level_db: float) -> None:
    assert offsets(sounds.fan(12.0, 3, level_db)) == []


def test_several_who_talk_elsewhere_are_soon_no_speech() -> None:
    found = offsets(sounds.babble(12.0, 3, -44.0))
    # How many until then depends on what espeak-ng has said before: it never says the same twice.
    assert all(offset.known_pts < 16_000 * 7 for offset in found)


def test_the_soft_beginning_of_speech_is_no_background() -> None:
    background = Surroundings()
    for _ in range(60):
        background.idle(-70.0)
    for level_db in (-50.0, -40.0, -30.0, -25.0):
        background.idle(level_db)
    background.began()
    for _ in range(30):
        background.idle(-70.0)
    assert background.loudest_db == pytest.approx(-68.0)


def test_a_voice_with_pauses_never_becomes_background() -> None:
    background = Surroundings()
    for index in range(1_000):
        background.spoken(-25.0 if index % 20 < 14 else -55.0)
    assert background.loudest_db < -100


def test_what_never_pauses_becomes_background() -> None:
    background = Surroundings()
    for index in range(101):
        background.spoken(-40.0 + index % 5)
    assert background.loudest_db == pytest.approx(-34.0, abs=1)


def test_what_is_spoken_over_much_louder_was_background() -> None:
    background = Surroundings()
    for index in range(60):
        background.spoken(-60.0 + index % 20)
    assert background.loudest_db < -100
    background.spoken(-25.0)
    assert background.loudest_db == pytest.approx(-39.0, abs=1)


def test_the_last_numbers_are_ranked_as_numpy_ranks_them() -> None:
    drawn = np.random.default_rng(3).normal(-50, 9, 400).round(1).tolist()
    ranked = Ranked(100)
    for count, value in enumerate(drawn, 1):
        ranked.add(value)
        last = drawn[max(0, count - 100) : count]
        assert list(ranked) == last and len(ranked) == len(last)
        assert ranked.largest == max(last)
        for share in (0.1, 0.9, 0.95):
            assert ranked.quantile(share) == pytest.approx(np.quantile(last, share), abs=1e-9)
    ranked.clear()
    assert len(ranked) == 0
