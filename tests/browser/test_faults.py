"""What the caller in a browser is told when a process of the server dies in the call."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.browser.chrome import browse, call
from tests.serving import Serving
from tests.speech import microphone


@pytest.mark.parametrize(("role", "within_ms"), [("engine", 3_000), ("worker", 5_000)])
async def test_dead_process_is_told_and_a_new_call_works(
    tmp_path: Path, role: str, within_ms: int
) -> None:
    mic = microphone(tmp_path / "mic.wav", [], 60)
    with Serving("--engine", "echo") as serving:
        async with browse(serving.url, mic) as page:
            await call(page)
            os.kill(serving.process(role)["pid"], signal.SIGKILL)
            await page.wait_for_selector("#error:visible", timeout=within_ms)
            kind = await page.get_attribute("#error", "data-kind")
            assert kind == f"ended_{role}_gone", kind
            assert "call again" in await page.inner_text("#error")
            await page.click("#error [data-action=call]")
            await page.wait_for_function("() => window.omnicall.state === 'listening'")


async def test_killed_server_is_told_within_five_seconds(tmp_path: Path) -> None:
    mic = microphone(tmp_path / "mic.wav", [], 60)
    with Serving("--engine", "echo") as serving:
        async with browse(serving.url, mic) as page:
            await call(page)
            await page.wait_for_function("() => window.omnicall.stats().rtt_ms > 0")
            os.kill(serving.pid, signal.SIGKILL)
            await page.wait_for_selector("#state[data-state=reconnecting]", timeout=5_000)
            await page.wait_for_selector("#error:visible", timeout=12_000)
            assert await page.get_attribute("#error", "data-kind") == "lost_away"
