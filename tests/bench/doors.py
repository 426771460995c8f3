"""What sessions cost the server by each door: processor time of its processes, real clients.

    python -m tests.bench.doors --sessions 24 --seconds 20 --rounds 3 --json

Each client speaks again and again and hears the echo engine repeat what it said (over Live it is
silent). Time counts once all sessions are served, and only that of the front and the media worker:
what the engine does is the same. Clients are processes of their own. Doors take turns within a
round; the ratios are to WebRTC.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any

import psutil

from media import g711
from tests.caller import Caller
from tests.live_client import LiveStreamer
from tests.processes import role
from tests.serving import Serving
from tests.streamer import HZ, Streamer, speech

CLIENTS_A_PROCESS = 8
CHUNK_MS = {"websocket": 100, "websocket-20ms": 20, "websocket-pcmu": 100, "live": 100}
DOORS = ("peer", *CHUNK_MS)
HALF_DUPLEX: dict[str, Any] = {
    "type": "realtime",
    "audio": {"input": {"turn_detection": {"type": "server_vad"}}},
}
PCMU: dict[str, Any] = {"format": {"type": "audio/pcmu"}}
G711 = {
    "type": "realtime",
    "audio": {"input": {**HALF_DUPLEX["audio"]["input"], **PCMU}, "output": PCMU},
}
QUESTION = "what_time"
G711_HZ = 8_000
TRIES = 4
LEAD_S = 1.0
"""After all have begun to speak, before time counts."""

Talk = Callable[[float], Coroutine[Any, Any, dict[str, Any]]]


class Line:
    """Sound in messages, over a WebSocket. Use in a `with` block."""

    def __init__(self, door: str, url: str) -> None:
        self._chunk_ms = CHUNK_MS[door]
        self._is_live = door == "live"
        self._session = G711 if door == "websocket-pcmu" else HALF_DUPLEX
        self._client: Streamer = LiveStreamer(url) if self._is_live else Streamer(url)
        if door == "websocket-pcmu":
            self._sound = g711.encode(speech(QUESTION, G711_HZ).tobytes(), "mu")
            self._size = G711_HZ * self._chunk_ms // 1000
        else:
            self._sound = speech(QUESTION).tobytes()
            self._size = 2 * HZ * self._chunk_ms // 1000

    async def __aenter__(self) -> Line:
        client = await self._client.__aenter__()
        if isinstance(client, LiveStreamer):
            await client.start()
        else:
            await client.hears("session.created", timeout_s=60)
            await client.send("session.update", session=self._session)
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._client.__aexit__(*error)

    async def talk(self, seconds: float) -> dict[str, Any]:
        client, loop = self._client, asyncio.get_running_loop()
        name = "session.input_audio.append" if self._is_live else "input_audio_buffer.append"
        begun, at, n = loop.time(), 0, 0
        while loop.time() < begun + seconds:
            piece = self._sound[at : at + self._size]
            await client.send(name, audio=base64.b64encode(piece).decode())
            at = (at + self._size) % len(self._sound)
            n += 1
            await asyncio.sleep(max(0.0, begun + n * self._chunk_ms / 1000 - loop.time()))
        answers = len(client.of("response.done"))
        return {"answers": answers, "said_s": n * self._chunk_ms / 1000}


class Call(Caller):
    """A peer."""

    async def talk(self, seconds: float) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        begun, before = loop.time(), self.heard_samples
        while loop.time() < begun + seconds:
            self.voice.say(QUESTION)
            await asyncio.sleep(2.5)
        answers = sum(event["type"] == "response.done" for event in self.events)
        # Silence between the answers included: the track never stops.
        return {"answers": answers, "heard_s": (self.heard_samples - before) / 48_000}


async def placed(url: str, stack: AsyncExitStack) -> Call:
    """A call, placed again where a server without time to spare does not answer it soon."""
    for _ in range(TRIES):
        call = Call(url, session=HALF_DUPLEX)
        try:
            await stack.enter_async_context(call)
        except AssertionError as error:
            told = error
            await call.pc.close()
            continue
        await call.hears("session.created", timeout_s=60)
        return call
    raise told


async def clients(door: str, url: str, count: int, seconds: float) -> None:
    """Set all up, say so, and talk when told to."""
    async with AsyncExitStack() as stack:
        talks: list[Talk] = []
        for _ in range(count):
            if door == "peer":
                talks.append((await placed(url, stack)).talk)
            else:
                talks.append((await stack.enter_async_context(Line(door, url))).talk)
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        told = await asyncio.gather(*(talk(seconds + 2 * LEAD_S) for talk in talks))
        print(json.dumps(told), flush=True)


def server_cpu(pid: int) -> dict[str, float]:
    """Seconds that each process of the server has used, by what it is."""
    used: dict[str, float] = {"front": 0.0, "worker": 0.0}
    for process in psutil.Process(pid).children(recursive=True):
        name = role(process.pid)
        if name in used:
            times = process.cpu_times()
            used[name] += times.user + times.system
    return used


def start_clients(
    door: str, url: str, sessions: int, seconds: float
) -> list[subprocess.Popen[str]]:
    """Processes whose sessions are all served, set up one after another."""
    started = []
    for first in range(0, sessions, CLIENTS_A_PROCESS):
        count = min(CLIENTS_A_PROCESS, sessions - first)
        arguments = ["--as-clients", door, url, str(count), str(seconds)]
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.doors", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        if process.stdout.readline().strip() != "ready":
            raise RuntimeError("the clients of a process could not be set up")
        started.append(process)
    return started


def measure(door: str, sessions: int, seconds: float) -> dict[str, Any]:
    options = ["--engine", "echo"]
    for setting in (
        f"engine.slots={sessions}",
        f"calls.max_per_remote={sessions}",
        # All are set up at once, of which a caller has a quarter.
        f"calls.max_connecting={4 * sessions}",
    ):
        options += ["--set", setting]
    with Serving(*options) as serving:
        processes = start_clients(door, serving.url, sessions, seconds)
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        time.sleep(LEAD_S)
        before, begun = server_cpu(serving.pid), time.monotonic()
        time.sleep(seconds)
        after, passed = server_cpu(serving.pid), time.monotonic() - begun
        talks = [talk for p in processes for talk in json.loads(p.communicate()[0] or "[]")]
    if len(talks) != sessions:
        raise RuntimeError(f"{door}: only {len(talks)} of {sessions} sessions lasted")
    cores = {name: round((after[name] - before[name]) / passed, 3) for name in after}
    return {
        "sessions": len(talks),
        "answers": sum(talk["answers"] for talk in talks),
        "said_s": round(statistics.mean(talk.get("said_s", passed) for talk in talks), 1),
        "cores": round(sum(cores.values()), 3),
        **cores,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--doors", default=",".join(DOORS))
    parser.add_argument("--json", action="store_true", help="the default, and all there is")
    parser.add_argument("--as-clients", nargs=4, metavar=("DOOR", "URL", "COUNT", "SECONDS"))
    options = parser.parse_args()
    if options.as_clients:
        door, url, count, seconds = options.as_clients
        asyncio.run(clients(door, url, int(count), float(seconds)))
        return
    doors = options.doors.split(",")
    rounds = [
        {door: measure(door, options.sessions, options.seconds) for door in doors}
        for _ in range(options.rounds)
    ]
    cores = {door: statistics.median(found[door]["cores"] for found in rounds) for door in doors}
    told: dict[str, Any] = {"cores": cores, "rounds": rounds}
    if "peer" in cores:
        told["ratio"] = {door: round(used / cores["peer"], 2) for door, used in cores.items()}
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
