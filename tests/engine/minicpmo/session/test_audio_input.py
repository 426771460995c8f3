"""Sound that waits for units: whole units are skipped when the engine is late, and it is told."""

from __future__ import annotations

import numpy as np
import pytest

from engine.ipc.protocol import (
    INPUT_HZ,
    FromEngine,
    SessionConfig,
    SessionWarning,
    TurnDetection,
)
from engine.minicpmo.models.unit import RELEASED_UNIT
from engine.minicpmo.session.audio_input import WARN_EVERY_S, AudioInput
from engine.minicpmo.session.session import Session
from tests.waiting import Clock

UNIT_BYTES = 2 * INPUT_HZ

PIECE = 320


class Ear:
    """A microphone whose samples count up, so that each tells where it belongs."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.sent: list[FromEngine] = []
        self.utterances: list[tuple[int, bytes]] = []
        self.audio_input = AudioInput(
            "one",
            TurnDetection(),
            self.sent.append,
            lambda utterance, pcm: self.utterances.append((utterance, pcm)),
            unit=RELEASED_UNIT,
            clock=self.clock,
        )
        self.pts = 0

    def hear(self, seconds: float) -> None:
        """In real time, 20 ms each."""
        for _ in range(round(seconds * INPUT_HZ / PIECE)):
            self.clock.now += PIECE / INPUT_HZ
            self.push(numbered(self.pts, PIECE))
            self.pts += PIECE

    def push(self, pcm: bytes) -> None:
        self.audio_input.push(self.pts, pcm, for_units=True, over=False)

    def unit(self) -> int | None:
        """The first sample of the next unit; all of it must be in order."""
        chunk = self.audio_input.take_unit()
        if chunk is None:
            return None
        found = (chunk.numpy() * 32768).astype(np.int64)
        start = int(found[0])
        assert (found == np.frombuffer(numbered(start, INPUT_HZ), np.int16)).all()
        return start

    def warnings(self) -> list[SessionWarning]:
        return [message for message in self.sent if isinstance(message, SessionWarning)]


def numbered(start: int, count: int) -> bytes:
    """Samples of a ramp that begins anew every two seconds."""
    return (np.arange(start, start + count) % (2 * INPUT_HZ)).astype(np.int16).tobytes()


def test_up_to_two_units_wait_whole() -> None:
    ear = Ear()
    ear.hear(2.0)
    assert (ear.unit(), ear.unit(), ear.unit()) == (0, INPUT_HZ, None)
    assert ear.audio_input.dropped_ms == 0 and not ear.warnings()


def test_beyond_them_the_oldest_unit_is_skipped_whole() -> None:
    ear = Ear()
    ear.hear(2.02)
    assert ear.audio_input.dropped_ms == 1000
    assert ear.audio_input.pending_ms == 1020
    assert ear.unit() == INPUT_HZ


@pytest.mark.parametrize("stall_s", [2.5, 3.0, 4.98, 7.3])
def test_after_a_stall_no_unit_is_older_than_a_second_and_the_next_one_is_on_time(
    stall_s: float,
) -> None:
    ear = Ear()
    ear.hear(stall_s)
    first = ear.unit()
    assert first is not None and first % INPUT_HZ == 0
    assert ear.clock.now - ear.audio_input.complete_since <= 1.0
    while ear.unit() is not None:
        pass
    behind_s = 1 - ear.audio_input.pending_ms / 1000
    ear.hear(behind_s)
    assert ear.unit() is not None
    assert ear.clock.now - ear.audio_input.complete_since == pytest.approx(0, abs=0.03)


def test_what_is_skipped_and_what_is_heard_is_all_there_was() -> None:
    ear = Ear()
    heard_s = 0
    for step in range(40):
        ear.hear(0.5)
        if step % 3 == 0 and ear.unit() is not None:
            heard_s += 1
    total_ms = heard_s * 1000 + ear.audio_input.dropped_ms + ear.audio_input.pending_ms
    assert total_ms == 20_000
    assert ear.audio_input.dropped_ms % 1000 == 0


def test_large_pieces_skip_as_many_units_as_it_takes() -> None:
    ear = Ear()
    ear.push(bytes(2 * UNIT_BYTES))
    ear.push(bytes(2 * UNIT_BYTES + 640))
    assert ear.audio_input.dropped_ms == 3000 and ear.audio_input.pending_ms == 1020


def test_half_a_sample_shifts_nothing() -> None:
    ear = Ear()
    ear.push(numbered(0, PIECE) + b"\x01")
    ear.push(numbered(PIECE, INPUT_HZ - PIECE))
    assert ear.unit() == 0 and ear.audio_input.pending_ms == 0


def test_client_is_warned_once_in_ten_seconds_with_all_that_was_skipped() -> None:
    ear = Ear()
    ear.hear(2.02)
    (warning,) = ear.warnings()
    assert warning.code == "audio_skipped" and "1 s" in warning.message
    ear.hear(5.0)
    assert len(ear.warnings()) == 1 and ear.audio_input.dropped_ms == 6000
    while ear.unit() is not None:
        pass
    for _ in range(12):
        ear.hear(0.5)
        ear.unit()
    told = ear.warnings()
    assert len(told) == 2, "the rest is told although nothing more was skipped"
    assert "5 s" in told[1].message and ear.audio_input.dropped_ms == 6000
    assert WARN_EVERY_S == 10.0


def test_sound_that_waited_before_it_got_here_counts_from_when_it_came() -> None:
    ear = Ear()
    came = ear.clock.now - 0.5
    ear.audio_input.push(0, bytes(UNIT_BYTES), for_units=True, over=False, arrived=came)
    assert ear.audio_input.waiting_s == 0.5
    assert ear.audio_input.take_unit() is not None
    assert ear.audio_input.complete_since == came


def test_where_no_sound_comes_silence_fills_a_unit_each_second() -> None:
    ear = Ear()
    heard = ear.audio_input
    heard.fill()
    assert heard.take_unit() is not None and heard.complete_since == ear.clock.now
    heard.fill()
    assert heard.pending_ms == 0, "not sooner than time passes"
    ear.clock.now += 1.0
    heard.fill()
    assert heard.pending_ms == 1000 and heard.take_unit() is not None
    ear.hear(0.5)
    ear.clock.now += 1.9
    heard.fill()
    assert heard.pending_ms == 500 and not heard.has_stopped, "its next packet may only be late"
    ear.clock.now += 0.1
    heard.fill()
    assert heard.pending_ms == 1000 and heard.has_stopped


def test_sound_for_units_does_not_outlive_full_duplex() -> None:
    session = Session(
        "one",
        0,
        SessionConfig(mode="full_duplex"),
        1,
        lambda message: None,
        unit=RELEASED_UNIT,
    )
    session.audio_input.push(0, bytes(UNIT_BYTES), for_units=True, over=False)
    session.reconfigure(SessionConfig(mode="full_duplex", instructions="Be brief."))
    assert session.audio_input.pending_ms == 1000
    session.reconfigure(SessionConfig(mode="turn_based"))
    assert session.audio_input.pending_ms == 0
