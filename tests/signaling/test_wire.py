"""What aiortc raises while it connects, when the peer is closed in the middle of that."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from aiortc import InvalidStateError, RTCConfiguration, RTCPeerConnection

from signaling.ice import IceSettings
from signaling.wire import Wire


async def connecting(*, is_closed: bool) -> Any:
    """The outcome of aiortc's task to connect, one of whose transports is closed already."""
    pc: Any = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    transceiver = pc.addTransceiver("audio")

    async def connect() -> None:
        ice = transceiver.receiver.transport.transport
        await ice.stop()
        await ice.start(None)

    pc._RTCPeerConnection__connect = connect
    Wire(pc, IceSettings(loopback="only"), time.monotonic, lambda: None)
    if is_closed:
        await pc.close()
    try:
        return await asyncio.ensure_future(pc._RTCPeerConnection__connect())
    finally:
        await pc.close()


async def test_connecting_ends_in_silence_when_the_peer_is_closed() -> None:
    assert await connecting(is_closed=True) is None


async def test_what_connecting_raises_for_another_reason_is_seen() -> None:
    with pytest.raises(InvalidStateError):
        await connecting(is_closed=False)
