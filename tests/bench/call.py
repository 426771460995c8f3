"""What a caller waits for, in a real headless Chromium, and whether calls leave anything behind.

    python -m tests.bench.call --json

Both sides are recorded on one clock in the page, so latencies do not depend on the events' way.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from playwright.async_api import Page

from tests.browser.chrome import browse, call, chromium, event, events, record, recorded
from tests.serving import Serving
from tests.speech import BROWSER_HZ, microphone, stretches

QUESTIONS = ("what_time", "hello", "thanks", "who", "date", "seven_times_eight", "help", "what_see")
TURN_S = 16.0
STORY_S = 18.0
TARGETS = {
    "offer_to_first_audio_p50": 600,
    "speech_end_to_answer_p50": 700,
    "barge_in_to_silence_p95": 300,
}

# Kept so that the statistics of the page's own peer connection can be read.
KEEP_PEER = """
const Native = window.RTCPeerConnection;
window.RTCPeerConnection = class extends Native {
  constructor(...options) { super(...options); window.peer = this; }
};
"""

FIRST_AUDIO = """
async () => {
  const stats = [...(await window.peer.getStats()).values()];
  const inbound = stats.find((s) => s.type === 'inbound-rtp' && s.kind === 'audio');
  return inbound && inbound.totalSamplesReceived > 0 ? performance.now() : null;
}
"""


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def percentiles(values: list[float]) -> dict[str, float]:
    return {
        "count": len(values),
        "p50": round(float(np.percentile(values, 50)), 1),
        "p95": round(float(np.percentile(values, 95)), 1),
        "max": round(max(values), 1),
    }


async def first_audio_ms(page: Page) -> float:
    """From posting the offer to the first samples out of the browser's jitter buffer."""
    await page.click("#call")
    posted = await event(page, "omnicall.offer_posted")
    while True:
        now = await page.evaluate(
            "() => window.peer && window.peer.connectionState !== 'closed' ? 1 : 0"
        )
        heard = await page.evaluate(FIRST_AUDIO) if now else None
        if heard is not None:
            return float(heard) - float(posted["t"])


async def setups(server: Serving, folder: Path, rounds: int) -> dict[str, float]:
    """Setting a call up, again and again, in a fresh page each time."""
    mic = microphone(folder / "quiet.wav", [], 10)
    found = []
    for index in range(rounds + 1):
        async with browse("about:blank", mic) as page:
            await page.add_init_script(KEEP_PEER)
            await page.goto(server.url)
            took_ms = await first_audio_ms(page)
            await page.click("#hangup")
        if index:
            found.append(took_ms)
        progress(f"  offer to first audio: {took_ms:.0f} ms{'' if index else ' (warm-up)'}")
    return percentiles(found)


async def answers(server: Serving, folder: Path, rounds: int) -> dict[str, float]:
    """From the end of each question to the first sample of its answer."""
    found: list[float] = []
    while len(found) < rounds:
        said = [(3.0 + TURN_S * i, name) for i, name in enumerate(QUESTIONS[:4])]
        if len(found) >= 4:
            said = [(3.0 + TURN_S * i, name) for i, name in enumerate(QUESTIONS[4:])]
        mic = microphone(folder / "questions.wav", said, 3 + TURN_S * len(said))
        async with browse(server.url, mic) as page:
            await call(page)
            await record(page)
            await asyncio.sleep(TURN_S * len(said) + 2)
            sound = await recorded(page)
        assistant = [begin for begin, _ in stretches(sound.assistant, BROWSER_HZ)]
        for _, end in stretches(sound.user, BROWSER_HZ, gap_s=0.6):
            after = [begin for begin in assistant if end < begin < end + 5]
            if after:
                found.append((after[0] - end) * 1000)
                progress(f"  end of speech to answer: {found[-1]:.0f} ms")
            else:
                progress(f"  no answer to the speech that ended at {end:.1f} s")
    return percentiles(found)


