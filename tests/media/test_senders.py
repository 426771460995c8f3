"""Senders that count in ways of their own: every word of theirs is heard, in real time.

Pauses that timestamps leave out, clocks at other rates, packet lengths, bursts, wraps.
"""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from media.pieces import Action
from media.senderclock import SenderClock
from tests.media.network import Sent, Simulation, stream

TOCS = {2.5: 0x80, 5: 0x88, 10: 0x90, 20: 0x98, 40: 0x50, 60: 0x58}
LENGTHS = {ms: bytes([toc]) + bytes(30) for ms, toc in TOCS.items()} | {
    120: b"\x5b\x02" + bytes(60),
    100: b"\x9b\x05" + bytes(60),
}


def paused(pause_s: float, *, after: int = 100) -> list[Sent]:
    """A sender that counts only what it sends."""
    return [replace(p, at=p.at + (pause_s if i >= after else 0)) for i, p in enumerate(stream(300))]


@pytest.mark.parametrize("pause_s", [0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 1.0, 1.3, 5.0])
def test_after_a_pause_that_timestamps_leave_out_all_is_heard(pause_s: float) -> None:
    run = Simulation().run(paused(pause_s))
    counters = run.buffer.counters
    assert run.count(Action.DECODE) == 300 * 320
    assert counters.packets_late + counters.packets_stray + counters.packets_ahead == 0
    # Real time: the timeline is about as long as the clock ran.
    assert run.samples == pytest.approx((6 + pause_s) * 16_000, abs=0.24 * 16_000)


def test_pause_after_pause_leaves_no_delay_and_loses_nothing() -> None:
    rng, at, packets = random.Random(4), 0.0, []
    for i, p in enumerate(stream(3000)):
        at += 0.02 + (rng.uniform(0.25, 0.95) if i % 100 == 99 else 0)
        packets.append(replace(p, at=at))
    run = Simulation().run(packets)
    assert run.count(Action.DECODE) == 3000 * 320
    decoded = [d for d in run.deliveries if d.piece.action is Action.DECODE]
    assert all(d.at == pytest.approx(p.at) for d, p in zip(decoded, packets, strict=True))


def test_a_network_that_stalls_again_and_again_loses_no_sound_and_does_not_run_ahead() -> None:
    packets = [
        replace(p, at=max(p.at, 2 * (p.at // 2) + 0.7) if p.at > 2 else p.at) for p in stream(1500)
    ]
    run = Simulation().run(packets)
    counters = run.buffer.counters
    assert counters.packets_ahead == counters.packets_late == 0
    assert run.count(Action.DECODE) == 1500 * 320
    assert run.samples <= (30 + 1.1) * 16_000


@pytest.mark.parametrize("step", [0, 1, 160, 240, 320, 480, 640, 882, 1200, 1440, 1800, 1920])
@pytest.mark.parametrize("loss", [0.0, 0.03])
def test_clocks_at_other_rates_are_understood(step: int, loss: float) -> None:
    rng = random.Random(5)
    packets = [
        replace(p, timestamp=(5000 + i * step) & 0xFFFFFFFF)
        for i, p in enumerate(stream(1500))
        if i < 50 or rng.random() >= loss
    ]
    run = Simulation().run(packets)
    counters = run.buffer.counters
    assert run.count(Action.DECODE) >= (len(packets) - 2) * 320
    assert run.samples == pytest.approx(30 * 16_000, abs=0.4 * 16_000)
    assert counters.packets_ahead == 0


def test_a_clock_of_44_1_khz_wraps_and_drifts_without_a_gap() -> None:
    packets = [
        replace(p, timestamp=(2**32 - 90_000 + i * 882) & 0xFFFFFFFF)
        for i, p in enumerate(stream(8_000))
    ]
    run = Simulation().run(packets)
    assert run.count(Action.DECODE) == run.samples == 8_000 * 320
    assert run.buffer.gap_deadline_s < 0.05


@pytest.mark.parametrize("pace", [0.99, 1.01, 1.088])
def test_a_sound_card_that_is_off_by_percents_is_heard(pace: float) -> None:
    run = Simulation().run([replace(p, at=p.at * pace) for p in stream(1500)])
    assert run.count(Action.DECODE) == 1500 * 320


@settings(max_examples=40)
@given(
    st.lists(st.sampled_from(sorted(LENGTHS)), min_size=1, max_size=60),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**16 - 1),
)
def test_any_sequence_of_packet_lengths_is_heard_whole(
    lengths: list[float], timestamp: int, sequence: int
) -> None:
    packets, at = [], 0.0
    for i, ms in enumerate(lengths):
        packets.append(
            Sent(
                at + ms / 1000,
                (sequence + i) & 0xFFFF,
                (timestamp + round(at * 48_000)) & 0xFFFFFFFF,
                LENGTHS[ms],
            )
        )
        at += ms / 1000
    run = Simulation().run(packets)
    assert run.count(Action.DECODE) == sum(lengths) * 16
    assert run.buffer.counters.concealed_samples == 0


@settings(max_examples=40)
@given(st.integers(0, 2**16 - 1), st.integers(0, 2**32 - 1), st.randoms(use_true_random=False))
def test_wraps_doubles_and_disorder_at_any_moment_cost_nothing(
    sequence: int, timestamp: int, rng: random.Random
) -> None:
    packets = stream(200, sequence=sequence, timestamp=timestamp)
    sent = [replace(p, at=p.at + rng.choice((0, 0, 0.015))) for p in packets]
    sent += [replace(p, at=p.at + 0.005) for p in rng.sample(sent, 20)]
    run = Simulation().run(sent)
    counters = run.buffer.counters
    assert run.samples == run.count(Action.DECODE) == 200 * 320
    assert counters.packets_duplicate == 20
    assert counters.packets_lost == 0


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(
            st.sampled_from((1, 2)),
            st.integers(0, 2**16 - 1),
            st.integers(0, 2**32 - 1),
            st.sampled_from((None, 120, 960, 5760)),
            st.integers(0, 200),
            st.floats(0, 3),
        ),
        max_size=40,
    )
)
def test_the_sender_clock_takes_anything(
    packets: list[tuple[int, int, int, int, int, float]],
) -> None:
    clock, now = SenderClock(), 0.0
    for ssrc, sequence, timestamp, ticks, size, later in packets:
        now += later
        assert 0 <= clock.translate(ssrc, sequence, timestamp, ticks, size, now) < 2**32


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(1, 5), min_size=1, max_size=40))
def test_right_timestamps_pass_unchanged(timestamp: int, pauses: list[int]) -> None:
    clock, now = SenderClock(), 0.0
    for i, frames in enumerate(pauses):
        assert clock.translate(1, i, timestamp, 960, 40, now) == timestamp
        timestamp = (timestamp + frames * 960) & 0xFFFFFFFF
        now += frames * 0.02
