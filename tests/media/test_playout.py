"""Playout: epochs, exact 20 ms, cutting, bounds, underruns and what the listener learns."""

import numpy as np
import pytest

from media.formats import DOWNLINK_PACKET_BYTES
from media.playout import FADE_SAMPLES, MAX_LOWERED_PACKETS, HeardPosition, Playout


class Recorder:
    def __init__(self) -> None:
        self.events: list[tuple[str, int, int]] = []

    def started(self, epoch: int) -> None:
        self.events.append(("started", epoch, 0))

    def progressed(self, epoch: int, samples: int) -> None:
        self.events.append(("progressed", epoch, samples))

    def drained(self, epoch: int) -> None:
        self.events.append(("drained", epoch, 0))


def make(max_ms: int = 30_000) -> tuple[Playout, Recorder]:
    recorder = Recorder()
    return Playout(max_ms=max_ms, listener=recorder), recorder


def tone(samples: int, value: int = 8000) -> bytes:
    return np.full(samples, value, np.int16).tobytes()


def values(pcm: bytes | None) -> list[int]:
    assert pcm is not None and len(pcm) == DOWNLINK_PACKET_BYTES
    return [int(v) for v in np.frombuffer(pcm, np.int16)]


def test_idle_playout_gives_nothing() -> None:
    playout, recorder = make()
    assert playout.take() is None
    assert playout.is_idle
    assert recorder.events == []


def test_take_gives_480_samples_and_pads_the_end() -> None:
    playout, recorder = make()
    playout.push(1, tone(500))
    playout.push(1, tone(200, 5))
    playout.finish(1)
    assert values(playout.take()) == [8000] * 480
    assert values(playout.take()) == [8000] * 20 + [5] * 200 + [0] * 260
    assert playout.take() is None
    assert recorder.events == [
        ("started", 1, 0),
        ("progressed", 1, 480),
        ("progressed", 1, 700),
        ("drained", 1, 0),
    ]
    assert playout.heard(1) == 700
    assert playout.underruns == 0


def test_epoch_finished_after_its_last_sample_was_taken_is_drained() -> None:
    playout, recorder = make()
    playout.push(1, tone(480))
    playout.take()
    playout.finish(1)
    assert playout.take() is None
    assert recorder.events[-1] == ("drained", 1, 0)


def test_epoch_without_samples_is_drained_but_never_started() -> None:
    playout, recorder = make()
    playout.finish(3)
    assert playout.take() is None
    assert recorder.events == [("drained", 3, 0)]


def test_newer_epoch_waits_for_the_older_and_finishes_it() -> None:
    playout, recorder = make()
    playout.push(1, tone(600))
    playout.push(2, tone(480, 7))
    assert values(playout.take()) == [8000] * 480
    assert values(playout.take()) == [8000] * 120 + [0] * 360
    assert values(playout.take()) == [7] * 480
    assert [e[:2] for e in recorder.events if e[0] != "progressed"] == [
        ("started", 1),
        ("drained", 1),
        ("started", 2),
    ]


def test_audio_of_an_older_epoch_is_dropped_and_counted() -> None:
    playout, _ = make()
    playout.push(2, tone(10))
    playout.push(1, tone(30))
    playout.finish(2)
    playout.push(2, tone(40))
    assert playout.stale_samples == 70
    assert playout.pushed_samples == 10


def test_clear_fades_out_within_5_ms_and_tells_what_was_heard() -> None:
    playout, recorder = make()
    playout.push(4, tone(4800))
    playout.take()
    assert playout.clear() == HeardPosition(4, 480 + FADE_SAMPLES)
    tail = values(playout.take())
    assert 7900 < tail[0] <= 8000
    assert tail[: FADE_SAMPLES + 1] == sorted(tail[: FADE_SAMPLES + 1], reverse=True)
    assert tail[FADE_SAMPLES:] == [0] * (480 - FADE_SAMPLES)
    assert playout.take() is None
    assert playout.heard(4) == 480 + FADE_SAMPLES
    assert playout.cleared_samples == 4800 - 480 - FADE_SAMPLES
    assert playout.waiting_ms == 0
    assert ("drained", 4, 0) not in recorder.events


def test_cleared_epochs_accept_nothing_more() -> None:
    playout, _ = make()
    playout.push(1, tone(480))
    playout.push(2, tone(480))
    assert playout.clear() == HeardPosition(1, 0)
    playout.push(1, tone(480))
    playout.push(2, tone(480))
    playout.finish(2)
    assert playout.take() is None
    assert playout.stale_samples == 960
    playout.push(3, tone(480))
    assert values(playout.take()) == [8000] * 480


def test_speech_pushed_right_after_a_cut_follows_the_fade() -> None:
    playout, _ = make()
    playout.push(1, tone(4800))
    playout.take()
    playout.clear()
    playout.push(2, tone(480, 9))
    assert values(playout.take())[-1] == 0
    assert values(playout.take()) == [9] * 480


def test_clear_of_an_idle_playout_is_nothing() -> None:
    playout, _ = make()
    assert playout.clear() is None


def test_what_exceeds_the_bound_is_dropped_and_counted() -> None:
    playout, _ = make(max_ms=40)
    playout.push(1, tone(900))
    playout.push(1, tone(200, 3))
    assert playout.overflow_samples == 140
    assert playout.waiting_ms == 40
    playout.take()
    assert values(playout.take()) == [8000] * 420 + [3] * 60


