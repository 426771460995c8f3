"""A real headless Chromium on the call page, with a file for a microphone."""

from __future__ import annotations

import base64
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from playwright.async_api import Page, async_playwright

from tests.speech import Samples
from tests.waiting import PATIENCE_S

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--use-fake-device-for-media-stream",
    "--autoplay-policy=no-user-gesture-required",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    # Without it a machine that has no address but loopback cannot call.
    "--allow-loopback-in-peer-connection",
)

BLOCK = 16_384
"""Large, because the page's own thread, which may be busy, moves the samples."""

RECORDER = """
() => {
  const context = new AudioContext({ sampleRate: 48000 });
  const merger = context.createChannelMerger(2);
  const node = context.createScriptProcessor(16384, 2, 1);
  const chunks = [];
  node.onaudioprocess = ({ inputBuffer }) => {
    for (const channel of [0, 1]) {
      const samples = inputBuffer.getChannelData(channel);
      chunks.push(Int16Array.from(samples, (s) => Math.max(-1, Math.min(1, s)) * 32767));
    }
  };
  merger.connect(node).connect(context.destination);
  const take = (stream, channel) =>
    context.createMediaStreamSource(stream).connect(merger, 0, channel);
  if (window.omnicall.call.microphone) {
    take(new MediaStream([window.omnicall.call.microphone]), 0);
  }
  take(document.getElementById('remote-audio').srcObject, 1);
  window.recording = { chunks, context };
  return { state: context.state, t: performance.now() };
}
"""

TAKE = """
() => {
  const { chunks } = window.recording;
  const bytes = new Uint8Array(chunks.length * 32768);
  chunks.forEach((chunk, i) => bytes.set(new Uint8Array(chunk.buffer), i * 32768));
  let text = '';
  for (let i = 0; i < bytes.length; i += 32768) {
    text += String.fromCharCode(...bytes.subarray(i, i + 32768));
  }
  return btoa(text);
}
"""


class Recording(NamedTuple):
    """Both sides of a call on one clock, 48 kHz, -1 to 1."""

    user: Samples
    assistant: Samples


def chromium() -> str | None:
    """Where Chromium is, None if it is not installed."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


@asynccontextmanager
async def browse(
    url: str,
    microphone: Path | None = None,
    *,
    flags: tuple[str, ...] = (),
    grant: bool = True,
    **context_options: Any,
) -> AsyncIterator[Page]:
    """A page at `url`; `microphone` is played once into the fake device."""
    arguments = [*FLAGS, *flags]
    if grant:
        arguments.append("--use-fake-ui-for-media-stream")
    if microphone is not None:
        arguments.append(f"--use-file-for-fake-audio-capture={microphone}%noloop")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=chromium(), headless=True, args=arguments
        )
        try:
            # What a page's worker fetches would pass the routes of a test by.
            options = {"service_workers": "block"} | context_options
            context = await browser.new_context(**options)
            context.set_default_timeout(PATIENCE_S * 1000)
            page = await context.new_page()
            await page.goto(url)
            yield page
        finally:
            await browser.close()


async def open_settings(page: Page) -> None:
    """Open, or close, the panel; what it can do is loaded when it is first opened."""
    await page.click("[aria-controls=settings]")
    await page.wait_for_selector("#settings:not([aria-busy=true])", state="attached")


async def call(page: Page) -> None:
    """Press Call and wait until the session is there."""
    await page.click("#call")
    await event(page, "session.created")


async def event(page: Page, kind: str, *, count: int = 1) -> dict[str, Any]:
    """Wait for the `count`th event of a type in the page's log; that event."""
    await page.wait_for_function(
        "([kind, count]) => window.omnicall.events.filter(e => e.type === kind).length >= count",
        arg=[kind, count],
    )
    found: dict[str, Any] = await page.evaluate(
        "([kind, count]) => window.omnicall.events.filter(e => e.type === kind)[count - 1]",
        [kind, count],
    )
    return found


async def events(page: Page) -> list[dict[str, Any]]:
    """The page's log."""
    found: list[dict[str, Any]] = await page.evaluate("() => window.omnicall.events")
    return found


async def record(page: Page) -> float:
    """Begin to record both sides; performance.now() at that moment, ms."""
    begun = await page.evaluate(RECORDER)
    assert begun["state"] == "running", begun
    return float(begun["t"])


async def recorded(page: Page) -> Recording:
    """What was recorded so far."""
    raw = np.frombuffer(base64.b64decode(await page.evaluate(TAKE)), np.int16)
    blocks = (raw.reshape(-1, 2, BLOCK) / 32768).astype(np.float32)
    return Recording(blocks[:, 0].reshape(-1), blocks[:, 1].reshape(-1))
