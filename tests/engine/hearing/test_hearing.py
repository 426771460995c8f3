"""Who speaks when: what is heard over an answer, by the sounds of the behaviour bench."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from engine.hearing.hearing import AnswerCut, Counted, Dismissed, Heard, Hearing
from engine.hearing.overlap import Overlap, OverlapFrame
from engine.hearing.vad import FRAME, Offset
from engine.ipc.protocol import FromEngine, OverlapTold, TurnDetection
from tests.bench.behaviour import sounds
from tests.bench.behaviour.sounds import RATE, Sound, at_level, room, spoken
from tests.speech import resample

VOICE = "en-us"


def pcm16(sound: Sound) -> bytes:
    samples = np.clip(resample(sound, RATE, 16_000), -1, 1) * 32_767
    return samples.astype(np.int16).tobytes()


def bark(ms: int) -> Sound:
    """A voice's sound without a word, at the caller's level."""
    t = np.arange(RATE * ms // 1000) / RATE
    harmonics = np.arange(1, 25)[:, None]
    weights = (1 + 3 * np.exp(-(((130 * harmonics - 700) / 250) ** 2))) / harmonics
    waves = (weights * np.sin(2 * np.pi * 130 * harmonics * t)).sum(axis=0)
    return at_level(waves.astype(np.float32), sounds.LEVEL_DB)


@cache
def question() -> bytes:
    return pcm16(np.concatenate([room(0.3), spoken("what time is it", VOICE), room(0.6)]))


class Listener:
    """A caller who has spoken once, and now sounds over an answer."""

    def __init__(self, detection: TurnDetection | None = None) -> None:
        self.told: list[OverlapTold] = []
        self.hearing = Hearing("s", detection or TurnDetection(), self._keep)
        self.pts = 0
        self.begun = 0
        self.over = False
        self.cut_ms: int | None = None
        self.held_ms: int | None = None
        self.hear(question())
        self.over = True
        self.hear(pcm16(room(0.4)))

    def _keep(self, message: FromEngine) -> None:
        assert isinstance(message, OverlapTold)
        self.told.append(message)
        if message.loudness == "held" and self.held_ms is None:
            self.held_ms = (self.pts + FRAME - self.begun) // 16

    def hear(self, pcm: bytes) -> list[Heard]:
        found: list[Heard] = []
        for at in range(0, len(pcm) - 2 * FRAME + 1, 2 * FRAME):
            over = self.over and self.cut_ms is None
            events = self.hearing.push(self.pts, pcm[at : at + 2 * FRAME], over=over)
            self.pts += FRAME
            if self.cut_ms is None and any(isinstance(event, AnswerCut) for event in events):
                self.cut_ms = (self.pts - self.begun) // 16
            found += events
        return found

    def over_answer(self, sound: Sound, after_s: float = 1.2) -> list[Heard]:
        self.begun = self.pts
        return self.hear(pcm16(np.concatenate([sound, room(after_s)])))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "make",
    [
        lambda seed: spoken(("right", "yeah", "okay", "uh-huh")[seed], VOICE),
        lambda seed: sounds.hum(seed),
        lambda seed: sounds.cough(seed, -22.0),
        lambda seed: sounds.door(seed, -20.0),
        lambda seed: sounds.keyboard(2.0, seed, -34.0),
        lambda seed: sounds.music(2.0, seed, -42.0),
        lambda seed: spoken(sounds.CHATTER[seed], "en-gb", level_db=-41.0)[: 2 * RATE],
    ],
    ids=["acknowledgement", "hum", "cough", "door", "keyboard", "music", "somebody else"],
)
def test_an_answer_goes_on_where_nothing_interrupts(make: object, seed: int) -> None:
    assert callable(make)
    listener = Listener()
    found = listener.over_answer(make(seed))
    assert listener.cut_ms is None
    assert not [event for event in found if isinstance(event, Counted)]
    assert not listener.told or listener.told[-1].loudness == "full"
    assert not listener.hearing.is_speaking and not listener.hearing.is_undecided


@pytest.mark.parametrize("level_db", [-26.0, -31.0])
@pytest.mark.parametrize("text", ["what is the date today", "wait, what time is it"])
def test_a_sentence_over_an_answer_ends_it(text: str, level_db: float) -> None:
    listener = Listener()
    found = listener.over_answer(spoken(text, VOICE, level_db=level_db), after_s=0.6)
    assert [told.loudness for told in listener.told] == ["ducked", "held", ""]
    assert listener.told[-1].decision == "interruption"
    assert listener.held_ms is not None and listener.held_ms <= 220
    assert listener.cut_ms is not None and listener.cut_ms <= 800
    counted = next(event for event in found if isinstance(event, Counted))
    assert abs(counted.pts - listener.begun) <= 16 * 120
    assert [type(event) for event in found if isinstance(event, Counted | Offset)] == [
        Counted,
        Offset,
    ]


def test_a_word_that_is_mostly_hiss_makes_the_answer_wait() -> None:
    listener = Listener()
    listener.over_answer(spoken("stop", "en-us+m3", 175), after_s=0.1)
    assert listener.held_ms is not None and listener.held_ms <= 300
    assert listener.hearing.is_undecided


@pytest.mark.parametrize(("sound_ms", "gap_ms"), [(80, 380), (120, 360), (160, 360)])
def test_what_neither_ends_nor_goes_on_is_decided(sound_ms: int, gap_ms: int) -> None:
    listener = Listener()
    beat = np.concatenate([bark(sound_ms), room(gap_ms / 1000)])
    listener.over_answer(np.tile(beat, 20), after_s=0.0)
    assert listener.held_ms is not None and listener.held_ms <= 220
    first = next(told for told in listener.told if told.decision)
    assert first.decision == "interruption" and first.took_ms <= 1_500


def test_blips_of_a_voice_that_never_held_the_answer_are_forgotten() -> None:
    overlap = Overlap()
    overlap.can_hold = False
    voice, pause = OverlapFrame(0.0, is_vocal=True, is_pitched=True), OverlapFrame(None)
    steps = [overlap.step(voice if number % 12 < 3 else pause) for number in range(80)]
    assert [step.decision for step in steps if step.decision] == ["noise"]


@pytest.mark.parametrize("level_db", [-20.0, -26.0])
def test_water_behind_a_beep_is_no_voice(level_db: float) -> None:
    hiss = np.diff(np.random.default_rng(1).standard_normal(RATE + 1)).astype(np.float32)
    beep = np.sin(2 * np.pi * 300 * np.arange(RATE * 6 // 100) / RATE).astype(np.float32)
    parts = [at_level(hiss[: RATE // 3], level_db), at_level(beep, level_db)]
    listener = Listener()
    listener.over_answer(np.concatenate([*parts, at_level(hiss[RATE // 3 :], level_db)]))
    assert listener.cut_ms is None and listener.told[-1].decision == "noise"


def test_a_second_word_within_a_second_ends_the_answer() -> None:
    listener = Listener()
    listener.over_answer(spoken("hey", VOICE), after_s=0.7)
    assert listener.cut_ms is None and listener.told[-1].decision == "acknowledgement"
    listener.over_answer(spoken("hey", VOICE))
    assert listener.cut_ms is not None and listener.cut_ms <= 260


def test_words_with_time_between_them_are_acknowledgements_each() -> None:
    listener = Listener()
    for _ in range(3):
        listener.over_answer(spoken("right", VOICE), after_s=1.6)
    assert listener.cut_ms is None


def test_an_answer_that_cannot_wait_is_cut_within_300_ms() -> None:
    listener = Listener(TurnDetection(can_hold=False))
    listener.over_answer(spoken("what is the date today", VOICE))
    assert listener.cut_ms is not None and listener.cut_ms <= 300
    assert all(told.loudness != "held" for told in listener.told)


@pytest.mark.parametrize(
    "text, cuts",
    [("please stop", True), ("Wait", True), ("等一下", True), ("not now", False), ("know", False)],
)
def test_whole_words_that_cut(text: str, cuts: bool) -> None:
    listener = Listener()
    listener.over_answer(spoken("stop", VOICE)[: RATE // 4], after_s=0.0)
    assert listener.hearing.is_undecided
    found = listener.hearing.words(text)
    assert any(isinstance(event, AnswerCut) for event in found) == cuts


def test_words_cut_nothing_where_nothing_is_heard() -> None:
    assert Listener().hearing.words("stop") == []


def test_what_was_said_as_the_answer_ended_is_a_turn() -> None:
    listener = Listener()
    listener.over_answer(spoken("yeah", VOICE)[: RATE // 5], after_s=0.0)
    assert listener.hearing.is_undecided
    listener.over = False
    found = listener.hear(pcm16(np.concatenate([spoken("yeah", VOICE)[RATE // 5 :], room(1.0)])))
    kinds = [type(event) for event in found]
    assert kinds.index(Counted) < kinds.index(Offset) and Dismissed not in kinds


def test_an_utterance_stopped_by_hand_counts() -> None:
    listener = Listener()
    listener.over_answer(spoken("what time is it", VOICE)[: RATE // 4], after_s=0.0)
    found = listener.hearing.stop()
    assert [type(event) for event in found] == [Counted, Offset]


def test_without_interruption_nothing_is_judged() -> None:
    listener = Listener(TurnDetection(interrupt_response=False))
    found = listener.over_answer(spoken("right", VOICE))
    assert listener.told == [] and listener.cut_ms is None
    assert [event for event in found if isinstance(event, Counted)]


def test_a_caller_not_heard_before_can_interrupt() -> None:
    listener = Listener()
    listener.hearing = Hearing("s", TurnDetection(), listener.told.append)  # type: ignore[arg-type]
    listener.pts = 0
    listener.over_answer(spoken("what is the date today", VOICE, level_db=-36.0))
    assert listener.cut_ms is not None


@pytest.mark.parametrize(
    ("text", "is_command", "cuts"),
    [("who are you", False, True), ("that's enough", True, True), ("yeah", False, False)],
)
def test_words_that_are_about_to_be_known_decide_of_a_short_burst(
    text: str, is_command: bool, cuts: bool
) -> None:
    listener = Listener()
    listener.over_answer(spoken("who are you", VOICE, 185), after_s=0.2)
    assert listener.hearing.is_undecided and listener.told[-1].loudness == "held"
    listener.hearing.await_words()
    listener.hear(pcm16(room(0.3)))
    assert listener.hearing.is_undecided
    found = listener.hearing.words(text, is_command=is_command)
    found += listener.hear(pcm16(room(0.1)))
    assert any(isinstance(event, AnswerCut) for event in found) == cuts
    assert any(isinstance(event, Dismissed) for event in found) != cuts


@pytest.mark.parametrize(("text", "cuts"), [("bye", False), ("so what is it", True)])
def test_a_command_of_one_word_is_not_taken_from_a_noise(text: str, cuts: bool) -> None:
    listener = Listener()
    listener.over_answer(sounds.cough(2, -22.0), after_s=0.0)
    assert listener.hearing.is_undecided
    found = listener.hearing.words(text, is_command=True)
    assert any(isinstance(event, AnswerCut) for event in found) == cuts


def test_words_that_do_not_come_hold_no_answer_for_long() -> None:
    listener = Listener()
    listener.over_answer(spoken("who are you", VOICE, 185), after_s=0.2)
    listener.hearing.await_words()
    assert any(isinstance(event, Dismissed) for event in listener.hear(pcm16(room(1.0))))
    assert listener.told[-1].loudness == "full"
