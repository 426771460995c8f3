"""The event channel: which one it is, what waits, what is dropped and counted, floods."""

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
        self.error: Exception | None = None
        self._handlers: dict[str, Callable[..., None]] = {}

    def on(self, event: str, handler: Callable[..., None]) -> None:
        self._handlers[event] = handler

    def deliver(self, message: Any) -> None:
        self._handlers["message"](message)

    def close(self) -> None:
        self.readyState = "closed"
        self._handlers["close"]()

    def send(self, text: str) -> None:
        if self.error is not None:
            raise self.error
        self.sent.append(text)


class Bench:
    def __init__(self) -> None:
        self.now = 0.0
        self.openings = 0
        self.received: list[str] = []
        self.refused: list[ProtocolError] = []
        self.fake = FakeDataChannel()
        self.channel = EventChannel(
            opened=self._opened,
            received=self.received.append,
            refused=self.refused.append,
            clock=lambda: self.now,
        )

    def _opened(self) -> None:
        self.openings += 1
        self.channel.send(f"opened {self.openings}")

    def bind(self, fake: FakeDataChannel | None = None) -> FakeDataChannel:
        fake = fake or self.fake
        self.channel.bind(cast(RTCDataChannel, fake))
        return fake


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_events_wait_in_order_until_the_channel_opens(bench: Bench) -> None:
    bench.channel.is_expected = True
    assert bench.channel.send("1") and bench.channel.send("2")
    bench.bind()
    assert bench.fake.sent == ["opened 1", "1", "2"]
    assert bench.channel.messages_sent == 3


def test_without_a_channel_in_the_offer_events_are_dropped(bench: Bench) -> None:
    assert not bench.channel.send("1")


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


@pytest.mark.parametrize("error", [InvalidStateError(), ConnectionError(), ValueError()])
def test_a_closed_or_small_channel_drops(bench: Bench, error: Exception) -> None:
    bench.bind()
    bench.fake.error = error
    assert not bench.channel.send("x")


@pytest.mark.parametrize("label", ["oai-events", "response", "", "Ereignisse ä"])
def test_the_first_channel_carries_the_events_whatever_its_label(bench: Bench, label: str) -> None:
    fake = bench.bind(FakeDataChannel(label))
    bench.channel.send("x")
    fake.deliver("y")
    assert fake.sent == ["opened 1", "x"] and bench.received == ["y"]


@pytest.mark.parametrize(("first", "second"), [("oai-events", "more"), ("a", "a"), ("a", "b")])
def test_a_second_channel_is_refused_by_name_and_carries_nothing(
    bench: Bench, first: str, second: str
) -> None:
    one, two = bench.bind(FakeDataChannel(first)), bench.bind(FakeDataChannel(second))
    assert [error.code for error in bench.refused] == ["channel_refused"]
    assert f'"{second}"' in bench.refused[0].message
    bench.now = 5.0
    two.deliver("lost")
    one.deliver("taken")
    assert bench.received == ["taken"] and two.sent == []
    assert [error.code for error in bench.refused] == ["channel_refused"] * 2


def test_a_channel_called_oai_events_is_preferred(bench: Bench) -> None:
    chat, ours = bench.bind(FakeDataChannel("chat")), bench.bind()
    bench.channel.send("x")
    assert ours.sent == ["opened 2", "x"] and chat.sent == ["opened 1"]
    assert '"chat" carries none' in bench.refused[0].message


def test_only_one_channel_is_kept_aside(bench: Bench) -> None:
    bench.bind()
    spares = [bench.bind(FakeDataChannel(f"spare {index}")) for index in range(3)]
    assert [spare.readyState for spare in spares] == ["closed", "closed", "open"]


def test_after_a_channel_is_closed_the_next_one_goes_on_with_what_waited(bench: Bench) -> None:
    bench.channel.is_expected = True
    bench.bind()
    bench.fake.readyState = "closing"
    assert bench.channel.send("between") and not bench.channel.is_open
    bench.fake.close()
    next_one = bench.bind(FakeDataChannel("again"))
    assert next_one.sent == ["opened 2", "between"] and bench.refused == []
    next_one.deliver("hello")
    assert bench.received == ["hello"]


def test_a_channel_opened_just_before_the_first_is_closed_takes_over(bench: Bench) -> None:
    bench.channel.is_expected = True
    bench.bind()
    next_one = bench.bind(FakeDataChannel())
    bench.fake.close()
    bench.channel.send("x")
    assert next_one.sent == ["opened 2", "x"]
    next_one.deliver("hello")
    assert bench.received == ["hello"]


def test_closing_the_channel_kept_aside_changes_nothing(bench: Bench) -> None:
    bench.bind()
    bench.bind(FakeDataChannel("more")).close()
    bench.fake.close()
    assert bench.openings == 1 and not bench.channel.is_open


def test_a_flood_is_cut_to_the_rate_and_refused_once_a_second(bench: Bench) -> None:
    bench.bind()
    for step in range(3000):
        bench.now = step / 1000
        bench.fake.deliver("x")
    # A burst of 200, then 100 a second, of which the last half second may be still to come.
    assert 450 <= len(bench.received) <= 501
    assert len(bench.refused) == 3
    assert bench.refused[0].code == "rate_limited"
    assert bench.channel.receives_dropped == 3000 - len(bench.received)
    bench.now = 10.0
    bench.fake.deliver("after")
    assert bench.received[-1] == "after"


def test_what_a_flood_sends_together_is_taken_or_dropped_together(bench: Bench) -> None:
    bench.bind()
    for step in range(3000):
        bench.now = step / 700
        bench.fake.deliver(f"{step // 2}")
    halves = [text for text in set(bench.received) if bench.received.count(text) == 1]
    # At most one at the end of each time that it is listened to.
    assert len(bench.received) > 400 and len(halves) <= 9


def test_all_that_was_dropped_is_told_when_the_flood_is_over(bench: Bench) -> None:
    bench.bind()
    for step in range(300):
        bench.now = step / 1000
        bench.fake.deliver("x")
    dropped = 300 - len(bench.received)
    assert [str(e) for e in bench.refused] == [
        "More than 100 events per second. 1 events were dropped in this call."
    ]
    bench.now = 1.0
    bench.channel.tell_dropped()
    assert len(bench.refused) == 1, "once a second"
    bench.now = 2.0
    bench.channel.tell_dropped()
    bench.channel.tell_dropped()
    assert f"{dropped} events were dropped" in str(bench.refused[1]) and len(bench.refused) == 2


def test_large_messages_are_refused_with_an_error(bench: Bench) -> None:
    bench.bind()
    bench.fake.deliver("é" * (MAX_EVENT_BYTES // 2 + 1))
    assert [e.code for e in bench.refused] == ["too_large"]
    assert bench.received == []


def test_json_in_a_binary_message_is_taken(bench: Bench) -> None:
    bench.bind()
    bench.fake.deliver('{"é": 1}'.encode())
    bench.fake.deliver(b"half \xf0\x9f")
    assert bench.received == ['{"é": 1}', "half \ufffd"]
