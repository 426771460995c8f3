"""A Live session's own WebSocket in a media worker: its start, its pace, its end."""

from __future__ import annotations

import base64
import json
import socket
from typing import Any, cast

import pytest

from media.clock import Ticker
from server.config import Config
from server.engine_links import EngineLinks
from server.worker import live_stream
from server.worker.live_session import LiveSession
from server.worker.live_stream import LiveStream, StreamSound
from server.worker.session import CallSession
from signaling.live.session_config import LinearPcm, LiveAudio, LiveConfig, MuLaw
from signaling.settings import SessionSettings
from signaling.socket_for import SocketFor
from signaling.websocket import WebSocketLink

HEAD = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"


def new_session() -> CallSession:
    return CallSession("rtc_1", SessionSettings(), Config(), cast(EngineLinks, None))


async def test_a_start_that_does_not_come_is_told_and_ends_the_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live_stream, "START_S", 0.05)
    session = new_session()
    stream = LiveStream(session, Config(), Ticker(), lambda: None)
    ours, theirs = socket.socketpair()
    with ours:
        ours.setblocking(False)
        await stream.accept(theirs, SocketFor("rtc_1", HEAD, door="live"))
        assert await session.run() == "not_started"
        link = stream._link
        assert link is not None
        monkeypatch.setattr("signaling.websocket.CLOSE_S", 0.01)
        await session.close()
        sent = ours.recv(65_536)
    assert sent.startswith(HEAD) and b"start_timeout" in sent
    assert b"\x88" in sent and (1008).to_bytes(2, "big") in sent


async def test_who_is_hung_up_before_the_start_is_told_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("signaling.websocket.CLOSE_S", 0.01)
    session = new_session()
    stream = LiveStream(session, Config(), Ticker(), lambda: None)
    ours, theirs = socket.socketpair()
    with ours:
        ours.setblocking(False)
        await stream.accept(theirs, SocketFor("rtc_1", HEAD, door="live"))
        session.end("server_shutdown")
        await session.run()
        await session.close()
        sent = ours.recv(65_536)
    assert b'"code":"server_shutdown"' in sent and (1012).to_bytes(2, "big") in sent


async def test_who_waited_in_the_queue_is_not_taken_for_silent() -> None:
    rig = SoundRig(LiveConfig(model="m"))
    rig.now += 300
    rig.sound.begin()
    assert rig.sound.quiet_s == 0


class SentMessages:
    """Stands for the WebSocket."""

    def __init__(self) -> None:
        self.unsent_bytes = 0
        self.sent: list[dict[str, Any]] = []

    def send(self, text: str) -> bool:
        self.sent.append(json.loads(text))
        return True


class SoundRig:
    def __init__(self, config: LiveConfig) -> None:
        self.now = 50.0
        self.session = new_session()
        self.link = SentMessages()
        self.sound = StreamSound(
            config, self.session, cast(WebSocketLink, self.link), lambda: self.now
        )
        self.live = LiveSession(self.session, config, Ticker(), append=self.sound.append)
        self.sound.use(self.live)
        self.session.greet(self.live.door)
        self.session.conversation.greet(self.live.door)

    def after(self, seconds: float, *, with_input: bool = False) -> int:
        """Let time pass; how many messages of sound went out."""
        before = len(self.link.sent)
        for n in range(round(seconds / 0.02)):
            if with_input and n % 5 == 0:
                self.sound.append(bytes(4_800))
            self.now += 0.02
            self.sound.tick()
        return len(self.link.sent) - before


async def test_silence_is_told_while_the_users_sound_flows() -> None:
    rig = SoundRig(LiveConfig(model="m"))
    assert rig.after(2, with_input=True) in (19, 20)
    assert rig.live.timeline_ms() == 2_000
    # For a second it may go on; then the timeline stands.
    assert rig.after(5) in (9, 10)
    assert rig.live.timeline_ms() == 2_000
    assert rig.after(1, with_input=True) in (9, 10)


async def test_speech_goes_out_whether_or_not_anything_is_heard() -> None:
    rig = SoundRig(LiveConfig(model="m"))
    rig.after(3)
    rig.live.playout.push(1, b"\1\1" * 24_000)
    rig.live.playout.finish(1)
    # Ten to eleven of it, and the silence that ends it.
    assert rig.after(3) in (11, 12)


@pytest.mark.parametrize(("form", "size"), [(MuLaw(), 800), (LinearPcm(rate=16000), 3_200)])
async def test_silence_has_the_sessions_format(form: Any, size: int) -> None:

    rig = SoundRig(LiveConfig(model="m", audio=LiveAudio(format=form)))
    rig.after(1, with_input=True)
    sizes = {len(base64.b64decode(event["delta"])) for event in rig.link.sent[2:]}
    assert sizes == {size}


async def test_a_client_that_does_not_read_ends_its_session() -> None:
    rig = SoundRig(LiveConfig(model="m"))
    rig.after(0.2, with_input=True)
    assert rig.session.reason is None
    rig.link.unsent_bytes = 200_000
    rig.after(0.2, with_input=True)
    assert rig.session.reason == "too_slow"
