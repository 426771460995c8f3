"""Where the units of sessions are put, and when they are put there again."""

from __future__ import annotations

import pytest

from engine.ipc import protocol as p
from engine.minicpmo.models.unit import RELEASED_UNIT
from engine.minicpmo.modes.unit_alignment import MOST_DRIFT_S, UnitAlignment
from engine.minicpmo.session.session import Session

PIECE = 320


def session(slot: int, *, seed: int | None = None) -> Session:
    config = p.SessionConfig(sampling=p.Sampling(seed=seed))
    return Session(f"s{slot}", slot, config, slot, lambda message: None, unit=RELEASED_UNIT)


def silence_s(one: Session) -> float:
    return one.audio_input.silence / p.INPUT_HZ


def test_the_first_sound_of_a_session_places_it_and_no_later_one() -> None:
    placing = UnitAlignment(2, 1.0)
    first, second = session(0), session(1)
    placing.hears(first, PIECE, 10.0)
    placing.hears(second, PIECE, 10.2)
    assert silence_s(first) == 0 and silence_s(second) == pytest.approx(0.7)
    placing.hears(second, PIECE, 10.3)
    assert silence_s(second) == pytest.approx(0.7)


def test_sound_that_waits_already_counts() -> None:
    placing = UnitAlignment(2, 1.0)
    first, second = session(0), session(1)
    placing.hears(first, PIECE, 10.0)
    second.audio_input.push(0, bytes(2 * 8000), for_units=True, over=False)
    placing.hears(second, PIECE, 10.0)
    # Half a second is there: its unit would end half a second before the other's, in its place.
    assert silence_s(second) == pytest.approx(0, abs=1e-3)


def test_a_session_with_a_seed_stays_where_its_sound_puts_it() -> None:
    placing = UnitAlignment(2, 1.0)
    placing.hears(session(0), PIECE, 10.0)
    seeded = session(1, seed=3)
    placing.hears(seeded, PIECE, 10.2)
    assert seeded.audio_input.is_placed and seeded.audio_input.silence == 0


def test_a_clock_that_runs_away_is_put_back() -> None:
    placing = UnitAlignment(2, 1.0)
    first, slow = session(0), session(1)
    placing.hears(first, PIECE, 10.0)
    placing.hears(slow, PIECE, 10.0)
    begun = slow.audio_input.silence
    due, step = 11.48, 1.002
    for _ in range(30):
        placing.took(slow, due)
        due += step
    assert slow.audio_input.silence == begun
    units = 0
    while slow.audio_input.silence == begun:
        placing.took(slow, due)
        due += step
        units += 1
        assert units < 100
    # It was late by the drift and what the average lags behind, and is no more.
    assert MOST_DRIFT_S < (slow.audio_input.silence - begun) / p.INPUT_HZ < MOST_DRIFT_S + 0.05


def test_packets_that_are_late_now_and_then_move_nothing() -> None:
    placing = UnitAlignment(2, 1.0)
    placing.hears(session(0), PIECE, 10.0)
    other = session(1)
    placing.hears(other, PIECE, 10.0)
    begun = other.audio_input.silence
    for unit in range(200):
        placing.took(other, 11.48 + unit + (0.15 if unit % 7 == 0 else 0.0))
    assert other.audio_input.silence == begun


def test_sound_faster_than_real_time_moves_nothing() -> None:
    placing = UnitAlignment(2, 1.0)
    placing.hears(session(0), PIECE, 10.0)
    other = session(1)
    placing.hears(other, PIECE, 10.0)
    begun = other.audio_input.silence
    for unit in range(200):
        placing.took(other, 10.5 + 0.13 * unit)
    assert other.audio_input.silence == begun
