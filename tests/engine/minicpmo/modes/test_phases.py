"""Groups of sessions whose units end together: who joins which, with how much silence."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from engine.minicpmo.modes.unit_alignment import NEAR_S, UnitGroups


def test_the_first_session_stays_where_it_is_and_the_second_is_put_between_its_units() -> None:
    phases = UnitGroups(2, 1.0)
    assert phases.join(0, 100.3) == 0.0
    assert phases.join(1, 100.9) == pytest.approx(0.1)


def test_sessions_end_their_units_in_as_many_places_as_there_are_groups_evenly_filled() -> None:
    rng = random.Random(3)
    phases = UnitGroups(4, 1.0)
    first = 50.2
    phases.join(0, first)
    places = [0.0]
    for slot in range(1, 32):
        end = 50 + 10 * rng.random()
        lead = phases.join(slot, end)
        assert 0 <= lead < 1
        places.append((end - lead - first) % 1.0)
    counts = Counter(round(4 * place) % 4 for place in places)
    assert sorted(counts.values()) == [8, 8, 8, 8]
    assert all(abs(4 * place - round(4 * place)) < 4 * NEAR_S for place in places)


def test_of_equal_groups_the_one_that_needs_less_silence_is_taken() -> None:
    phases = UnitGroups(2, 1.0)
    phases.join(0, 0.0)
    phases.join(1, 0.5)
    assert phases.join(2, 10.6) == pytest.approx(0.1)


def test_a_place_that_became_free_is_filled_again() -> None:
    phases = UnitGroups(2, 1.0)
    for slot in range(4):
        phases.join(slot, 0.0)
    phases.leave(0)
    phases.leave(2)
    # Both of the first group have left: the newcomer waits for it although it is almost a second.
    assert phases.join(5, 20.9) == pytest.approx(0.9)


def test_whoever_is_nearly_in_place_gets_no_second_of_silence() -> None:
    phases = UnitGroups(1, 1.0)
    phases.join(0, 10.0)
    assert phases.join(1, 30.0 - NEAR_S / 2) == 0.0
    assert phases.join(2, 30.0 + NEAR_S / 2) == pytest.approx(NEAR_S / 2)


def test_how_far_a_unit_ends_from_its_place_is_known() -> None:
    phases = UnitGroups(2, 1.0)
    phases.join(0, 10.0)
    phases.join(1, 10.0)
    assert phases.late(0, 25.07) == pytest.approx(0.07)
    assert phases.late(1, 25.45) == pytest.approx(-0.05)
    assert phases.late(7, 25.3) == 0.0


def test_without_groups_nothing_is_moved() -> None:
    phases = UnitGroups(0, 1.0)
    assert [phases.join(slot, 3.3 * slot) for slot in range(5)] == [0.0] * 5
    assert phases.late(0, 9.9) == 0.0
