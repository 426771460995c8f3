"""What a session says: paced by what is heard, cut at once, and never stuck."""

from __future__ import annotations

import numpy as np
import pytest

from engine.audio_output import AHEAD_SAMPLES, PIECE_SAMPLES, AudioOutput
from engine.ipc import protocol as p

SECOND = 24_000


class Said:
    def __init__(self) -> None:
        self.messages: list[p.FromEngine] = []
        self.output = AudioOutput("s", self.messages.append)

    def samples(self, epoch: int) -> int:
        sounds = [m for m in self.messages if isinstance(m, p.AudioOut) and m.epoch == epoch]
        return sum(len(sound.pcm) // 2 for sound in sounds)

    def done(self) -> list[tuple[int, str]]:
        return [(m.epoch, m.status) for m in self.messages if isinstance(m, p.ResponseDone)]


@pytest.fixture
def said() -> Said:
    return Said()


def speech(seconds: float) -> np.ndarray:
    return np.ones(round(seconds * SECOND), np.int16)


def test_sound_waits_for_what_was_heard(said: Said) -> None:
    said.output.begin("speech")
    said.output.say("so much", speech(10), last=True)
    said.output.finish("completed")
    assert AHEAD_SAMPLES < said.samples(1) <= AHEAD_SAMPLES + PIECE_SAMPLES and not said.done()
    assert said.output.is_full
    said.output.heard(p.Heard("s", 1, 7 * SECOND))
    assert said.samples(1) == 10 * SECOND and said.done() == [(1, "completed")]


def test_the_next_response_never_waits_for_what_nobody_reported(said: Said) -> None:
    said.output.begin("proactive")
    said.output.say("much", speech(6), last=True)
    said.output.finish("completed")
    said.output.begin("proactive")
    said.output.say("more", speech(1), last=True)
    said.output.finish("completed")
    assert said.samples(1) == 6 * SECOND and said.samples(2) == SECOND
    assert said.done() == [(1, "completed"), (2, "completed")]


def test_a_cut_drops_what_waits(said: Said) -> None:
    said.output.begin("speech")
    said.output.say("much", speech(10), last=True)
    said.output.finish("completed")
    before = said.samples(1)
    said.output.interrupt()
    said.output.heard(p.Heard("s", 1, 2 * SECOND, final=True, interrupted=True))
    assert said.samples(1) == before and said.done() == [(1, "cancelled")]
    assert said.messages[-2] == p.Interrupt("s", 1) and not said.output.is_speaking


def test_calls_wait_for_no_sound_and_asides_have_numbers_of_their_own(said: Said) -> None:
    said.output.begin("request")
    said.output.say("much", speech(10), last=True)
    said.output.call("c", "look", "{}")
    assert said.messages[-1] == p.FunctionCallOut("s", 1, "c", "look", "{}")
    assert said.output.number_aside() == 2 and said.output.epoch == 1
    said.output.finish("completed")
    said.output.begin("request")
    assert said.output.epoch == 3
