"""A call in a real Chromium: what is heard and shown on both sides is what was said.

Guards: spoken question -> right transcript, right answer, and its sound; barge-in; typed message;
camera facts and the camera switched off; hanging up; a closed tab.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page

from engine.config import BuiltinConfig
from tests.browser.chrome import browse, call, event, events, record, recorded
from tests.browser.voice import spoken
from tests.serving import Serving
from tests.speech import BROWSER_HZ, likeness, microphone, stretches
from tests.waiting import PATIENCE_S


async def answer_text(page: Page, count: int = 1) -> str:
    done = await event(page, "response.output_audio_transcript.done", count=count)
    return str(done["transcript"])


async def wait_for_calls(server: Serving, wanted: int) -> list[Any]:
    """The calls whose clients are there, once there are `wanted`."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            _, stats = await asyncio.to_thread(server.get, "/api/stats")
            found = [one for one in stats["calls"] if one["state"] != "away"]
            if len(found) == wanted:
                return found
            await asyncio.sleep(0.1)


async def how_it_ended(server: Serving, call_id: str) -> str:
    """Why a call is over, once it is."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            _, stats = await asyncio.to_thread(server.get, "/api/stats")
            for one in stats["past_calls"]:
                if one["call_id"] == call_id:
                    return str(one["reason"])
            await asyncio.sleep(0.1)


async def test_spoken_question_is_answered_aloud(server: Serving, tmp_path: Path) -> None:
    mic = microphone(tmp_path / "mic.wav", [(6.0, "seven_times_eight")], 30)
    async with browse(server.url, mic) as page:
        await call(page)
        await record(page)
        heard = await event(page, "conversation.item.input_audio_transcription.completed")
        assert heard["transcript"] == "what is seven times eight"
        text = await answer_text(page)
        assert "56" in text or "fifty six" in text, text
        await event(page, "output_audio_buffer.stopped")
        await asyncio.sleep(0.5)
        sound = await recorded(page)
        captions = await page.evaluate("() => window.omnicall.captions()")
        stats = await page.evaluate("() => window.omnicall.stats()")

    meant = await spoken(text, BuiltinConfig(), BROWSER_HZ)
    alike = likeness(sound.assistant, meant, BROWSER_HZ)
    assert alike > 0.9, alike
    heard_s = sum(end - begin for begin, end in stretches(sound.assistant, BROWSER_HZ))
    meant_s = sum(end - begin for begin, end in stretches(meant, BROWSER_HZ))
    assert heard_s == pytest.approx(meant_s, abs=0.35)
    shown = json.dumps(captions)
    assert "seven times eight" in shown and text in shown
    assert stats["concealed_pct"] < 5


async def test_events_of_a_spoken_turn_come_in_order(server: Serving, tmp_path: Path) -> None:
    mic = microphone(tmp_path / "mic.wav", [(2.0, "what_time")], 30)
    async with browse(server.url, mic) as page:
        await call(page)
        await event(page, "output_audio_buffer.stopped")
        log = [e["type"] for e in await events(page)]
    wanted = [
        "session.created",
        "input_audio_buffer.speech_started",
        "input_audio_buffer.speech_stopped",
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.input_audio_transcription.completed",
        "response.created",
        "rate_limits.updated",
        "response.output_item.added",
        "response.content_part.added",
        "output_audio_buffer.started",
        "response.output_audio_transcript.delta",
        "response.output_audio.done",
        "response.output_audio_transcript.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.done",
        "output_audio_buffer.stopped",
    ]
    positions = [log.index(kind) for kind in wanted]
    assert positions == sorted(positions), log


TIME_IS_TOLD = """() => window.omnicall.events
  .filter(e => e.type === 'response.output_audio_transcript.done').slice(1)
  .some(e => e.transcript.startsWith('It is'))"""


async def test_speaking_over_the_answer_silences_it(server: Serving, tmp_path: Path) -> None:
    # A busy machine takes its time to begin the story, which lasts over 20 s. Of what is said over
    # it the browser's echo canceller spoils the words now and then: the question comes once more.
    said = [(16.0, "what_time"), (36.0, "what_time")]
    mic = microphone(tmp_path / "mic.wav", said, 60)
    async with browse(server.url, mic) as page:
        await call(page)
        await record(page)
        await ask(page, "Tell me a story.")
        started = await event(page, "output_audio_buffer.started")
        cleared = await event(page, "output_audio_buffer.cleared")
        assert cleared["response_id"] == started["response_id"]
        done = await event(page, "response.done")
        assert done["response"]["status"] == "cancelled"
        assert done["response"]["status_details"]["reason"] == "turn_detected"
        cut = await event(page, "conversation.item.truncated")
        await event(page, "output_audio_buffer.stopped")
        sound = await recorded(page)
        await page.wait_for_function(TIME_IS_TOLD)

    user = stretches(sound.user, BROWSER_HZ, gap_s=2.0)
    assistant = stretches(sound.assistant, BROWSER_HZ)
    barge_in_s = user[0][0]
    story = [(begin, end) for begin, end in assistant if begin < barge_in_s]
    silent_s = max(end for _, end in story)
    assert barge_in_s < silent_s < barge_in_s + 3.0
    played_ms = (silent_s - story[0][0]) * 1000
    # Where the processor is short the recorder loses some; to the packet it is known elsewhere.
    assert cut["audio_end_ms"] == pytest.approx(played_ms, abs=4000)


async def test_typed_message_is_answered_aloud(server: Serving, tmp_path: Path) -> None:
    mic = microphone(tmp_path / "mic.wav", [], 30)
    async with browse(server.url, mic) as page:
        await call(page)
        await record(page)
        await page.fill("#text", "What is 12 plus 30?")
        await page.press("#text", "Enter")
        text = await answer_text(page)
        assert "42" in text or "forty two" in text, text
        await event(page, "output_audio_buffer.stopped")
        await asyncio.sleep(0.4)
        sound = await recorded(page)
        roles = await page.evaluate(
            "() => [...document.querySelectorAll('.caption')].map(c => c.dataset.role)"
        )
    meant = await spoken(text, BuiltinConfig(), BROWSER_HZ)
    alike = likeness(sound.assistant, meant, BROWSER_HZ)
    assert alike > 0.9, alike
    assert roles == ["user", "assistant"]


async def test_camera_is_seen_until_it_is_switched_off(server: Serving, tmp_path: Path) -> None:
    mic = microphone(tmp_path / "mic.wav", [], 60)
    async with browse(server.url, mic) as page:
        await call(page)
        await page.click("#camera-toggle")
        await page.wait_for_function("() => window.omnicall.stats().video_fps > 0")
        async with asyncio.timeout(PATIENCE_S):
            while (video := await video_row(server)).get("framesDecoded", 0) < 4:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        assert video["framesPerSecond"] <= 4
        await ask(page, "What do you see?")
        seen = await answer_text(page)
        assert "picture" in seen.lower() or "camera" in seen.lower(), seen
        await event(page, "output_audio_buffer.stopped")

        await page.click("#camera-toggle")
        await asyncio.sleep(6)
        await ask(page, "What do you see?")
        unseen = await answer_text(page, 2)
        assert unseen != seen
        assert "camera" in unseen.lower() or "picture" in unseen.lower(), unseen


async def video_row(server: Serving) -> dict[str, Any]:
    """What the only call's camera has sent, as the server counts it."""
    [found] = await wait_for_calls(server, 1)
    rows = [row for row in found["stats"] if row["type"] == "inbound-rtp"]
    return next((row for row in rows if row["kind"] == "video"), {})


