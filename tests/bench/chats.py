"""What chats cost the calls beside them: lateness of a call's sound, alone and with many chats.

    python -m tests.bench.chats --chats 20 --rounds 3 --json

The chats come from a process of their own, half of them spoken, each followed by the next. The call
tells when each 20 ms of its sound came, compared with an even clock that begins with the earliest.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from typing import Any

import aiohttp
import numpy as np
from aiortc import MediaStreamTrack
from aiortc.mediastreams import MediaStreamError

from tests import ROOT
from tests.caller import Caller
from tests.serving import Serving

QUESTION = "tell me a story"
SETTLE_S = 1.0
FRAME_S = 0.02
ROLES = ("worker", "front", "engine")


class TimedCaller(Caller):
    """Notes when each frame of sound came."""

    def __init__(self, url: str) -> None:
        super().__init__(url, session={"type": "realtime"})
        self.came: list[float] = []

    async def _consume(self, track: MediaStreamTrack) -> None:
        while True:
            try:
                await track.recv()
            except MediaStreamError:
                return
            self.came.append(time.perf_counter())


def lateness_ms(came: list[float]) -> dict[str, float]:
    """How late frames were, against the earliest."""
    late = (np.array(came) - FRAME_S * np.arange(len(came))) * 1000
    late -= late.min()
    p50, p99 = (round(float(np.percentile(late, q)), 1) for q in (50, 99))
    return {"frames": len(came), "p50": p50, "p99": p99, "max": round(float(late.max()), 1)}


async def chat(http: aiohttp.ClientSession, url: str, number: int, ends_at: float) -> list[float]:
    """Chat until then; how long each answer took, in s."""
    body: dict[str, Any] = {
        "model": "omnicall",
        "messages": [{"role": "user", "content": QUESTION}],
        "stream": True,
    }
    if number % 2:
        body |= {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "pcm16"}}
    took = []
    while time.monotonic() < ends_at:
        begun = time.monotonic()
        async with http.post(f"{url}v1/chat/completions", json=body) as answer:
            text = await answer.text()
        if text.endswith("[DONE]\n\n"):
            took.append(time.monotonic() - begun)
    return took


async def load(url: str, chats: int, seconds: float) -> dict[str, Any]:
    """The other process: answers and how long they took."""
    ends_at = time.monotonic() + seconds
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        each = await asyncio.gather(*(chat(http, url, n, ends_at) for n in range(chats)))
    took = [s for one in each for s in one]
    p50 = round(float(np.percentile(took, 50)), 2) if took else None
    return {"answers": len(took), "p50_s": p50}


async def measure(chats: int, seconds: float, rounds: int) -> dict[str, Any]:
    found: dict[str, Any] = {"chats": chats, "seconds": seconds, "alone": [], "beside_chats": []}
    with Serving("--engine", "builtin") as server:
        caller = TimedCaller(server.url)
        async with caller:
            await caller.hears("session.created")
            for _ in range(rounds):
                for name in ("alone", "beside_chats"):
                    other = None
                    if name == "beside_chats":
                        other = await _start(server.url, chats, seconds + 2 * SETTLE_S)
                    await asyncio.sleep(SETTLE_S)
                    row = await _phase(server, caller, seconds)
                    if other is not None:
                        told, _ = await other.communicate()
                        row |= json.loads(told)
                    found[name].append(row)
    return found


async def _phase(server: Serving, caller: TimedCaller, seconds: float) -> dict[str, Any]:
    """Lateness, and of each process the longest standstill of its loop and its share of a core."""
    before = {role: await asyncio.to_thread(server.process, role) for role in ROLES}
    caller.came.clear()
    await asyncio.sleep(seconds)
    row: dict[str, Any] = {"lateness_ms": lateness_ms(caller.came)}
    for role in ROLES:
        after = await asyncio.to_thread(server.process, role)
        share = (after["cpu_s"] - before[role]["cpu_s"]) / seconds
        row[role] = {"lag_ms": after["loop_lag_ms"], "cpu": round(share, 3)}
    return row


async def _start(url: str, chats: int, seconds: float) -> asyncio.subprocess.Process:
    wanted = ("--load", url, "--chats", str(chats), "--seconds", str(seconds))
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.bench.chats", *wanted),
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chats", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="on one line")
    parser.add_argument("--load", metavar="URL", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.load:
        print(json.dumps(asyncio.run(load(asked.load, asked.chats, asked.seconds))))
        return
    found = asyncio.run(measure(asked.chats, asked.seconds, asked.rounds))
    print(json.dumps(found, indent=None if asked.json else 2))


if __name__ == "__main__":
    main()
