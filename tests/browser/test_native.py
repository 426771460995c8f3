"""A full call with the native engine in a real Chromium: a tiny random model, so the sound is
noise and the words are none, but the flow is that of the real one.

Guards: it speaks aloud; it is silenced by speech and by the button; it listens; modes switch within
the call by the page's selector, each with a new conversation; push to talk is answered when let go;
an attached video is answered; the context limit is announced, then ends the call with a reason.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import FilePayload, Page

from tests.browser.chrome import browse, call, event, events, open_settings, record, recorded
from tests.serving import Serving
from tests.speech import BROWSER_HZ, microphone, stretches

torch = pytest.importorskip("torch", reason="the native engine needs torch: the test extra has it")

COMMITTED = "input_audio_buffer.committed"
STARTED = "input_audio_buffer.speech_started"
SPOKEN = "#captions [data-status=unwritten]"
SOFT = 0.001
"""A quarter of the level at which the tiny model's noise is heard; silence is zero."""
UPDATE = "(session) => window.omnicall.call.send({ type: 'session.update', session })"


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    from tests.tiny_checkpoint import write_checkpoint

    folder = write_checkpoint(tmp_path_factory.mktemp("tiny"), seed=3)
    options = ("--engine", "minicpmo", "--model", str(folder))
    with Serving(
        *options, "--set", "minicpmo.device=cpu", "--set", "minicpmo.max_context=700"
    ) as s:
        yield s


async def wait_for(page: Any, condition: str) -> None:
    await page.wait_for_function(f"() => {condition}")


async def test_it_speaks_is_interrupted_and_goes_on(native: Serving, tmp_path: Path) -> None:
    said = [(3.0 + 4 * i, "what_time") for i in range(12)]
    mic = microphone(tmp_path / "mic.wav", said, 60)
    async with browse(native.url, mic) as page:
        await call(page)
        await record(page)
        await event(page, "output_audio_buffer.started")
        # Whoever speaks over it silences it.
        await event(page, "output_audio_buffer.cleared")
        await wait_for(
            page,
            "window.omnicall.events.some(e => e.type === 'response.done'"
            " && e.response.status === 'cancelled')",
        )
        log = await events(page)
        await event(page, "output_audio_buffer.started", count=2)
        sound = await recorded(page)
        _, stats = await asyncio.to_thread(native.get, "/api/stats")
    assert stretches(sound.assistant, BROWSER_HZ, threshold=SOFT), "nothing was heard"
    stages = stats["engines"][0]["latency_ms"]
    assert {"encode", "prefill", "decode", "tts", "vocoder", "unit"} <= set(stages)
    told = [e["metrics"] for e in log if e["type"] == "metrics"]
    units = [metrics for metrics in told if "unit" in metrics]
    assert units and all(unit["kv_tokens"] > 0 for unit in units)


async def choose(page: Page, mode: str, count: int) -> None:
    """Press a mode of the page's selector until the `count`th change is confirmed and shown."""
    await page.click(f"#mode-{mode}")
    await event(page, "session.updated", count=count)
    await page.wait_for_selector(f"#mode-{mode}[aria-pressed=true]")


async def test_modes_switch_within_the_call(native: Serving, tmp_path: Path) -> None:
    mic = microphone(tmp_path / "mic.wav", [(4.0 + 4 * i, "what_time") for i in range(20)], 90)
    async with browse(native.url, mic) as page:
        await call(page)
        await page.evaluate(UPDATE, {"max_output_tokens": 12})
        await event(page, "session.updated")
        await choose(page, "turn-based", 2)
        await page.fill("#text", "hello there")
        await page.press("#text", "Enter")
        await event(page, "output_audio_buffer.started")
        await page.click("#interrupt:enabled")
        await wait_for(
            page,
            "window.omnicall.events.some(e => e.type === 'conversation.item.done'"
            " && e.item.role === 'assistant')",
        )
        before = await responses(page)
        committed = len([e for e in await events(page) if e["type"] == COMMITTED])
        spoken = await page.locator(SPOKEN).count()
        await page.focus("#hangup")
        await page.keyboard.down(" ")
        await event(page, "input_audio_buffer.cleared")
        await asyncio.sleep(4)
        assert await responses(page) == before
        await page.keyboard.up(" ")
        await event(page, "response.created", count=before + 1)
        # However often the user paused.
        log = [e["type"] for e in await events(page)]
        assert log.count(COMMITTED) == committed + 1
        assert log[log.index("input_audio_buffer.cleared") :].count(STARTED) == 0
        assert await page.locator(SPOKEN).count() == spoken + 1

        await choose(page, "half-duplex", 3)
        committed = len([e for e in await events(page) if e["type"] == COMMITTED])
        before = await responses(page)
        await event(page, COMMITTED, count=committed + 1)
        await event(page, "response.created", count=before + 1)

        await choose(page, "full-duplex", 4)
        metrics = len([e for e in await events(page) if e["type"] == "metrics"])
        await event(page, "metrics", count=metrics + 2)
        warnings = [e["code"] for e in await events(page) if e["type"] == "session.warning"]
        # From full duplex and back to it; what takes turns goes on.
        restarts = [code for code in warnings if code in ("context_reread", "context_restarted")]
        assert len(restarts) == 2 and restarts[1] == "context_reread", "there were words by then"
        shown = await page.evaluate("() => window.omnicall.captions()")
        assert str(shown).count("begins a") == 2


async def responses(page: Page) -> int:
    return len([e for e in await events(page) if e["type"] == "response.created"])


async def test_attached_video_is_answered(native: Serving) -> None:
    from tests.engine.minicpmo.videos import film

    async with browse(native.url) as page:
        data = FilePayload(name="film.mp4", mimeType="video/mp4", buffer=film(2.0))
        await page.set_input_files("#file", data)
        await page.fill("#text", "what happens?")
        await page.click("#send")
        added = await event(page, "conversation.item.added")
        assert [part["type"] for part in added["item"]["content"]] == ["input_video", "input_text"]
        await event(page, "output_audio_buffer.started")
        await wait_for(page, "!document.getElementById('attached').checkVisibility()")
        warnings = [e["code"] for e in await events(page) if e["type"] == "session.warning"]
        await open_settings(page)
        await page.check("#wish-hd")
        updated = await event(page, "session.updated")
        assert updated["session"]["video"]["detail"] == "high"
        # The answer may be long for so small a context.
        assert set(warnings) <= {"context_near_limit"}


async def test_context_limit_is_announced_before_it_ends_the_call(
    native: Serving, tmp_path: Path
) -> None:
    mic = microphone(tmp_path / "mic.wav", [], 90)
    async with browse(native.url, mic) as page:
        await call(page)
        await page.evaluate(UPDATE, {"truncation": "disabled"})
        await event(page, "session.warning")
        await event(page, "session.ended")
        log = await events(page)
    kinds = [e.get("code") or e.get("reason") for e in log if e["type"].startswith("session.")]
    assert "context_near_limit" in kinds
    assert kinds.index("context_near_limit") < kinds.index("context_limit")
