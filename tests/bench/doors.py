"""What sessions cost the server by each door: processor time of its processes, real clients.

    python -m tests.bench.doors --sessions 24 --seconds 15 --json

Each client speaks again and again and hears the echo engine repeat what it said. Only the front and
the media worker count: what the engine does is the same. Clients are processes
of their own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
from typing import Any

import psutil

from tests.caller import Caller
from tests.processes import role
from tests.serving import Serving
from tests.streamer import HZ, Streamer, speech

CLIENTS_A_PROCESS = 8
CHUNK_MS = {"websocket": 100, "websocket-20ms": 20}
HALF_DUPLEX = {"type": "realtime", "audio": {"input": {"turn_detection": {"type": "server_vad"}}}}
QUESTION = "what_time"


async def by_websocket(url: str, seconds: float, chunk_ms: int) -> dict[str, Any]:
    pcm = speech(QUESTION).tobytes()
    size = 2 * HZ * chunk_ms // 1000
    async with Streamer(url) as client:
        await client.hears("session.created", timeout_s=60)
        await client.send("session.update", session=HALF_DUPLEX)
        loop = asyncio.get_running_loop()
        begun, at, n = loop.time(), 0, 0
        while loop.time() < begun + seconds:
            await client.say(pcm[at : at + size], size)
            at = (at + size) % len(pcm)
            n += 1
            await asyncio.sleep(max(0.0, begun + n * chunk_ms / 1000 - loop.time()))
        return {"answers": len(client.of("response.done")), "heard_s": len(client.sound) / 2 / HZ}


async def by_peer(url: str, seconds: float) -> dict[str, Any]:
    async with Caller(url, session=HALF_DUPLEX) as caller:
        await caller.hears("session.created", timeout_s=60)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        while loop.time() < begun + seconds:
            caller.voice.say(QUESTION)
            await asyncio.sleep(2.5)
        done = [event for event in caller.events if event["type"] == "response.done"]
        # Silence between the answers included: the track never stops.
        return {"answers": len(done), "heard_s": caller.heard_samples / 48_000}


async def clients(door: str, url: str, count: int, seconds: float) -> None:
    if door == "peer":
        talks = [by_peer(url, seconds) for _ in range(count)]
    else:
        talks = [by_websocket(url, seconds, CHUNK_MS[door]) for _ in range(count)]
    print(json.dumps(await asyncio.gather(*talks)))


def server_cpu(pid: int) -> dict[str, float]:
    """Seconds that each process of the server has used, by what it is."""
    used: dict[str, float] = {"front": 0.0, "worker": 0.0}
    for process in psutil.Process(pid).children(recursive=True):
        name = role(process.pid)
        if name in used:
            times = process.cpu_times()
            used[name] += times.user + times.system
    return used


def measure(door: str, sessions: int, seconds: float) -> dict[str, Any]:
    options = (
        "--engine",
        "echo",
        "--set",
        f"engine.slots={sessions}",
        "--set",
        f"calls.max_per_remote={sessions}",
        "--set",
        # All are set up at once, of which a caller has a quarter.
        f"calls.max_connecting={4 * sessions}",
    )
    with Serving(*options) as serving:
        before = server_cpu(serving.pid)
        processes = []
        for first in range(0, sessions, CLIENTS_A_PROCESS):
            count = min(CLIENTS_A_PROCESS, sessions - first)
            arguments = ["--as-clients", door, serving.url, str(count), str(seconds)]
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "tests.bench.doors", *arguments],
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
        talks = [talk for p in processes for talk in json.loads(p.communicate()[0] or "[]")]
        after = server_cpu(serving.pid)
    return {
        "sessions": len(talks),
        "answers": sum(talk["answers"] for talk in talks),
        "heard_s": round(sum(talk["heard_s"] for talk in talks), 1),
        "cpu_s": {name: round(after[name] - before[name], 2) for name in after},
        "cores": round(sum(after[n] - before[n] for n in after) / seconds, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--doors", default="peer,websocket,websocket-20ms")
    parser.add_argument("--json", action="store_true", help="the default, and all there is")
    parser.add_argument("--as-clients", nargs=4, metavar=("DOOR", "URL", "COUNT", "SECONDS"))
    options = parser.parse_args()
    if options.as_clients:
        door, url, count, seconds = options.as_clients
        asyncio.run(clients(door, url, int(count), float(seconds)))
        return
    doors = options.doors.split(",")
    print(json.dumps({d: measure(d, options.sessions, options.seconds) for d in doors}, indent=1))


if __name__ == "__main__":
    main()
