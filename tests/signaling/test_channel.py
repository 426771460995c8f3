"""The event channel: what waits, what is dropped and counted, how a flood is refused."""

from collections.abc import Callable
from typing import Any, cast

import pytest
from aiortc import InvalidStateError, RTCDataChannel

from signaling.channel import (
    MAX_BUFFERED_BYTES,
    MAX_EVENT_BYTES,
    MAX_WAITING_BYTES,
    MAX_WAITING_EVENTS,
    EventChannel,
)
from signaling.errors import ProtocolError


class FakeDataChannel:
    def __init__(self, label: str = "oai-events") -> None:
        self.label = label
        self.bufferedAmount = 0
        self.readyState = "open"
        self.sent: list[str] = []
        self.deliver: Callable[[Any], None] = lambda message: None
        self.error: Exception | None = None

    def on(self, event: str, handler: Callable[[Any], None]) -> None:
        assert event == "message"
        self.deliver = handler

    def send(self, text: str) -> None:
        if self.error is not None:
            raise self.error
        self.sent.append(text)


class Bench:
    def __init__(self) -> None:
        self.now = 0.0
        self.received: list[str] = []
        self.refused: list[ProtocolError] = []
        self.fake = FakeDataChannel()
        self.channel = EventChannel(
            received=self.received.append, refused=self.refused.append, clock=lambda: self.now
        )

    def bind(self) -> None:
        assert self.channel.bind(cast(RTCDataChannel, self.fake))


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_events_wait_in_order_until_the_channel_opens(bench: Bench) -> None:
    bench.channel.is_expected = True
    assert bench.channel.send("1") and bench.channel.send("2")
    bench.bind()
    bench.channel.release_waiting()
    assert bench.fake.sent == ["1", "2"]
    assert bench.channel.messages_sent == 2


def test_without_a_channel_in_the_offer_events_are_dropped(bench: Bench) -> None:
    assert not bench.channel.send("1")
    assert bench.channel.sends_dropped == 1


def test_waiting_is_bounded(bench: Bench) -> None:
    bench.channel.is_expected = True
    sent = [bench.channel.send("x") for _ in range(MAX_WAITING_EVENTS + 5)]
    assert sent.count(True) == MAX_WAITING_EVENTS
    other = Bench()
    other.channel.is_expected = True
    assert not other.channel.send("x" * (MAX_WAITING_BYTES + 1))


def test_congestion_drops(bench: Bench) -> None:
    bench.bind()
    bench.fake.bufferedAmount = MAX_BUFFERED_BYTES
    assert not bench.channel.send("x")
    bench.fake.bufferedAmount = 0
    assert bench.channel.send("x")
    assert bench.channel.sends_dropped == 1


@pytest.mark.parametrize("error", [InvalidStateError(), ConnectionError(), ValueError()])
def test_a_closed_or_small_channel_drops(bench: Bench, error: Exception) -> None:
    bench.bind()
    bench.fake.error = error
    assert not bench.channel.send("x")


def test_only_the_first_channel_of_the_right_name_is_taken(bench: Bench) -> None:
    assert not bench.channel.bind(cast(RTCDataChannel, FakeDataChannel("other")))
    bench.bind()
    assert not bench.channel.bind(cast(RTCDataChannel, FakeDataChannel()))


def test_a_flood_is_cut_to_the_rate_and_refused_once_a_second(bench: Bench) -> None:
    bench.bind()
    for step in range(3000):
        bench.now = step / 1000
        bench.fake.deliver("x")
    # A burst of 200, then 100 a second.
    assert 490 <= len(bench.received) <= 501
    assert len(bench.refused) == 3
    assert bench.refused[0].code == "rate_limited"
    assert bench.channel.receives_dropped == 3000 - len(bench.received)
    bench.now = 10.0
    bench.fake.deliver("after")
    assert bench.received[-1] == "after"


def test_large_and_binary_messages_are_refused(bench: Bench) -> None:
    bench.bind()
    bench.fake.deliver("é" * (MAX_EVENT_BYTES // 2 + 1))
    bench.now = 2.0
    bench.fake.deliver(b"{}")
    assert [e.code for e in bench.refused] == ["too_large", "invalid_event"]
    assert bench.received == []