def test_underrun_fades_out_pads_and_fades_in_again() -> None:
    playout, recorder = make()
    playout.push(1, tone(480 + 240))
    playout.take()
    dry = values(playout.take())
    assert dry[:120] == [8000] * 120
    assert 0 < dry[239] < 100
    assert dry[240:] == [0] * 240
    assert values(playout.take()) == [0] * 480
    assert playout.underruns == 1
    assert playout.underrun_samples == 240 + 480
    playout.push(1, tone(480))
    again = values(playout.take())
    assert 0 < again[0] < 100
    assert again[120:] == [8000] * 360
    assert playout.heard(1) == 720 + 480
    assert recorder.events.count(("started", 1, 0)) == 1


def test_epoch_that_has_not_begun_is_no_underrun() -> None:
    playout, _ = make()
    playout.push(1, b"")
    assert playout.take() is None
    assert playout.underruns == 0


def test_a_listener_may_cut_the_epoch_it_hears_of() -> None:
    playout, recorder = make()

    class Cutting(Recorder):
        def progressed(self, epoch: int, samples: int) -> None:
            playout.clear()

    playout._listener = Cutting()
    playout.push(1, tone(480))
    playout.finish(1)
    assert values(playout.take()) == [8000] * 480
    assert playout.take() is None
    assert playout.heard(1) == 480


def test_half_a_sample_is_refused() -> None:
    playout, _ = make()
    with pytest.raises(ValueError, match="int16"):
        playout.push(1, b"abc")


def test_heard_positions_of_the_past_are_bounded() -> None:
    playout, _ = make()
    for epoch in range(100):
        playout.push(epoch, tone(480))
        playout.finish(epoch)
        playout.take()
    assert playout.heard(99) == 480
    assert playout.heard(0) == 0
    assert len(playout._heard) <= 16


def test_a_ducked_answer_is_12_db_lower_and_loses_nothing() -> None:
    playout, _ = make()
    playout.push(1, tone(480 * 4))
    assert values(playout.take()) == [8000] * 480
    playout.lower("ducked")
    lowered = values(playout.take())
    assert lowered[0] == 8000 and lowered[FADE_SAMPLES:] == [2009] * (480 - FADE_SAMPLES)
    assert lowered[:FADE_SAMPLES] == sorted(lowered[:FADE_SAMPLES], reverse=True)
    playout.lower("full")
    back = values(playout.take())
    assert back[0] == 2009 and back[FADE_SAMPLES:] == [8000] * (480 - FADE_SAMPLES)
    assert values(playout.take()) == [8000] * 480
    assert playout.heard(1) == 480 * 4


def test_a_held_answer_is_silent_and_goes_on_where_it_was() -> None:
    playout, recorder = make()
    ramp = np.arange(480 * 3, dtype=np.int16).tobytes()
    playout.push(1, ramp)
    playout.finish(1)
    playout.take()
    playout.lower("held")
    faded = values(playout.take())
    assert faded[FADE_SAMPLES:] == [0] * (480 - FADE_SAMPLES) and any(faded)
    assert values(playout.take()) == [0] * 480
    assert playout.heard(1) == 480 and recorder.events[-1] == ("progressed", 1, 480)
    playout.lower("full")
    back = values(playout.take())
    assert back[0] == 0 and back[FADE_SAMPLES:] == list(range(480 + FADE_SAMPLES, 960))
    assert values(playout.take()) == list(range(960, 1440))
    assert recorder.events[-1] == ("drained", 1, 0)


def test_an_answer_that_is_cut_while_it_is_held_makes_no_sound_and_the_next_is_loud() -> None:
    playout, _ = make()
    playout.push(1, tone(480 * 4))
    playout.take()
    playout.lower("held")
    playout.take()
    assert playout.clear() == HeardPosition(1, 480)
    assert playout.take() is None
    playout.push(2, tone(480))
    assert values(playout.take()) == [8000] * 480


def test_an_answer_that_waits_to_begin_is_held_too() -> None:
    playout, recorder = make()
    playout.lower("held")
    playout.push(1, tone(960))
    assert playout.take() is None and recorder.events == []
    playout.lower("full")
    assert values(playout.take())[FADE_SAMPLES:] == [8000] * (480 - FADE_SAMPLES)


def test_nobody_keeps_an_answer_held_for_good() -> None:
    playout, _ = make()
    playout.push(1, tone(480 * 4))
    playout.take()
    playout.lower("held")
    for _ in range(MAX_LOWERED_PACKETS):
        playout.take()
    playout.take()
    assert playout.heard(1) == 480 * 2


def test_what_was_played_is_told_once_and_as_loud_as_it_was() -> None:
    playout = Playout(listener=Recorder())
    playout.push(1, b"\x10\x20" * 2 * DOWNLINK_PACKET_BYTES)
    first = playout.take()
    playout.lower("ducked")
    second = playout.take()
    assert playout.take_played() == (first or b"") + (second or b"")
    assert playout.take_played() == b"" and first != second
    for _ in range(100):
        playout.push(2, bytes(DOWNLINK_PACKET_BYTES))
        playout.take()
    assert len(playout.take_played()) == 50 * DOWNLINK_PACKET_BYTES
