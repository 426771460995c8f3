"""When somebody has finished: by the melody of the voice and the words, not by silence alone."""

from __future__ import annotations

import numpy as np
import pytest

from engine.hearing.hearing import Hearing
from engine.hearing.turnend import (
    CLEAR_SHARE,
    CLOSED_SHARE,
    UNKNOWN_SHARE,
    TurnEnd,
    phrase_of,
)
from engine.hearing.vad import FRAME, Offset
from engine.ipc.protocol import TurnDetection
from tests.bench.behaviour.sounds import RATE, Sound, room, spoken
from tests.speech import resample

MOST = 3.0


def ended(last: float, phrase: str = "") -> float:
    """The patience behind a voice of 100 Hz whose last pitches are `last` Hz."""
    end = TurnEnd()
    for hz in [100.0] * 20 + [last] * 4:
        end.add(hz)
    end.phrase = phrase  # type: ignore[assignment]
    return end.patience(MOST)


def test_a_fall_is_an_end_and_anything_else_may_go_on() -> None:
    assert ended(80.0) == CLEAR_SHARE
    assert ended(97.0) == ended(120.0) == MOST


def test_words_count_for_more_than_the_melody() -> None:
    assert ended(80.0, "open") == MOST
    assert ended(100.0, "whole") == 1.0 and ended(80.0, "whole") == CLEAR_SHARE
    assert ended(100.0, "closed") == CLOSED_SHARE and ended(80.0, "closed") == CLEAR_SHARE


def test_words_that_are_about_to_be_known_are_waited_for() -> None:
    assert ended(80.0, "awaited") == ended(100.0, "awaited") == MOST


def test_without_pitch_little_is_known() -> None:
    assert TurnEnd().patience(MOST) == UNKNOWN_SHARE
    assert TurnEnd().patience(1.0) == 1.0


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("what is seven times", "open"),
        ("Tell me a.", "open"),
        ("what time is it", ""),
        ("It rains today.", "closed"),
        ("It rains...", ""),
        ("Where are you from?", "closed"),
        ("What is that?", "closed"),
        ("What is it for?", "closed"),
        ("Can you do that?", "closed"),
        ("Give it to me!", "closed"),
        ("Is it the?", "open"),
        ("What is seven times?", "open"),
        ("", ""),
    ],
)
def test_a_last_word_may_ask_for_another(text: str, phrase: str) -> None:
    assert phrase_of(text) == phrase


def waits_ms(sound: Sound, patience: float) -> list[int]:
    """How long each end of speech took to be known."""
    pause = TurnDetection(patience=patience)
    hearing = Hearing("s", pause, lambda _: None)
    sound = np.concatenate([room(0.5), sound, room(1.5)])
    pcm = (np.clip(resample(sound, RATE, 16_000), -1, 1) * 32_767).astype(np.int16).tobytes()
    events = []
    for at in range(0, len(pcm) - 2 * FRAME + 1, 2 * FRAME):
        events += hearing.push(at // 2, pcm[at : at + 2 * FRAME], over=False)
    ends = [event for event in events if isinstance(event, Offset)]
    return [(end.known_pts - end.pts) // 16 for end in ends]


@pytest.mark.parametrize("pause_s", [0.5, 0.8])
def test_a_pause_within_a_sentence_is_no_end(pause_s: float) -> None:
    sound = spoken("tell me a story", "en-us", pause_after=2, pause_s=pause_s)
    assert len(waits_ms(sound, 1.0)) == 2
    assert len(waits_ms(sound, MOST)) == 1


def test_a_clear_end_is_known_sooner_than_silence_alone_tells() -> None:
    (wait_ms,) = waits_ms(spoken("what is the date today", "en-us"), MOST)
    assert wait_ms <= 280