async def interruptions(server: Serving, folder: Path, rounds: int) -> dict[str, float]:
    """From the user's first sound over the answer to the answer's last sample."""
    found: list[float] = []
    while len(found) < rounds:
        said: list[tuple[float, str]] = []
        for index in range(3):
            said += [(3 + STORY_S * index, "tell_story"), (10.0 + STORY_S * index, "what_time")]
        mic = microphone(folder / "story.wav", said, 3 + STORY_S * 3)
        async with browse(server.url, mic) as page:
            await call(page)
            begun_ms = await record(page)
            await asyncio.sleep(STORY_S * 3 + 2)
            sound = await recorded(page)
            log = await events(page)
        cleared = [e["t"] - begun_ms for e in log if e["type"] == "output_audio_buffer.cleared"]
        user = [begin for begin, _ in stretches(sound.user, BROWSER_HZ, gap_s=0.8)]
        for at_ms in cleared:
            onset_s = max((b for b in user if b * 1000 < at_ms + 200), default=None)
            if onset_s is None:
                continue
            # The answer to the interruption itself cannot have begun by then.
            limit = int((at_ms + 350) * BROWSER_HZ / 1000)
            last_s = stretches(sound.assistant[:limit], BROWSER_HZ)[-1][1]
            if last_s > onset_s:
                found.append((last_s - onset_s) * 1000)
                progress(f"  barge-in to silence: {found[-1]:.0f} ms")
            else:
                progress("  the answer was between two sentences; not counted")
        if len(cleared) < 3:
            progress(f"  only {len(cleared)} of 3 answers were cut")
    return percentiles(found)


def resources(server: Serving) -> dict[str, dict[str, int]]:
    """Memory, threads, open files and tasks of the processes that calls pass through."""
    _, stats = server.get("/api/stats")
    found = {}
    for row in stats["processes"]:
        status = Path(f"/proc/{row['pid']}/status").read_text(encoding="ascii")
        fields = dict(line.split(":", 1) for line in status.splitlines())
        found[row["name"]] = {
            "rss_kb": int(fields["VmRSS"].split()[0]),
            "threads": int(fields["Threads"]),
            "files": len(list(Path(f"/proc/{row['pid']}/fd").iterdir())),
            "tasks": int(row.get("tasks", 0)),
        }
    return found


async def settled(server: Serving) -> dict[str, dict[str, int]]:
    """The resources once no call is open."""
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        _, stats = await asyncio.to_thread(server.get, "/api/stats")
        if not stats["calls"] and stats["slots"]["used"] == 0:
            break
        await asyncio.sleep(0.2)
    await asyncio.sleep(1.5)
    return await asyncio.to_thread(resources, server)


async def many(server: Serving, folder: Path, calls: int) -> dict[str, Any]:
    """Calls one after another in one page: what grows."""
    mic = microphone(folder / "quiet.wav", [], 10)
    warm_up = min(40, calls)
    async with browse(server.url, mic) as page:
        for index in range(warm_up + calls):
            if index == warm_up:
                before = await settled(server)
            elif index == warm_up + calls // 2:
                middle = await settled(server)
            await page.click("#call")
            await page.wait_for_function("() => window.omnicall.state === 'listening'")
            await page.click("#hangup")
            await page.wait_for_selector("#call:visible")
            if index % 20 == 19:
                progress(f"  {index + 1} of {warm_up + calls} calls")
        after = await settled(server)
    names = sorted(before)
    return {
        "calls": calls,
        "before": before,
        "after": after,
        "growth": {n: {k: after[n][k] - before[n][k] for k in before[n]} for n in names},
        "rss_kb_per_call_second_half": {
            n: round((after[n]["rss_kb"] - middle[n]["rss_kb"]) / (calls - calls // 2), 1)
            for n in names
        },
    }


async def measure(rounds: int, calls: int) -> dict[str, Any]:
    result: dict[str, Any] = {"targets_ms": TARGETS}
    with tempfile.TemporaryDirectory() as name, Serving() as server:
        folder = Path(name)
        progress("setting up calls")
        result["offer_to_first_audio_ms"] = await setups(server, folder, rounds)
        progress("answers")
        result["speech_end_to_answer_ms"] = await answers(server, folder, rounds)
        progress("interruptions")
        result["barge_in_to_silence_ms"] = await interruptions(server, folder, rounds)
        if calls:
            progress("many calls")
            result["many_calls"] = await many(server, folder, calls)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m tests.bench.call")
    parser.add_argument("--rounds", type=int, default=8, help="measurements of each latency")
    parser.add_argument("--calls", type=int, default=200, help="calls one after another; 0: none")
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    options = parser.parse_args()
    if chromium() is None:
        print("Chromium is missing: install it with `apt-get install chromium`", file=sys.stderr)
        return 1
    result = asyncio.run(measure(options.rounds, options.calls))
    print(json.dumps(result) if options.json else json.dumps(result, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
