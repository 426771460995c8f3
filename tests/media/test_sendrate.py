"""Bit rate and redundancy of an answer: up for a radio, down for a queue, never to and fro."""

import random

import pytest

from media.sendrate import MAX_FEC_PERCENT, MIN_BITRATE, SendRate

FULL = 32_000


class Way:
    """A client that reports each second."""

    def __init__(self, bitrate: int = FULL) -> None:
        self.rate = SendRate(bitrate)
        self.now = 500.0
        self.bitrates: list[int] = []

    def reports(self, count: int, loss: float = 0.0, round_trip_s: float | None = 0.05) -> None:
        for _ in range(count):
            self.now += 1.0
            self.bitrates.append(self.rate.report(self.now, loss, round_trip_s).bitrate)


def test_a_clean_way_changes_nothing() -> None:
    way = Way()
    way.reports(100)
    assert set(way.bitrates) == {FULL}
    assert way.rate.encoding.fec_percent == 0


@pytest.mark.parametrize(("loss", "fec"), [(0.01, 2), (0.05, 10), (0.1, 20), (0.2, 25), (0.25, 25)])
def test_loss_of_a_radio_brings_redundancy_and_the_bits_for_it(loss: float, fec: int) -> None:
    way = Way()
    way.reports(20, loss)
    assert way.rate.encoding.fec_percent == fec
    assert way.rate.encoding.bitrate == pytest.approx(FULL * (1 + fec / 100), rel=0.05)
    way.reports(fec + 1)
    assert way.rate.encoding == (FULL, 0, False)


def test_copies_are_sent_while_a_radio_loses_and_never_into_a_queue() -> None:
    way = Way()
    way.reports(3, 0.02)
    assert not way.rate.encoding.has_copies
    way.reports(1, 0.04)
    assert way.rate.encoding.has_copies
    way.reports(1, 0.04, 0.3)
    assert not way.rate.encoding.has_copies
    narrow = SendRate(FULL, most=1.9 * FULL)
    assert not narrow.report(500.0, 0.1, 0.05).has_copies


def test_redundancy_outlasts_a_spell_of_loss() -> None:
    way = Way()
    way.reports(1, 0.1)
    way.reports(5)
    assert way.rate.encoding.fec_percent == 15


@pytest.mark.parametrize(("loss", "round_trip_s"), [(0.0, 0.3), (0.05, 0.12), (0.4, 0.05)])
def test_a_full_queue_costs_bits_down_to_a_bound(loss: float, round_trip_s: float) -> None:
    way = Way()
    way.reports(5)
    way.reports(15, loss, round_trip_s)
    assert way.bitrates[5] <= round(FULL * 0.8 * 1.25)
    assert way.rate.encoding.bitrate == MIN_BITRATE
    assert way.rate.encoding.fec_percent <= MAX_FEC_PERCENT


def test_bits_come_back_after_a_while_and_by_and_by() -> None:
    way = Way()
    way.reports(5)
    way.reports(3, 0.0, 0.4)
    low = way.rate.encoding.bitrate
    way.reports(4)
    assert set(way.bitrates[-4:]) == {low}
    way.reports(20)
    assert way.rate.encoding.bitrate == FULL
    rises = [b / a for a, b in zip(way.bitrates[8:], way.bitrates[9:], strict=False)]
    assert max(rises) <= 1.11


def test_a_way_that_became_longer_for_good_is_no_queue_for_ever() -> None:
    way = Way()
    way.reports(30)
    way.reports(90, 0.0, 0.4)
    assert way.rate.encoding.bitrate == FULL


def test_a_way_without_round_trips_is_judged_by_its_loss() -> None:
    way = Way()
    way.reports(20, 0.1, None)
    assert way.rate.encoding.bitrate > FULL


def test_an_operators_small_bitrate_is_not_raised_to_the_bound() -> None:
    way = Way(8_000)
    way.reports(20, 0.5)
    assert way.rate.encoding.bitrate == 8_000


@pytest.mark.parametrize("seed", range(4))
def test_reports_that_vary_do_not_have_the_bitrate_go_to_and_fro(seed: int) -> None:
    rng = random.Random(seed)
    way = Way()
    for _ in range(200):
        way.reports(1, rng.uniform(0.03, 0.08), rng.uniform(0.05, 0.09))
    assert min(way.bitrates) >= FULL
    assert sum(a != b for a, b in zip(way.bitrates, way.bitrates[1:], strict=False)) < 25


def test_whatever_is_reported_stays_within_the_bounds() -> None:
    rng = random.Random(5)
    way = Way()
    for _ in range(2000):
        way.reports(1, rng.random(), rng.choice((None, 0.0, rng.random() * 9)))
        assert MIN_BITRATE <= way.rate.encoding.bitrate <= FULL * 1.25
        assert 0 <= way.rate.encoding.fec_percent <= MAX_FEC_PERCENT
