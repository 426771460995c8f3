"""How late a browser plays the first answers of a call.

    python -m tests.bench.first_answers [--device] [--wait 1.5] [firefox] [chromium]

The browser, headless, calls a real server on our page, and has short sentences repeated, the first
one `--wait` seconds after the call is served. Without `--device`, the machine's microphone, one is
made up that is quiet. Prints a line of JSON for each answer: how long after the server's word that
it is being sent it is heard (by the remote track's level), for how long the browser's jitter buffer
held its sound on average, and how many samples were concealed, and removed or inserted to catch up
or to wait. Timings hold for a quiet machine only.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from tests.bench.firefox import firefox
from tests.browser.chrome import browse
from tests.serving import Serving
from tests.waiting import PATIENCE_S

SENTENCES = ("one two three", "four five six", "seven eight nine", "ten eleven twelve")
QUIET_MICROPHONE = """
() => {
  navigator.mediaDevices.getUserMedia = async () => {
    const context = new AudioContext();
    const destination = context.createMediaStreamDestination();
    const source = context.createConstantSource();
    source.offset.value = 1e-5;
    source.connect(destination);
    source.start();
    return destination.stream;
  };
}
"""
LISTEN = """
() => {
  window.heard = { level: 0, at: [] };
  window.RTCPeerConnection = class extends RTCPeerConnection {
    constructor(...all) {
      super(...all);
      window.peer = this;
      this.addEventListener('track', ({ track }) => track.kind === 'audio' && window.listen(track));
    }
  };
  window.listen = (track) => {
    const context = new AudioContext();
    const analyser = context.createAnalyser();
    analyser.fftSize = 256;
    context.createMediaStreamSource(new MediaStream([track])).connect(analyser);
    const samples = new Float32Array(256);
    setInterval(() => {
      analyser.getFloatTimeDomainData(samples);
      if (Math.max(...samples) > 0.01) window.heard.at.push(performance.now());
    }, 5);
  };
}
"""
CALL = "() => document.getElementById('call').click()"
READY = "() => Boolean(window.omnicall && document.querySelector('#call:not([disabled])'))"
COUNT = "(kind) => window.omnicall?.events.filter((e) => e.type === kind).length ?? 0"
STATS = """
async () => {
  const rows = [...(await window.peer.getStats()).values()];
  return rows.find((row) => row.type === 'inbound-rtp' && row.kind === 'audio') ?? {};
}
"""
ASK = """
(text) => {
  const call = window.omnicall.call;
  window.heard.at = [];
  window.startedAt = null;
  const seen = window.omnicall.events.length;
  const watch = setInterval(() => {
    const since = window.omnicall.events.slice(seen);
    if (!since.some((e) => e.type === 'output_audio_buffer.started')) return;
    window.startedAt = performance.now();
    clearInterval(watch);
  }, 2);
  const input = document.getElementById('text');
  input.value = text;
  input.dispatchEvent(new Event('input', { bubbles: true }));
  input.form.requestSubmit();
}
"""
HEARD = "() => ({ started: window.startedAt, first: window.heard.at[0] ?? null })"


class Page(Protocol):
    """What both browsers can."""

    async def evaluate(self, function: str, argument: Any = None) -> Any: ...

    async def goto(self, url: str) -> Any: ...


@asynccontextmanager
async def opened(name: str, url: str, folder: Path, scripts: list[str]) -> AsyncIterator[Page]:
    if name == "firefox":
        async with firefox(folder) as page:
            for script in scripts:
                await page.prepare(script)
            await page.goto(url)
            yield page
    else:
        async with browse("about:blank") as page:
            for script in scripts:
                await page.add_init_script(f"({script})()")
            await page.goto(url)
            yield page


class Difference(NamedTuple):
    """Of two reports."""

    before: dict[str, Any]
    after: dict[str, Any]

    def of(self, name: str) -> float:
        return float(self.after.get(name, 0) - self.before.get(name, 0))


async def until(page: Page, function: str, argument: Any = None, least: int = 1) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while int(await page.evaluate(function, argument)) < least:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def answers(page: Page, wait_s: float) -> AsyncIterator[dict[str, Any]]:
    """Call, and have each sentence repeated."""
    await until(page, READY)
    await page.evaluate(CALL)
    await until(page, COUNT, "session.created")
    await asyncio.sleep(wait_s)
    before: dict[str, Any] = {}
    for number, sentence in enumerate(SENTENCES, 1):
        await page.evaluate(ASK, f"Repeat after me: {sentence}.")
        await until(page, COUNT, "output_audio_buffer.stopped", number)
        await asyncio.sleep(0.7)
        heard, after = await page.evaluate(HEARD), await page.evaluate(STATS)

        more = Difference(before, after)
        emitted = more.of("jitterBufferEmittedCount") or 1
        yield {
            "answer": number,
            "heard_after_ms": round(heard["first"] - heard["started"]) if heard["first"] else None,
            "held_ms": round(1000 * more.of("jitterBufferDelay") / emitted),
            "concealed": int(more.of("concealedSamples")),
            "removed": int(more.of("removedSamplesForAcceleration")),
            "inserted": int(more.of("insertedSamplesForDeceleration")),
        }
        before = after


async def main(names: list[str], has_device: bool, wait_s: float) -> None:
    scripts = [LISTEN] if has_device else [LISTEN, QUIET_MICROPHONE]
    with Serving("--set", "chat.slots=0") as server:
        for name in names:
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
                async with opened(name, server.url, Path(folder), scripts) as page:
                    async for row in answers(page, wait_s):
                        print(json.dumps({"browser": name} | row), flush=True)  # noqa: T201


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("browsers", nargs="*", default=["firefox", "chromium"])
    parser.add_argument("--device", action="store_true")
    parser.add_argument("--wait", type=float, default=1.5)
    given = parser.parse_args()
    asyncio.run(main(given.browsers, given.device, given.wait))
