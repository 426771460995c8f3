"""Clients of openbmb-realtime on a running server, by a plain WebSocket that plays their messages.

Guards: the order of messages with a queue and without; speech both ways in audio and video mode;
an interruption; the older names; refusals before and after the handshake; a connection that joins.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from tests.serving import Serving
from tests.streamer import Streamer, speech
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.loopback

HZ = 16_000
STORY_BYTES = 15 * 24_000 * 4
"""Any story of the engine has more sound."""


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    with Serving("--set", "engine.slots=1") as serving:
        yield serving


class Duplex:
    """A session in a `with` block, as the client for Python holds it."""

    def __init__(self, serving: Serving, query: str = "mode=audio&model=m") -> None:
        base = serving.url.partition("?")[0].replace("http", "ws", 1)
        self._url = f"{base}v1/realtime?{query}"
        self.events: list[dict[str, Any]] = []
        self.sound = b""
        self.socket: ClientConnection

    async def __aenter__(self) -> Duplex:
        protocols: Any = ["map.realtime"]
        self.socket = await connect(
            self._url, subprotocols=protocols, max_size=None, ping_interval=None
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.socket.close()

    async def send(self, kind: str, **members: Any) -> None:
        await self.socket.send(json.dumps({"type": kind, **members}))

    async def until(self, kind: str) -> dict[str, Any]:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                event: dict[str, Any] = json.loads(await self.socket.recv())
                if event["type"] == "response.output_audio.delta":
                    self.sound += base64.b64decode(event["audio"])
                self.events.append(event)
                if event["type"] == kind:
                    return event

    async def begin(self, **payload: Any) -> str:
        await self.until("session.queue_done")
        await self.send("session.init", payload=payload)
        return str((await self.until("session.created"))["session_id"])

    async def say(self, name: str, frames: list[str] | None = None) -> None:
        """An utterance in units of a second, in real time."""
        samples = (speech(name, HZ) / 32768).astype("<f4")
        for at in range(0, len(samples), HZ):
            audio = base64.b64encode(samples[at : at + HZ].tobytes()).decode()
            unit: dict[str, Any] = {"audio": audio}
            await self.send(
                "input.append", input=unit | ({"video_frames": frames} if frames else {})
            )
            await asyncio.sleep(1)

    async def close(self) -> dict[str, Any]:
        await self.send("session.close", reason="user_stop")
        return await self.until("session.closed")

    @property
    def text(self) -> str:
        words = (e["text"] for e in self.events if e["type"] == "response.output_text.delta")
        return "".join(words)


async def test_speech_goes_both_ways_and_a_second_client_waits_for_the_first(
    server: Serving,
) -> None:
    async with Duplex(server) as first, Duplex(server) as second:
        assert first.socket.subprotocol == "map.realtime"
        session_id = await first.begin(system_prompt="Be brief.", config={"max_tokens": 20})
        assert (await second.until("session.queued"))["position"] == 1
        joined = Streamer(server.url.partition("?")[0], query=f"call_id={session_id}")
        async with joined:
            talking = asyncio.create_task(first.say("what_time"))
            await first.until("response.listen")
            await joined.hears("response.done")
        await talking
        assert first.text.startswith("It is") and first.events[-2]["end_of_turn"] is True
        samples = np.frombuffer(first.sound, "<f4")
        assert len(samples) > 24_000 and 0.05 < np.abs(samples).max() <= 1
        heard = [e for e in first.events if e["type"].endswith("transcription.completed")]
        assert "time" in heard[0]["transcript"]
        assert (await first.close())["reason"] == "stopped"
        await second.begin()
        await second.close()
        await second.socket.wait_closed()
        assert second.socket.close_code == 1000


async def test_pictures_are_seen_and_an_interruption_ends_the_answer(server: Serving) -> None:
    file = io.BytesIO()
    Image.new("RGB", (320, 240), "red").save(file, "JPEG")
    frame = base64.b64encode(file.getvalue()).decode()
    async with Duplex(server, "mode=video&model=m") as duplex:
        await duplex.begin()
        await asyncio.gather(duplex.say("what_see", [frame]), duplex.until("response.listen"))
        assert "red" in duplex.text
        before = len(duplex.sound)
        talking = asyncio.create_task(duplex.say("tell_story"))
        await duplex.until("response.output_audio.delta")
        silence = base64.b64encode(bytes(4 * HZ)).decode()
        await duplex.send("input.append", input={"audio": silence, "force_listen": True})
        await duplex.until("response.listen")
        await talking
        assert len(duplex.sound) - before < STORY_BYTES
        await duplex.close()


async def test_older_names_are_taken_and_bad_sound_ends_the_session(server: Serving) -> None:
    async with Duplex(server) as duplex:
        await duplex.send("session.update", session={"instructions": "Be brief."})
        await duplex.until("session.created")
        nothing = base64.b64encode(np.full(1600, np.nan, "<f4").tobytes()).decode()
        await duplex.send("input_audio_buffer.append", audio=nothing)
        error = (await duplex.until("error"))["error"]
        assert error["code"] == "invalid_audio" and error["message"].startswith("input.audio: ")
        await duplex.until("session.closed")
        await duplex.socket.wait_closed()
        assert duplex.socket.close_code == 1008


async def test_unknown_mode_is_refused_before_the_handshake(server: Serving) -> None:
    with pytest.raises(InvalidStatus) as caught:
        async with Duplex(server, "mode=smell"):
            pass
    assert caught.value.response.status_code == 400
    assert b"audio, video" in (caught.value.response.body or b"")
