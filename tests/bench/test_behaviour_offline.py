"""The bench's sounds without a network are judged as in a call."""

from __future__ import annotations

import numpy as np
import pytest

from engine.builtin.interfaces import Transcript
from tests.bench.behaviour import sounds
from tests.bench.behaviour.offline import Case, overlap_row, turn_row
from tests.bench.behaviour.sounds import at_level, spoken
from tests.bench.behaviour.virtual_call import Ear

VOICE = "en-us"


class ScriptedEar(Ear):
    """Understands the texts in their order, the last one from then on."""

    def __init__(self, *texts: str) -> None:
        self._texts = list(texts)

    def words(self, pcm: bytes) -> Transcript:
        del pcm
        return Transcript(self._texts.pop(0) if len(self._texts) > 1 else self._texts[0])


@pytest.fixture(scope="module")
def answer() -> sounds.Sound:
    return at_level(spoken(" ".join(sounds.CHATTER[:2]), "en-gb"), -20.0)


def test_a_sentence_silences_an_answer_and_a_door_does_not(answer: sounds.Sound) -> None:
    sentence = Case(VOICE, "", spoken("what is the date today", VOICE))
    stopped = overlap_row(ScriptedEar(""), sentence, answer, None)
    assert stopped["stopped"] and stopped["ducked_ms"] < stopped["silent_ms"] <= 300
    door = Case(VOICE, "", sounds.door(1, -20.0))
    assert not overlap_row(ScriptedEar(""), door, answer, None)["stopped"]


def test_half_a_question_is_spoken_over_only_where_it_seems_whole() -> None:
    sound = spoken("what is the date today", VOICE, pause_after=3, pause_s=0.8)
    paused = Case(VOICE, "", sound)
    for half, over in (("What is that?", False), ("The date.", True)):
        row = turn_row(ScriptedEar(half, "What is the date today?"), paused)
        assert row["over"] == over and (over or row["heard"] == ["What is the date today?"])
        assert row["response_ms"] is not None


def test_silence_is_answered_by_nobody() -> None:
    row = turn_row(ScriptedEar(""), Case(VOICE, "", np.zeros(24_000, np.float32)))
    assert row["response_ms"] is None and not row["over"]
