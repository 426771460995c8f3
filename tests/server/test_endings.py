"""Endings: what became of a call is known for some minutes, of so many calls, and in words."""

from __future__ import annotations

import pytest

from server.endings import FAILURES, KEPT_S, MAX_KEPT, REASONS, Endings
from tests.waiting import Clock


def test_ended_call_is_told_with_its_reason_for_some_minutes() -> None:
    clock = Clock()
    endings = Endings(clock)
    endings.add("rtc_1", "worker_gone")
    clock.now += KEPT_S
    error = endings.why_closed("rtc_1")
    assert (error.status, error.code, error.type) == (410, "worker_gone", "server_error")
    assert error.message == REASONS["worker_gone"]
    clock.now += 0.1
    assert (endings.why_closed("rtc_1").status, endings.why_closed("rtc_1").code) == (
        *(404, "call_not_found"),
    )


def test_call_that_never_was_is_404() -> None:
    assert Endings().why_closed("rtc_2").status == 404


@pytest.mark.parametrize("reason", ["hangup", "goodbye", "some_new_reason"])
def test_call_that_ended_as_it_should_is_no_fault_of_the_server(reason: str) -> None:
    endings = Endings()
    endings.add("rtc_1", reason)
    error = endings.why_closed("rtc_1")
    assert (error.status, error.code, error.type) == (410, reason, "invalid_request_error")
    assert error.message


def test_the_oldest_go_when_there_are_too_many_or_they_are_too_old() -> None:
    clock = Clock()
    endings = Endings(clock)
    for n in range(MAX_KEPT + 3):
        endings.add(f"rtc_{n}", "hangup")
    assert len(endings._ended) == MAX_KEPT
    found = [endings.why_closed(f"rtc_{n}").status for n in (0, 2, 3, MAX_KEPT + 2)]
    assert found == [404, 404, 410, 410]
    clock.now += KEPT_S + 1
    endings.add("rtc_new", "hangup")
    assert list(endings._ended) == ["rtc_new"]


def test_every_failure_has_words() -> None:
    assert set(REASONS) > FAILURES
