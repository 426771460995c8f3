"""Calls that come and go for a long time, and the slopes of what the processes hold."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct

import omnicall.client
from omnicall.client.peer import PeerCarrier
from tests.fuzz.oracles import Log
from tests.processes import table
from tests.serving import Serving
from tests.speech import DATA, read_wav

SAMPLE_S = 10.0
TELL_S = 60.0
WARM_UP_MIN = 15.0
LONG_MIN = 20.0
"""From this on the first quarter of an hour does not count."""
CALL_S = (15.0, 90.0)
PAUSE_S = (3.0, 9.0)
"""From one thing that a caller says or types to the next."""
SAYINGS = ("hello", "what_time", "seven_times_eight", "who", "date", "thanks", "tell_story")
TYPED = ("What is 3 plus 4?", "Tell me a story", "What time is it?", "Count to ten")
VANISH = 0.2
"""Share of the calls that end without a word over HTTP."""
COUNTED = {
    "conversation.item.input_audio_transcription.completed": "transcripts",
    "conversation.item.input_audio_transcription.failed": "transcripts failed",
    "response.done": "answers",
}
MAX_RSS_MB_PER_H = 1.0
MAX_OTHERS_PER_H = 2.0
"""Threads, file descriptors and tasks; they go up and down with the calls."""


class Sample(Struct, frozen=True):
    at_s: float
    process: str
    values: dict[str, float]


class LeavingCarrier(PeerCarrier):
    """Closes its connection, and does not hang up."""

    async def close(self) -> None:
        await self.drop()


class Soak:
    """Owns the server and the callers; `samples` is what it saw."""

    def __init__(self, server: Serving, pace: float = 1.0) -> None:
        self._server = server
        self._pace = pace
        self._random = random.Random(1)
        self.samples: list[Sample] = []
        self.counts = dict.fromkeys(
            ("calls", "refused", "cut off", "transcripts", "transcripts failed", "answers"), 0
        )

    async def caller(self, number: int, until: float) -> None:
        """One who calls again and again."""
        await asyncio.sleep(number * 1.5)
        while time.monotonic() < until:
            try:
                await self._call(until)
            except (omnicall.client.Declined, omnicall.client.NoConnection):
                self.counts["refused"] += 1
                await asyncio.sleep(2.0)
            except omnicall.client.CallOver:
                self.counts["cut off"] += 1

    async def _call(self, until: float) -> None:
        ends = min(time.monotonic() + self._random.uniform(*CALL_S), until)
        transport: Any = "webrtc" if self._random.random() > VANISH else LeavingCarrier
        async with omnicall.client.call(
            self._server.url, transport=transport, reconnect=False
        ) as call:
            self.counts["calls"] += 1
            counting = asyncio.create_task(self._count(call))
            while time.monotonic() < ends:
                if self._random.random() < 0.7:
                    rate, samples = read_wav(DATA / f"{self._random.choice(SAYINGS)}.wav")
                    await call.say(samples, rate)
                else:
                    await call.write(self._random.choice(TYPED))
                await asyncio.sleep(self._pace * self._random.uniform(*PAUSE_S))
            if call.ending is not None:
                raise call.ending
        await counting

    async def _count(self, call: omnicall.client.Call) -> None:
        with contextlib.suppress(omnicall.client.CallOver):
            async for event in call.events:
                if event["type"] in COUNTED:
                    self.counts[COUNTED[event["type"]]] += 1

    async def watch(self, started: float, until: float) -> None:
        """Take a sample every few seconds."""
        told = started
        while (now := time.monotonic()) < until:
            with contextlib.suppress(OSError):
                await self._sample(now - started)
            if now - told > TELL_S:
                told = now
                latest = {s.process: s.values for s in self.samples[-12:]}
                print(f"{(now - started) / 60:.0f} min {self.counts} {latest}", file=sys.stderr)
                sys.stderr.flush()
            await asyncio.sleep(SAMPLE_S)

    async def _sample(self, at_s: float) -> None:
        _, found = await asyncio.to_thread(self._server.get, "/api/stats")
        names = {row["pid"]: row for row in found["processes"]}
        recognisers = []
        for one in table(self._server.pid):
            if one.role == "recogniser":
                recognisers.append(one.rss_kib / 1024)
                continue
            row = names.get(one.pid)
            if row is None:
                continue
            values = {"rss_mb": one.rss_kib / 1024, "threads": one.threads, "fds": one.fds}
            values["tasks"] = row.get("tasks", 0)
            values["file_mb"] = one.file_kib / 1024
            self.samples.append(Sample(at_s, f"{row['name']}/{one.pid}", values))
        if recognisers:
            # They come and go as they are needed, and grow to their size with their first words:
            # what the busiest one holds tells whether they keep anything.
            largest = {"rss_mb": max(recognisers)}
            self.samples.append(Sample(at_s, "recogniser, the largest", largest))


def slopes(samples: list[Sample], from_s: float) -> dict[str, dict[str, dict[str, float]]]:
    """Per process and quantity: the slope an hour, first, last, highest.

    The slope is the median over all pairs of samples (Theil and Sen): what grows all the time
    shows, one step of the allocator, which takes a megabyte at once, does not. `least_squares` has
    both.
    """
    return {
        process: {
            name: _line([(s.at_s, s.values[name]) for s in of if name in s.values])
            for name in of[0].values
        }
        for process, of in _by_process([s for s in samples if s.at_s >= from_s])
    }


def _by_process(samples: list[Sample]) -> Iterator[tuple[str, list[Sample]]]:
    for process in dict.fromkeys(s.process for s in samples):
        yield process, [s for s in samples if s.process == process]


def _line(points: list[tuple[float, float]]) -> dict[str, float]:
    x = np.array([at for at, _ in points]) / 3600
    y = np.array([value for _, value in points])
    slope = fitted = 0.0
    if len(points) > 2:
        fitted = float(np.polyfit(x, y, 1)[0])
        earlier, later = np.triu_indices(len(x), 1)
        slope = float(np.median((y[later] - y[earlier]) / (x[later] - x[earlier])))
    ends = {"first": float(y[:6].mean()), "last": float(y[-6:].mean()), "max": float(y.max())}
    told = {"per_hour": slope, "least_squares": fitted, **ends}
    return {name: round(value, 2) for name, value in told.items()}


def judged(found: dict[str, dict[str, dict[str, float]]], is_long: bool) -> list[str]:
    """What grows; a short soak says nothing about slopes."""
    if not is_long:
        return []
    # Pages of files, which the system takes back and reads again, are told to explain the rest.
    limits = {"rss_mb": MAX_RSS_MB_PER_H, "file_mb": math.inf}
    return [
        f"{process}: {name} grows by {line['per_hour']} an hour"
        for process, lines in found.items()
        for name, line in lines.items()
        if line["per_hour"] > limits.get(name, MAX_OTHERS_PER_H)
    ]


async def run(minutes: float, calls: int, pace: float = 1.0) -> dict[str, Any]:
    """Soak a server of its own; at a pace of 2 callers wait twice as long before they speak."""
    with tempfile.TemporaryDirectory(prefix="fs") as folder:
        path = Path(folder, "log")
        await asyncio.to_thread(path.touch)
        log = Log(path)
        environment = {"TMPDIR": folder}
        server = Serving("--set", f"engine.slots={calls + 2}", environment=environment, log=path)
        await asyncio.to_thread(server.__enter__)
        try:
            soak = Soak(server, pace)
            started = time.monotonic()
            until = started + minutes * 60
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(soak.watch(started, until))
                for number in range(calls):
                    tasks.create_task(soak.caller(number, until))
            _, stats = await asyncio.to_thread(server.get, "/api/stats")
        finally:
            await asyncio.to_thread(server.stop)
        from_s = WARM_UP_MIN * 60 if minutes > LONG_MIN else 0.0
        found = slopes(soak.samples, from_s)
        restarts = {p["name"]: p["restarts"] for p in stats["processes"] if p["restarts"]}
        faults = [*log.alarms(), *judged(found, minutes > LONG_MIN)]
        faults += [f"{name} was restarted {count} times" for name, count in restarts.items()]
        return {
            "minutes": minutes,
            "pace": pace,
            "from_min": from_s / 60,
            "counts": soak.counts,
            "ended": stats["calls_ended"],
            "slopes": found,
            "log_bytes": log.size,
            "faults": faults,
        }
