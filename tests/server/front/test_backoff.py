"""Back-off: at once for a process that lived, longer for one that keeps dying, at every age."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.front.backoff import GOOD_LIFE_S, PAUSES_S, Backoff


@given(st.floats(0.0, 1e7))
def test_first_death_is_followed_at_once_at_whatever_age(lived_s: float) -> None:
    backoff = Backoff()
    backoff.ended(lived_s, was_ready=True)
    assert backoff.pause_s == PAUSES_S[0]


def test_crash_loop_backs_off_up_to_the_longest_pause() -> None:
    backoff = Backoff()
    pauses = []
    for _ in range(8):
        backoff.ended(2.0, was_ready=True)
        pauses.append(backoff.pause_s)
    assert pauses == [*PAUSES_S, PAUSES_S[-1], PAUSES_S[-1]]


@pytest.mark.parametrize("short_lives", range(9))
def test_good_life_ends_a_crash_loop(short_lives: int) -> None:
    backoff = Backoff()
    for _ in range(short_lives):
        backoff.ended(2.0, was_ready=True)
    backoff.ended(GOOD_LIFE_S + 30, was_ready=True)
    assert backoff.pause_s == PAUSES_S[0]
    backoff.ended(2.0, was_ready=True)
    assert backoff.pause_s == PAUSES_S[0], "the first short life after a good one"
    backoff.ended(2.0, was_ready=True)
    assert backoff.pause_s == PAUSES_S[1]


def test_long_life_that_never_served_is_no_good_life() -> None:
    backoff = Backoff()
    for _ in range(3):
        backoff.ended(GOOD_LIFE_S * 10, was_ready=False)
    assert backoff.pause_s == PAUSES_S[2]


@given(st.lists(st.tuples(st.floats(0, 1000), st.booleans()), max_size=50))
def test_pause_is_always_one_of_the_list_and_grows_by_one_step(
    lives: list[tuple[float, bool]],
) -> None:
    backoff = Backoff()
    before = 0
    for lived_s, was_ready in lives:
        backoff.ended(lived_s, was_ready)
        step = PAUSES_S.index(backoff.pause_s)
        assert step <= before + 1
        before = step


def test_pauses_begin_short_and_stay_bounded() -> None:
    assert list(PAUSES_S) == sorted(PAUSES_S)
    assert PAUSES_S[0] <= 0.5 and PAUSES_S[-1] <= 30
