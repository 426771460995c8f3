"""The model team's own client for Python, as it is, in both of its modes.

pip install openbmb-realtime==0.1.6
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.serving import Serving
from tests.streamer import speech
from tests.waiting import PATIENCE_S

pytestmark = [
    pytest.mark.loopback,
    pytest.mark.skipif(
        find_spec("openbmb_realtime") is None, reason="openbmb-realtime is not installed"
    ),
]

HZ = 16_000


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    with Serving("--set", "engine.slots=1") as serving:
        yield serving


class Heard:
    """A session of the client, and what it told the application."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.events: list[Any] = []

    async def listen(self) -> None:
        async for event in self.session:
            self.events.append(event)

    async def say(self, name: str, frame: bytes = b"") -> None:
        """An utterance in pieces of a second, in real time."""
        samples = (speech(name, HZ) / 32768).astype("<f4")
        for at in range(0, len(samples), HZ):
            sound = samples[at : at + HZ].tobytes()
            if frame:
                await self.session.send_audio_video(sound, frame)
            else:
                await self.session.send_audio(sound)
            await asyncio.sleep(1)

    async def until(self, found: Any) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not found():  # noqa: ASYNC110 - the client sets no event
                await asyncio.sleep(0.02)

    def of(self, name: str) -> list[Any]:
        return [event for event in self.events if type(event).__name__ == name]

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.of("TextDelta"))

    @property
    def turns(self) -> int:
        return sum(event.end_of_turn for event in self.of("TextDelta"))


@asynccontextmanager
async def talking(server: Serving, mode: str, **options: Any) -> AsyncIterator[Heard]:
    from openbmb_realtime import RealtimeClient

    client = RealtimeClient(api_key="any", base_url=server.url.partition("?")[0])
    heard = Heard(await getattr(client, mode).connect(model="omnicall", **options))
    listening = asyncio.create_task(heard.listen())
    try:
        yield heard
    finally:
        await heard.session.close()
        await listening
    assert heard.of("ErrorEvent") == []
    assert [event.reason for event in heard.of("SessionClosed")] == ["stopped"]


async def test_it_talks_and_is_interrupted(server: Serving) -> None:
    async with talking(server, "audio", system_prompt="Be brief.") as heard:
        assert heard.session.id.startswith("rtc_")
        await heard.say("what_time")
        await heard.until(lambda: heard.turns)
        assert heard.text.startswith("It is") and "time" in heard.of("UserTranscript")[0].text
        sound = b"".join(event.audio for event in heard.of("AudioDelta"))
        assert len(sound) > 4 * 24_000 and np.isfinite(np.frombuffer(sound, "<f4")).all()
        telling = asyncio.create_task(heard.say("tell_story"))
        pieces = len(heard.of("AudioDelta"))
        await heard.until(lambda: len(heard.of("AudioDelta")) > pieces)
        heard.session.interrupt()
        await heard.session.send_audio(bytes(4 * HZ // 10))
        await heard.until(lambda: heard.turns == 2)
        await telling


async def test_it_waits_for_its_turn_and_shows_pictures(server: Serving) -> None:
    file = io.BytesIO()
    Image.new("RGB", (320, 240), "red").save(file, "JPEG")
    async with talking(server, "audio") as first:

        async def look() -> Heard:
            async with talking(server, "video", max_slice_nums=2) as heard:
                await heard.say("what_see", file.getvalue())
                await heard.until(lambda: heard.turns)
            return heard

        second = asyncio.create_task(look())
        await asyncio.sleep(2)
        assert not second.done()
        await first.session.close()
        heard = await second
    assert "red" in heard.text
    assert [type(event).__name__ for event in heard.events[:3]] == [
        "SessionQueued",
        "WorkerAssigned",
        "SessionReady",
    ]