async def ask(page: Page, text: str) -> None:
    await page.fill("#text", text)
    await page.press("#text", "Enter")


async def test_hanging_up_ends_the_call_on_the_server(server: Serving, tmp_path: Path) -> None:
    mic = microphone(tmp_path / "mic.wav", [], 30)
    async with browse(server.url, mic) as page:
        await call(page)
        await wait_for_calls(server, 1)
        await page.click("#hangup")
        await wait_for_calls(server, 0)
        assert await page.is_visible("#call")


async def test_closed_tab_is_noticed_at_once_and_its_slot_free_soon(
    server: Serving, tmp_path: Path
) -> None:
    mic = microphone(tmp_path / "mic.wav", [], 30)
    async with browse(server.url, mic) as page:
        await call(page)
        (ours,) = await wait_for_calls(server, 1)
        await page.close(run_before_unload=True)
        # Who vanishes without closing is awaited for longer.
        assert await how_it_ended(server, ours["call_id"]) == "closed"


async def test_killed_browser_is_noticed(server: Serving, tmp_path: Path) -> None:
    """A whole browser that dies says nothing; silence on the wire must be enough."""
    mic = microphone(tmp_path / "mic.wav", [], 30)
    async with browse(server.url, mic) as page:
        await call(page)
        await wait_for_calls(server, 1)
        await page.evaluate("() => { window.onpagehide = null; }")
        # Crashing the renderer runs no handler of the page.
        crash = asyncio.create_task(page.goto("chrome://crash"))
        await wait_for_calls(server, 0)
        crash.cancel()
        await asyncio.gather(crash, return_exceptions=True)
