"""Files attached to a message on the call page, in a real Chromium.

Guards: a picture is sent by the button and answered; a video larger than a message of the data
channel; a recording of the browser's decoding; what cannot be sent is told and kept.
"""

from __future__ import annotations

import io
import wave
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from av import CodecContext, VideoFrame
from playwright.async_api import FilePayload, Page

from tests.browser.chrome import browse, event
from tests.serving import Serving


async def send(page: Page, name: str, kind: str, data: bytes, text: str = "") -> None:
    await page.set_input_files("#file", FilePayload(name=name, mimeType=kind, buffer=data))
    assert name in await page.inner_text("#attached")
    await page.fill("#text", text)
    await page.click("#send")


async def parts(page: Page) -> list[Any]:
    added = await event(page, "conversation.item.added")
    return [part["type"] for part in added["item"]["content"]]


async def test_video_is_uploaded_and_declined_by_the_builtin_engine(server: Serving) -> None:
    async with browse(server.url) as page:
        await send(page, "film.mp4", "video/mp4", bytes(2_000_000), "what happens?")
        assert await parts(page) == ["input_video", "input_text"]
        left_out = await event(page, "error")
        assert left_out["error"]["code"] == "part_left_out"
        assert left_out["error"]["param"] == "item.content.0"
        created = await event(page, "session.created")
        assert created["session"]["audio"]["input"]["turn_detection"] is None
        done = await event(page, "response.output_audio_transcript.done")
        assert "videos" in done["transcript"]
        captions = await page.evaluate("() => window.omnicall.captions()")
        assert captions[0]["text"] == "what happens?"
        assert [one["name"] for one in captions[0]["media"]] == ["film.mp4"]
        assert "cannot take in videos" in str(captions)
        await page.wait_for_selector("#attached", state="hidden")


async def test_picture_is_sent_without_a_word(server: Serving) -> None:
    frame = VideoFrame.from_ndarray(np.full((64, 64, 3), 200, np.uint8), format="rgb24")
    png = CodecContext.create("png", "w")
    png.width, png.height, png.pix_fmt = 64, 64, "rgb24"
    png.time_base = Fraction(1, 1)
    [packet] = png.encode(frame) or png.encode()
    async with browse(server.url) as page:
        await send(page, "wall.png", "image/png", bytes(packet))
        assert await parts(page) == ["input_image"]
        done = await event(page, "response.output_audio_transcript.done")
        assert "white" in done["transcript"], done


async def test_recording_is_decoded_by_the_browser(server: Serving) -> None:
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setparams((2, 2, 44_100, 0, "NONE", ""))
        out.writeframes(np.zeros(44_100 * 2, np.int16).tobytes())
    async with browse(server.url) as page:
        await send(page, "note.wav", "audio/wav", file.getvalue())
        assert await parts(page) == ["input_audio"]


@pytest.mark.parametrize(
    ("name", "kind", "data", "says"),
    [
        ("a.txt", "text/plain", b"hello", "Only pictures"),
        ("a.avi", "video/x-msvideo", b"RIFF", "try MP4"),
        ("a.wav", "audio/wav", b"RIFF", "cannot read this recording"),
        ("a.heic", "image/heic", b"....", "cannot read this picture"),
        ("a.mp4", "video/mp4", bytes(29 * 1024 * 1024), "larger than 28 MB"),
    ],
)
async def test_what_cannot_be_sent_is_told_and_kept(
    server: Serving, name: str, kind: str, data: bytes, says: str
) -> None:
    async with browse(server.url) as page:
        await send(page, name, kind, data, "look")
        await page.wait_for_function(
            "says => JSON.stringify(window.omnicall.captions()).includes(says)", arg=says
        )
        assert await page.input_value("#text") == "look"
        assert name in await page.inner_text("#attached")
        await page.click("#detach")
        assert await page.is_hidden("#attached")
