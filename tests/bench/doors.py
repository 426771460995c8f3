"""What sessions cost the server by each door: processor time of its processes.

    python -m tests.bench.doors --sessions 24 --seconds 20 --rounds 3 --json

Each client speaks again and again and hears the echo engine repeat what it said (over Live it is
silent). Time counts once all sessions are served, and only that of the front and the media worker:
what the engine does is the same. Clients are processes of their own, which send what was prepared
and decode nothing, so that they keep pace: `pace` is the least share of its time that one of them
had sent, and, of a peer, got as packets. Doors take turns within a round; the ratios are to WebRTC.
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
from functools import partial
from typing import Any

import numpy as np
import psutil

import omnicall.client
from media import g711
from media.clock import Ticker
from media.hooks import AudioPacket
from tests.bench.packets import PacketCarrier, Voice, opus_packets
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
TURN_S = 4.0
"""The question and the pause behind it, in which it is answered."""
PACKETS_A_SECOND = 50
LEAD_S = 1.0
"""After all have begun to speak, before time counts."""

Talk = Callable[[float], Coroutine[Any, Any, dict[str, Any]]]


def asked(hz: int = HZ) -> bytes:
    """A question and a pause, PCM."""
    sound = speech(QUESTION, hz)
    return np.pad(sound, (0, round(TURN_S * hz) - len(sound))).tobytes()


class _Counting:
    """In the place of a client that checks each event: counts sound, keeps the rest."""

    def _take(self: Any, text: str) -> None:
        if "audio.delta" in text[:64]:
            return
        self.events.append(json.loads(text))
        self._changed.set()


class Stream(_Counting, Streamer):
    pass


class LiveStream(_Counting, LiveStreamer):
    pass


class Line:
    """Prepared messages over a WebSocket. Use in a `with` block."""

    def __init__(self, door: str, url: str) -> None:
        self._chunk_s = CHUNK_MS[door] / 1000
        self._is_live = door == "live"
        self._session = G711 if door == "websocket-pcmu" else HALF_DUPLEX
        self._client: Streamer = LiveStream(url) if self._is_live else Stream(url)
        if door == "websocket-pcmu":
            sound, size = g711.encode(asked(G711_HZ), "mu"), round(G711_HZ * self._chunk_s)
        else:
            sound, size = asked(), round(2 * HZ * self._chunk_s)
        name = "session.input_audio.append" if self._is_live else "input_audio_buffer.append"
        pieces = [base64.b64encode(sound[at : at + size]) for at in range(0, len(sound), size)]
        self._messages = [json.dumps({"type": name, "audio": p.decode()}) for p in pieces]

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
        begun, n = loop.time(), 0
        while loop.time() < begun + seconds:
            await client.socket.send(self._messages[n % len(self._messages)])
            n += 1
            await asyncio.sleep(max(0.0, begun + n * self._chunk_s - loop.time()))
        passed = loop.time() - begun
        return {"answers": len(client.of("response.done")), "pace": n * self._chunk_s / passed}


class Call:
    """Prepared packets over a peer connection. Use in a `with` block."""

    def __init__(self, url: str, packets: list[bytes], ticker: Ticker) -> None:
        self._voice = Voice(packets, [], ticker)
        self._heard = 0
        carry = partial(PacketCarrier, tracks=[self._voice], heard=self._take)
        self._call = omnicall.client.call(
            url.partition("?")[0], session=HALF_DUPLEX, transport=carry, reconnect=False
        )

    async def __aenter__(self) -> Call:
        await self._call.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._call.__aexit__(None, None, None)

    def _take(self, packet: AudioPacket) -> None:
        del packet
        self._heard += 1

    async def talk(self, seconds: float) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        begun, sent, heard = loop.time(), self._voice.sent, self._heard
        await asyncio.sleep(seconds)
        expected = PACKETS_A_SECOND * (loop.time() - begun)
        pace = min(self._voice.sent - sent, self._heard - heard) / expected
        await self._call.hang_up()
        answers = [event async for event in self._call.events if event["type"] == "response.done"]
        return {"answers": len(answers), "pace": pace}


async def placed(url: str, packets: list[bytes], ticker: Ticker, stack: AsyncExitStack) -> Call:
    """A call, placed again where a server without time to spare does not answer it soon."""
    told: omnicall.client.ClientError | None = None
    for _ in range(TRIES):
        try:
            return await stack.enter_async_context(Call(url, packets, ticker))
        except omnicall.client.ClientError as error:
            told = error
    assert told is not None
    raise told


async def clients(door: str, url: str, count: int, seconds: float) -> None:
    """Set all up, say so, and talk when told to."""
    ticker = Ticker(phases=4)
    async with AsyncExitStack() as stack:
        talks: list[Talk] = []
        packets = opus_packets(asked()) if door == "peer" else []
        for _ in range(count):
            if door == "peer":
                talks.append((await placed(url, packets, ticker, stack)).talk)
            else:
                talks.append((await stack.enter_async_context(Line(door, url))).talk)
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        told = await asyncio.gather(*(talk(seconds + 2 * LEAD_S) for talk in talks))
        print(json.dumps(told), flush=True)
    ticker.close()


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
        "pace": round(min(talk["pace"] for talk in talks), 3),
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
    pace = {door: min(found[door]["pace"] for found in rounds) for door in doors}
    told: dict[str, Any] = {"cores": cores, "pace": pace, "rounds": rounds}
    if "peer" in cores:
        told["ratio"] = {door: round(used / cores["peer"], 2) for door, used in cores.items()}
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
