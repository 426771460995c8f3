"""What the caller in a browser sees when a process of the server dies in the call."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from playwright.async_api import Page

from tests.browser.chrome import browse, call, event
from tests.serving import Serving
from tests.speech import microphone

ENGINE_TOLD = """
() => window.omnicall.captions()
  .some((row) => row.role === 'note' && row.text.includes('begins anew'))
"""


async def call_id(page: Page, count: int) -> str:
    """The session's id, as the `count`th connection tells it."""
    created = await event(page, "session.created", count=count)
    return str(created["session"]["id"])


async def test_call_goes_on_when_its_engine_or_its_media_worker_dies(tmp_path: Path) -> None:
    mic = microphone(tmp_path / "mic.wav", [], 60)
    with Serving("--engine", "echo") as serving:
        async with browse(serving.url, mic) as page:
            await call(page)
            before = await call_id(page, 1)
            os.kill(serving.process("engine")["pid"], signal.SIGKILL)
            await page.wait_for_function(ENGINE_TOLD)
            await event(page, "session.resumed")
            os.kill(serving.process("worker")["pid"], signal.SIGKILL)
            assert await call_id(page, 2) == before
            await page.wait_for_function("() => window.omnicall.state === 'listening'")
            assert not await page.is_visible("#error")


async def test_killed_server_is_told(tmp_path: Path) -> None:
    mic = microphone(tmp_path / "mic.wav", [], 60)
    with Serving("--engine", "echo") as serving:
        async with browse(serving.url, mic) as page:
            await call(page)
            await page.wait_for_function("() => window.omnicall.stats().rtt_ms > 0")
            os.kill(serving.pid, signal.SIGKILL)
            await page.wait_for_selector("#state[data-state=reconnecting]")
