"""An ingest process keeps sound and pictures until a unit needs them, and nothing too long."""

from __future__ import annotations

import numpy as np

from engine.hearing.hearing import AnswerCut, Counted
from engine.hearing.vad import Offset, Onset, Voice
from engine.ingest.messages import ListeningNeeds, SoundHeard
from engine.ingest.session_ear import IDLE_S, NEAR_S, PICTURE_LEAD_S, SessionEar
from engine.ipc.protocol import INPUT_HZ, AudioIn, FromEngine, ImageIn, Mode, SessionConfig
from tests.media.peers import speech
from tests.waiting import Clock

PIECE = 320
NEAR = int(NEAR_S * INPUT_HZ)


class Caller:
    """Sends 20 ms after 20 ms, and takes what is due."""

    def __init__(self, mode: Mode = "full_duplex", unit_end: int | None = INPUT_HZ) -> None:
        self.clock = Clock()
        self.told: list[FromEngine] = []
        self.ear = SessionEar("one", SessionConfig(mode=mode), self.told.append, self.clock)
        self.pts = 0
        self.passed: list[SoundHeard] = []
        self.at: list[int] = []
        """The samples that had come when something was passed on."""
        if unit_end is not None:
            self.needs(unit_end=unit_end)

    def needs(self, *, over: bool = False, unit_end: int = INPUT_HZ) -> None:
        self.ear.needs(ListeningNeeds("one", over, unit_end, INPUT_HZ))

    def hear(self, pcm: bytes) -> None:
        for start in range(0, len(pcm), 2 * PIECE):
            self.clock.now += PIECE / INPUT_HZ
            piece = pcm[start : start + 2 * PIECE]
            self.ear.hear(AudioIn("one", self.pts, piece))
            self.pts += len(piece) // 2
            heard = self.ear.take() if self.ear.is_due else None
            if heard is not None:
                self.passed.append(heard)
                self.at.append(self.pts)

    def quiet(self, seconds: float) -> None:
        self.hear(bytes(2 * int(seconds * INPUT_HZ)))

    def events(self) -> list[object]:
        return [event for heard in self.passed for event in heard.events]


def picture(number: int) -> ImageIn:
    return ImageIn("one", number, 1, 1, bytes(3))


def test_the_end_of_a_unit_is_passed_on_at_once_and_all_before_it_seldom() -> None:
    caller = Caller()
    caller.quiet(3)
    for end in range(INPUT_HZ, 3 * INPUT_HZ + 1, INPUT_HZ):
        assert {end, end - PIECE, end - 2 * PIECE} <= set(caller.at)
    assert len(caller.passed) <= 3 * 5
    assert b"".join(heard.pcm for heard in caller.passed) == bytes(2 * 3 * INPUT_HZ)
    assert caller.passed[-1].position == 3 * INPUT_HZ
    assert caller.passed[-1].arrived == caller.clock.now


def test_units_end_where_the_engine_says_also_far_ahead_or_behind() -> None:
    for unit_end in (4_800, 4_800 + 7 * INPUT_HZ):
        caller = Caller(unit_end=unit_end)
        caller.quiet(2)
        assert {4_800, 4_800 + INPUT_HZ} <= set(caller.at)
        assert 4_800 - NEAR - PIECE not in caller.at


def test_before_units_have_their_place_sound_is_not_kept() -> None:
    caller = Caller(unit_end=None)
    caller.quiet(0.2)
    assert len(caller.passed) == 10


def test_sound_that_ends_is_passed_on_soon() -> None:
    caller = Caller()
    caller.quiet(0.1)
    assert not caller.passed and not caller.ear.is_idle
    caller.clock.now += IDLE_S
    assert caller.ear.is_idle
    heard = caller.ear.take()
    assert heard is not None and len(heard.pcm) == 2 * 1600 and not caller.ear.is_idle
    assert caller.ear.take() is None


def test_speech_is_told_at_once_with_all_that_was_said() -> None:
    caller = Caller("half_duplex")
    said = speech(2.0, INPUT_HZ)
    caller.hear(said)
    assert caller.passed[-1].is_speaking
    caller.quiet(2)
    begun, ended = (
        next(
            i
            for i, heard in enumerate(caller.passed)
            if any(isinstance(e, kind) for e in heard.events)
        )
        for kind in (Counted, Offset)
    )
    assert caller.at[begun] < INPUT_HZ and begun < ended
    events = caller.events()
    assert isinstance(events[0], Onset) and isinstance(events[1], Counted)
    whole = b"".join(e.pcm for e in events if isinstance(e, Onset | Voice))
    assert np.frombuffer(whole, np.int16).tobytes() in said + bytes(4 * INPUT_HZ)
    assert not caller.ear.take() or not caller.passed[-1].is_speaking


def test_speech_over_an_answer_cuts_it_and_none_without_one() -> None:
    for over in (False, True):
        caller = Caller()
        caller.hear(speech(2.0, INPUT_HZ))
        caller.quiet(1.5)
        caller.needs(over=over)
        caller.hear(speech(2.0, INPUT_HZ))
        assert any(isinstance(event, AnswerCut) for event in caller.events()) == over
        assert bool(caller.told) == over


def test_a_commit_ends_what_is_being_said() -> None:
    caller = Caller("turn_based")
    caller.hear(speech(1.0, INPUT_HZ))
    caller.ear.take()
    ended = caller.ear.commit()
    assert ended.is_commit and isinstance(ended.events[-1], Offset) and not ended.is_speaking
    assert caller.ear.commit().events == ()


def test_each_unit_gets_the_newest_picture_shortly_before_its_end() -> None:
    caller = Caller()
    shown: list[tuple[int, int]] = []
    for index in range(150):
        if index % 5 == 0:
            found = caller.ear.look(picture(index))
            shown += [(caller.pts, found.pts)] if found else []
        caller.quiet(0.02)
        found = caller.ear.take_picture()
        shown += [(caller.pts, found.pts)] if found else []
    assert len(shown) == 3
    for unit, (at, number) in enumerate(shown):
        before_s = unit + 1 - at / INPUT_HZ
        assert PICTURE_LEAD_S[0] - 0.02 <= before_s <= PICTURE_LEAD_S[1]
        assert 0 <= at - number * PIECE <= 6 * PIECE


def test_pictures_are_not_kept_where_no_unit_waits_for_them() -> None:
    assert Caller("half_duplex").ear.look(picture(1)) == picture(1)
    assert Caller(unit_end=None).ear.look(picture(1)) == picture(1)
    kept = Caller()
    assert kept.ear.look(picture(1)) is None and kept.ear.take_picture(now=True) == picture(1)
    off = ImageIn("one", 2, 1, 1, b"")
    kept.ear.look(picture(3))
    assert kept.ear.look(off) == off and kept.ear.take_picture(now=True) is None
