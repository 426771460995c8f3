"""Speech that is sent before its time: what is sent, what must have been heard, and cuts."""

from __future__ import annotations

from media.formats import DOWNLINK_HZ
from media.sentahead import MAX_CHUNK_BYTES, SentAhead
from tests.waiting import Clock


class Listener:
    def __init__(self) -> None:
        self.told: list[tuple[str, int, int]] = []
        self.sound = b""

    def started(self, epoch: int) -> None:
        self.told.append(("started", epoch, 0))

    def sent(self, epoch: int, start: int, pcm: bytes) -> None:
        self.told.append(("sent", epoch, start))
        self.sound += pcm

    def progressed(self, epoch: int, samples: int) -> None:
        self.told.append(("progressed", epoch, samples))

    def drained(self, epoch: int) -> None:
        self.told.append(("drained", epoch, 0))

    def take(self) -> list[tuple[str, int, int]]:
        told, self.told = self.told, []
        return told


def rig() -> tuple[SentAhead, Listener, Clock]:
    listener, clock = Listener(), Clock()
    return SentAhead(listener=listener, clock=clock), listener, clock


def pcm(ms: int) -> bytes:
    return bytes(range(2)) * (DOWNLINK_HZ * ms // 1000)


def test_all_is_sent_at_once_in_pieces_of_bounded_size() -> None:
    speech, listener, _ = rig()
    speech.push(1, pcm(1200))
    told = listener.take()
    assert [name for name, _, _ in told] == ["started", "sent", "sent", "sent"]
    assert [start for name, _, start in told if name == "sent"] == [0, 12_000, 24_000]
    assert listener.sound == pcm(1200) and MAX_CHUNK_BYTES == 24_000


def test_what_was_heard_follows_the_clock_and_never_what_was_not_sent() -> None:
    speech, listener, clock = rig()
    speech.push(1, pcm(1000))
    clock.now += 0.4
    assert speech.heard(1) == 9600
    assert speech.waiting_ms == 600
    clock.now += 5
    assert speech.heard(1) == 24_000
    speech.tick()
    assert ("drained", 1, 0) not in listener.take(), "more may come"
    # It ran dry: what comes now begins now.
    speech.push(1, pcm(1000))
    clock.now += 0.25
    assert speech.heard(1) == 30_000
    speech.finish(1)
    clock.now += 0.75
    speech.tick()
    assert listener.take()[-2:] == [("progressed", 1, 48_000), ("drained", 1, 0)]
    assert speech.heard(1) == 48_000


def test_next_answer_is_heard_after_the_one_before() -> None:
    speech, listener, clock = rig()
    speech.push(1, pcm(1000))
    speech.finish(1)
    speech.push(2, pcm(1000))
    clock.now += 0.5
    assert (speech.heard(1), speech.heard(2)) == (12_000, 0)
    clock.now += 1.0
    assert (speech.heard(1), speech.heard(2)) == (24_000, 12_000)
    speech.tick()
    assert ("drained", 1, 0) in listener.take()


def test_after_a_cut_nothing_of_it_is_sent_and_what_was_heard_stays() -> None:
    speech, listener, clock = rig()
    speech.push(1, pcm(1000))
    clock.now += 0.3
    speech.clear()
    listener.take()
    clock.now += 1
    speech.push(1, pcm(100))
    speech.tick()
    assert listener.take() == [] and speech.stale_samples == 2400
    assert speech.heard(1) == 7200
    speech.push(2, pcm(100))
    assert listener.take()[0] == ("started", 2, 0)


def test_answer_without_sound_is_over_at_once() -> None:
    speech, listener, _ = rig()
    speech.push(1, b"")
    speech.finish(1)
    speech.tick()
    assert listener.take() == [("drained", 1, 0)]


def test_of_a_client_that_cannot_drop_it_little_is_sent_ahead() -> None:
    listener, clock = Listener(), Clock()
    speech = SentAhead(listener=listener, clock=clock, max_ahead_s=1)
    speech.push(1, pcm(2200))
    speech.finish(1)
    assert len(listener.sound) == len(pcm(1000))
    for _ in range(9):
        clock.now += 0.1
        speech.tick()
    assert len(listener.sound) == len(pcm(1500)), "whole pieces, as there is room"
    clock.now += 1
    speech.tick()
    assert ("drained", 1, 0) not in listener.take(), "not while some of it waits"
    clock.now += 0.7
    speech.tick()
    assert listener.sound == pcm(2200) and speech.heard(1) == 52_800
    assert listener.take()[-1] == ("drained", 1, 0)


def test_what_was_cut_is_not_sent_and_the_next_answer_waits_for_its_time() -> None:
    listener, clock = Listener(), Clock()
    speech = SentAhead(listener=listener, clock=clock, max_ahead_s=1)
    speech.push(1, pcm(3000))
    speech.clear()
    clock.now += 5
    speech.tick()
    assert len(listener.sound) == len(pcm(1000)) and speech.heard(1) == 0
    speech.push(2, pcm(900))
    speech.finish(2)
    speech.push(3, pcm(500))
    assert [told for told in listener.take() if told[0] == "started"][1:] == [("started", 2, 0)]
    clock.now += 0.5
    speech.tick()
    assert ("sent", 3, 0) in listener.take()
