"""Asking for packets again: at once, again while it may help, never without an end."""

import random

import pytest

from media.retransmission import MAX_MISSING, MAX_REQUESTS, MissingPackets
from tests.media.network import VirtualClock


class Requests:
    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.missing = MissingPackets(self.clock)

    def came(self, *sequences: int, after_s: float = 0.0, ssrc: int = 1) -> list[int]:
        self.clock.now += after_s
        asked: list[int] = []
        for sequence in sequences:
            asked += self.missing.add(ssrc, sequence & 0xFFFF)
        return asked


def test_a_gap_is_asked_for_at_once_and_only_once() -> None:
    stream = Requests()
    assert stream.came(10, 11, 14) == [12, 13]
    assert stream.came(15, 16) == []


def test_what_does_not_come_is_asked_for_again_a_few_times() -> None:
    stream = Requests()
    assert stream.came(10, 12) == [11]
    asked = [stream.came(13 + n, after_s=0.02) for n in range(200)]
    assert [a for a in asked if a] == [[11]] * (MAX_REQUESTS - 1)
    first = next(n for n, a in enumerate(asked) if a)
    assert 0.12 <= first * 0.02 <= 0.2


def test_what_came_is_not_asked_for_again() -> None:
    stream = Requests()
    assert stream.came(10, 13) == [11, 12]
    stream.came(11, after_s=0.05)
    assert stream.came(14, after_s=0.2) == [12]


@pytest.mark.parametrize(("round_trip_s", "wait_s"), [(0.02, 0.05), (0.3, 0.45), (5.0, 1.0)])
def test_the_wait_follows_how_long_answers_take(round_trip_s: float, wait_s: float) -> None:
    stream = Requests()
    stream.came(10)
    for n in range(12, 100, 2):
        stream.came(n)
        stream.came(n - 1, after_s=round_trip_s)
    stream.came(100)
    assert stream.came(101, after_s=wait_s * 0.9) == []
    assert stream.came(102, after_s=wait_s * 0.15) == [99]


def test_late_answers_to_repeated_requests_teach_nothing() -> None:
    stream = Requests()
    stream.came(10, 12)
    stream.came(13, after_s=0.2)
    stream.came(11, after_s=3.0)
    stream.came(15)
    assert stream.came(16, after_s=0.16) == [14]


def test_numbers_wrap() -> None:
    stream = Requests()
    assert stream.came(65_533, 65_534, 2) == [0, 1, 65_535]
    assert sorted(stream.came(3, after_s=0.2)) == [0, 1, 65_535]
    stream.came(0, 1, 65_535)
    assert stream.came(4, after_s=0.5) == []


@pytest.mark.parametrize("jump", [600, 20_000, 32_767, 50_000])
def test_a_jump_is_another_stream(jump: int) -> None:
    stream = Requests()
    stream.came(10, 12)
    assert stream.came(12 + jump) == []
    assert stream.came(13 + jump, after_s=1.0) == []
    assert stream.came(15 + jump) == [(14 + jump) & 0xFFFF]


def test_another_source_begins_anew() -> None:
    stream = Requests()
    stream.came(10, 12)
    assert stream.came(13, ssrc=2, after_s=1.0) == []
    assert stream.came(15, ssrc=2) == [14]


def test_of_a_long_gap_only_the_newest_are_asked_for() -> None:
    stream = Requests()
    stream.came(10)
    assert stream.came(510) == list(range(510 - MAX_MISSING, 510))


def test_random_packets_are_never_asked_for_without_bound() -> None:
    rng = random.Random(1)
    stream = Requests()
    sequence = asked = 0
    for _ in range(5000):
        sequence += rng.choice((1, 1, 1, 2, 5, 300, -40))
        asked += len(stream.came(sequence, after_s=rng.choice((0.0, 0.01, 0.3))))
        assert len(stream.missing._missing) <= MAX_MISSING
    assert asked
