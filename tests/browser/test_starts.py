"""A page that is opened while the engine starts shows how far it is, and goes on by itself."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from playwright.async_api import Page, expect

from tests.browser.chrome import browse
from tests.processes import descendants, role
from tests.serving import Serving
from tests.speech import microphone

SIZES = ((1280, 800), (390, 844))
SHOTS = os.environ.get("OMNICALL_SCREENSHOTS", "")


@contextlib.contextmanager
def engine_that_starts(serving: Serving) -> Iterator[None]:
    """In the block the server's engine is dead and the next one is held up in its start."""

    def engines() -> set[int]:
        return {pid for pid in descendants(serving.pid) if role(pid) == "engine"}

    before = engines()
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    while not (started := engines() - before):
        pass
    for pid in started:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in started:
            os.kill(pid, signal.SIGCONT)


async def shoot(page: Page, name: str) -> None:
    """Pictures for people to look at, where they are asked for."""
    for width, height in SIZES if SHOTS else ():
        await page.set_viewport_size({"width": width, "height": height})
        await page.screenshot(path=f"{SHOTS}/{name}-{width}.png")


async def test_page_opened_during_the_start_shows_it_and_learns_when_it_is_over(
    tmp_path: Path,
) -> None:
    mic = microphone(tmp_path / "mic.wav", [], 60)
    with Serving("--engine", "echo") as serving:
        with engine_that_starts(serving):
            async with browse(serving.url, mic) as page:
                engine, hint = page.locator("#engine-text"), page.locator("#hint")
                await expect(engine).to_contain_text(
                    "The engine is starting: loading the program, for 00:"
                )
                await expect(page.locator("#state")).to_have_text("Not ready yet")
                await shoot(page, "idle")
                admin = await page.context.new_page()
                await admin.goto(serving.url + "admin")
                await admin.wait_for_selector(
                    "#processes td:has-text('loading the program, for 00:')"
                )
                await shoot(admin, "admin")
                await page.click("#call")
                await page.wait_for_function("() => window.omnicall.state === 'queued'")
                await expect(hint).to_contain_text("The engine is starting")
                await shoot(page, "queued")
                for pid in descendants(serving.pid):
                    if role(pid) == "engine":
                        os.kill(pid, signal.SIGCONT)
                await page.wait_for_function("() => window.omnicall.state === 'listening'")
                await expect(engine).not_to_contain_text("starting")
                await admin.wait_for_selector("tr[data-key='engine/engine-0'] td[data-tone=good]")
