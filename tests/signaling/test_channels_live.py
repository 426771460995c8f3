"""Data channels of a real client: labels, reopening, reliability, negotiation, sizes."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiortc import RTCDataChannel

from signaling.ice import IceSettings
from signaling.peer import Peer
from tests.signaling.rtc import Client, Recorder
from tests.waiting import until

LONG_S = 20.0


class Line:
    """A peer that says "opened" on each channel that it uses, and its client."""

    def __init__(self) -> None:
        self.listener = Recorder(self._answer)
        self.peer = Peer("rtc_test", IceSettings(), self.listener)
        self.client = Client(channel=False)

    def _answer(self, text: str) -> None:
        self.peer.send(f"re: {text}")

    def open(self, label: str, **more: Any) -> tuple[RTCDataChannel, list[Any]]:
        channel = self.client.pc.createDataChannel(label, **more)
        received: list[Any] = []
        channel.on("message", received.append)
        return channel, received

    async def talks(self, channel: RTCDataChannel, received: list[Any], text: str) -> None:
        await until(lambda: channel.readyState == "open", LONG_S)
        channel.send(text)
        await until(lambda: f"re: {text}" in received, LONG_S)


@asynccontextmanager
async def line(
    edit: Callable[[str], str] = lambda sdp: sdp, label: str = "response", **more: Any
) -> AsyncIterator[tuple[Line, RTCDataChannel, list[Any]]]:
    made = Line()
    channel, received = made.open(label, **more)
    try:
        await made.client.call(made.peer, edit)
        yield made, channel, received
    finally:
        await made.client.close()
        await made.peer.close()


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"ordered": False},
        {"maxRetransmits": 0},
        {"maxPacketLifeTime": 500, "ordered": False},
        {"negotiated": True, "id": 6},
    ],
    ids=str,
)
async def test_any_kind_of_channel_carries_events(more: dict[str, Any]) -> None:
    async with line(**more) as (made, channel, received):
        await made.talks(channel, received, "hello")
        assert made.listener.told == ["connected", "channel_open"]


async def test_events_go_on_over_a_channel_opened_after_the_first_was_closed() -> None:
    async with line() as (made, channel, received):
        await made.talks(channel, received, "one")
        channel.close()
        await until(lambda: not made.peer.channel.is_open, LONG_S)
        assert made.peer.send("between")
        again, received = made.open("response")
        await made.talks(again, received, "two")
        assert received == ["between", "re: two"]
        assert made.listener.told.count("channel_open") == 2


async def test_a_channel_opened_while_the_first_is_being_closed_takes_over() -> None:
    async with line() as (made, channel, received):
        await made.talks(channel, received, "one")
        again, received = made.open("response")
        channel.close()
        await until(lambda: made.listener.told.count("channel_open") == 2, LONG_S)
        await made.talks(again, received, "two")


async def test_a_message_is_never_larger_than_the_client_takes() -> None:
    def small(sdp: str) -> str:
        kept = [line for line in sdp.split("\r\n") if not line.startswith("a=max-message-size")]
        return "\r\n".join(kept)

    async with line(small) as (made, channel, received):
        await made.talks(channel, received, "hello")
        assert made.peer.channel.max_message_bytes == 65536
        assert not made.peer.send("x" * 65537)
        assert made.peer.send("x" * 65536)
        await until(lambda: len(received) == 2, LONG_S)


async def test_messages_of_the_client_that_are_too_large_are_told() -> None:
    async with line(lambda sdp: sdp) as (made, channel, received):
        await made.talks(channel, received, "hello")
        transport: Any = channel.transport
        transport._remote_max_message_size = 0
        channel.send(json.dumps({"x": "y" * 300_000}))
        await until(lambda: bool(made.listener.errors), LONG_S)
        assert made.listener.errors[0].code == "too_large"
        await made.talks(channel, received, "still here")


async def test_the_channel_is_closed_before_the_connection_at_a_hang_up() -> None:
    """Else an SDK takes the end of the call for a failure of its channel."""
    async with line() as (made, channel, received):
        await made.talks(channel, received, "hello")
        states: list[str] = []
        channel.on("close", lambda: states.append(made.client.pc.connectionState))
        await made.peer.close("hangup")
        await until(lambda: bool(states), LONG_S)
        assert states == ["connected"]
