"""The answer's own echo is not the caller, and the caller is heard over it."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from engine.hearing.echo import KEPT, MAX_WAITING, PLAYED_BYTES, SPARE, EchoTrack
from engine.hearing.hearing import AnswerCut, Counted, Hearing
from engine.hearing.noisefloor import NoiseFloor
from engine.hearing.vad import FRAME
from engine.ipc.protocol import FromEngine, OverlapTold, TurnDetection
from tests.bench.behaviour import sounds
from tests.bench.behaviour.sounds import RATE, Sound, at_level, room, silence, spoken
from tests.speech import resample

ANSWER_DB = -20.0
ANSWER = "Once upon a time there was a lighthouse on a rock, and its keeper climbed the stairs."
TAIL_S = 0.7
LOUDSPEAKER_HZ = 250


@cache
def answer(voice: str) -> Sound:
    return at_level(spoken(ANSWER, voice), ANSWER_DB)


def echo(sound: Sound, level_db: float, delay_s: float) -> Sound:
    """What a small loudspeaker and a room make of it, so much weaker and later."""
    rng = np.random.default_rng(3)
    t = np.arange(round(0.15 * RATE)) / RATE
    walls = rng.standard_normal(len(t)) * 0.15 * np.exp(-t / 0.036)
    walls[0] = 1.0
    padded = np.concatenate([sound, silence(TAIL_S)])
    size = len(padded) + len(walls)
    spectrum = np.fft.rfft(padded, size) * np.fft.rfft(walls, size)
    hz = np.fft.rfftfreq(size, 1 / RATE)
    spectrum /= 1 + (LOUDSPEAKER_HZ / np.maximum(hz, 1.0)) ** 2
    heard = at_level(np.fft.irfft(spectrum, size).astype(np.float32), ANSWER_DB + level_db)
    late = np.concatenate([silence(delay_s), heard])
    return np.asarray(late[: len(padded)], np.float32)


def pcm16(sound: Sound, rate: int) -> bytes:
    samples = np.clip(resample(sound, RATE, rate), -1, 1) * 32_767
    return samples.astype(np.int16).tobytes()


class LoudRoom:
    """A caller whose loudspeaker is heard by the microphone."""

    def __init__(self) -> None:
        self.told: list[OverlapTold] = []
        self.hearing = Hearing("s", TurnDetection(), self._keep)
        self.pts = 0
        self.held_ms: int | None = None
        self.cuts = 0
        self.turns = 0
        self.hear(room(0.4))

    def _keep(self, message: FromEngine) -> None:
        assert isinstance(message, OverlapTold)
        self.told.append(message)
        if message.loudness == "held" and self.held_ms is None:
            self.held_ms = (self.pts + FRAME - message.pts) // 16

    def hear(self, sound: Sound, played: bytes = b"") -> None:
        """Hear it while this is played; what lies behind is heard after the answer."""
        pcm = pcm16(sound + room(len(sound) / RATE, 5)[: len(sound)], 16_000)
        for number, at in enumerate(range(0, len(pcm) - 2 * FRAME + 1, 2 * FRAME)):
            packet = played[number * PLAYED_BYTES : (number + 1) * PLAYED_BYTES]
            is_over = bool(packet) and not self.cuts
            frame = pcm[at : at + 2 * FRAME]
            for event in self.hearing.push(self.pts, frame, over=is_over, played=packet):
                self.cuts += isinstance(event, AnswerCut)
                self.turns += isinstance(event, Counted)
            self.pts += FRAME


@pytest.mark.parametrize("delay_s", [0.06, 0.15, 0.32, 0.48])
@pytest.mark.parametrize(
    ("voice", "level_db"), [("en-us", -20.0), ("en-gb+f4", -20.0), ("en-us", -30.0)]
)
def test_an_echo_neither_ends_the_answer_nor_is_a_turn(
    voice: str, level_db: float, delay_s: float
) -> None:
    loud = LoudRoom()
    for _ in range(2):
        loud.hear(echo(answer(voice), level_db, delay_s), pcm16(answer(voice), RATE))
    assert (loud.cuts, loud.turns) == (0, 0)
    assert not loud.hearing.is_speaking and not loud.hearing.is_undecided
    assert not [told for told in loud.told if told.loudness == "held"]


def test_without_what_was_played_the_same_echo_is_taken_for_the_caller() -> None:
    loud = LoudRoom()
    loud.hear(echo(answer("en-us"), -20.0, 0.15), b"")
    assert loud.turns


@pytest.mark.parametrize("voice", ["en-gb", "en-us+f2"])
@pytest.mark.parametrize("level_db", [-20.0, -30.0])
def test_the_caller_is_heard_over_the_echo(level_db: float, voice: str) -> None:
    loud = LoudRoom()
    played = pcm16(answer("en-us"), RATE)
    loud.hear(echo(answer("en-us"), level_db, 0.15), played)
    heard = echo(answer("en-us"), level_db, 0.15)
    question = spoken("what is the date today", voice)
    start = RATE
    heard[start : start + len(question)] += question
    before = loud.pts
    loud.hear(heard[: start + len(question)], played)
    assert (loud.cuts, loud.turns) == (1, 1)
    assert loud.told[-1].decision == "interruption" and loud.told[-1].took_ms <= 800
    assert abs((loud.told[-1].pts - before) / 16 - 1_000) <= 200


def test_the_caller_is_heard_right_behind_an_answer_with_echo() -> None:
    loud = LoudRoom()
    heard = echo(answer("en-us"), -20.0, 0.15)
    question = spoken("what time is it", "en-gb")
    loud.hear(heard, pcm16(answer("en-us"), RATE))
    loud.hear(np.concatenate([question, silence(0.6)]))
    assert (loud.cuts, loud.turns) == (0, 1) and not loud.hearing.is_speaking


@pytest.mark.parametrize("seed", range(3))
def test_with_headphones_a_caller_interrupts_as_ever(seed: int) -> None:
    loud = LoudRoom()
    question = spoken("what is the date today", sounds.VOICES[seed])
    heard = np.concatenate([silence(1.0), question])
    loud.hear(heard, pcm16(answer("en-us+f5"), RATE))
    assert loud.cuts == 1
    assert loud.told[-1].took_ms <= 800


@pytest.mark.parametrize("caller", ["en-us+m3", "en-us+f2"])
def test_who_speaks_as_rhythmically_as_a_first_loud_answer_is_no_echo(caller: str) -> None:
    """While nothing is known of an echo yet."""
    loud = LoudRoom()
    question = spoken("wait, what time is it over there in the evening", caller, 155)
    played = at_level(spoken(ANSWER, "en-us"), -12.0)
    loud.hear(np.concatenate([silence(0.1), question]), pcm16(played, RATE))
    assert loud.cuts == 1 and loud.hearing.echo.gain is None


@pytest.mark.parametrize(("after_s", "least_ms", "most_ms"), [(0.1, 240, 500), (1.2, 120, 239)])
def test_a_first_answer_waits_later_while_its_echo_is_not_known(
    after_s: float, least_ms: int, most_ms: int
) -> None:
    loud = LoudRoom()
    question = spoken("what is the date today", "en-us", level_db=-10.0)
    heard = np.concatenate([silence(after_s), question])
    loud.hear(heard, pcm16(at_level(spoken(ANSWER, "en-us"), -30.0), RATE))
    assert loud.held_ms is not None and least_ms <= loud.held_ms <= most_ms


def test_somebody_else_is_no_echo() -> None:
    track = EchoTrack()
    floor = NoiseFloor()
    played, heard = answer("en-us"), spoken(sounds.CHATTER[0], "en-gb")
    shown = pcm16(played, RATE)
    pcm = pcm16(heard, 16_000)
    for number in range(150):
        levels = floor.push(pcm[number * 640 : (number + 1) * 640])
        track.play(shown[number * PLAYED_BYTES : (number + 1) * PLAYED_BYTES])
        track.hear(levels)
        track.covers(levels)
    assert track.is_known and track.gain is None


def test_delay_and_loudness_are_found() -> None:
    loud = LoudRoom()
    loud.hear(echo(answer("en-us"), -20.0, 0.32), pcm16(answer("en-us"), RATE))
    track = loud.hearing.echo
    assert track.gain is not None
    assert abs(track.delay - 16) <= 2
    assert -28 <= float(track.gain.mean()) <= -14


def test_what_is_kept_is_bounded_and_forgotten() -> None:
    track = EchoTrack()
    levels = NoiseFloor().push(bytes(640))
    track.play(bytes(PLAYED_BYTES) * 10 * MAX_WAITING + b"\0\0")
    for number in range(MAX_WAITING + KEPT):
        track.hear(levels)
        assert track.is_awaited == (number < MAX_WAITING + KEPT - 1)
    assert not track.is_awaited and not track.covers(levels)


def test_what_was_played_while_no_sound_came_is_passed_over_within_two_seconds() -> None:
    track = EchoTrack()
    packet = bytes(PLAYED_BYTES)
    quiet = np.full(len(track._played[0]), -70.0)
    track.play(packet * MAX_WAITING)
    for _ in range(2 * MAX_WAITING):
        track.play(packet)
        track.hear(quiet)
    assert len(track._waiting) <= SPARE
