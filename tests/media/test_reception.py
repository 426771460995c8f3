"""Loss and jitter as RFC 3550 has them, at wraps, jumps, doubles and disorder."""

import random
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from media.reception import StreamStatistics
from tests.media.network import VirtualClock


@dataclass
class Header:
    sequence_number: int
    timestamp: int


def received(
    numbers: list[int], *, sequence: int = 0, timestamp: int = 0, spread_s: float = 0.0
) -> StreamStatistics:
    clock, rng = VirtualClock(), random.Random(1)
    statistics = StreamStatistics(48_000, clock)
    for number in numbers:
        clock.now = 1000.0 + number * 0.02 + rng.uniform(0, spread_s)
        header = Header((sequence + number) & 0xFFFF, (timestamp + number * 960) & 0xFFFFFFFF)
        statistics.add(header)
    return statistics


@settings(max_examples=40)
@given(st.integers(0, 2**16 - 1), st.integers(0, 2**32 - 1))
def test_wraps_at_any_moment_show_in_no_figure(sequence: int, timestamp: int) -> None:
    statistics = received(list(range(300)), sequence=sequence, timestamp=timestamp)
    assert statistics.jitter <= 1
    assert statistics.packets_lost == 0
    assert statistics.packets_received == statistics.packets_expected == 300
    assert statistics.max_seq == sequence + 299


def test_jitter_is_that_of_the_network() -> None:
    statistics = received(list(range(2000)), timestamp=2**32 - 900_000, spread_s=0.02)
    # The mean difference of two uniform delays is a third of their range.
    assert statistics.jitter_s == pytest.approx(0.02 / 3, rel=0.5)


def test_loss_is_counted_over_the_wrap_and_by_interval() -> None:
    statistics = received([n for n in range(1000) if n % 10], sequence=65_000)
    assert statistics.packets_lost == 99
    assert statistics.fraction_lost == 99 * 256 // 999
    assert statistics.fraction_lost == 0


def test_reordered_packets_are_no_loss() -> None:
    numbers = list(range(400))
    for i in range(0, 400, 7):
        numbers[i : i + 3] = numbers[i : i + 3][::-1]
    statistics = received(numbers, sequence=65_400)
    assert abs(statistics.packets_lost) <= 2
    assert statistics.packets_received >= 398


@pytest.mark.parametrize("jump", [5000, -5000, 32_768, 20_000])
def test_a_sequence_that_begins_anew_is_no_loss(jump: int) -> None:
    numbers = list(range(100)) + [100 + jump + n for n in range(100)]
    statistics = StreamStatistics(48_000, VirtualClock())
    for number in numbers:
        statistics.add(Header(number & 0xFFFF, number * 960 & 0xFFFFFFFF))
    assert statistics.packets_lost == 0
    assert statistics.packets_received == 200


def test_a_jump_of_the_timestamp_is_no_jitter() -> None:
    clock = VirtualClock()
    statistics = StreamStatistics(48_000, clock)
    for number in range(200):
        clock.now += 0.02
        jump = 480_000 if number >= 100 else 0
        statistics.add(Header(number, number * 960 + jump))
    assert statistics.jitter <= 1
