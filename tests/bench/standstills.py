"""Who holds an event loop longer than a packet may wait: stacks of the loop's thread meanwhile.

The loop says every few milliseconds that it is alive; a thread beside it looks at what the loop's
thread does when it has not said so for a while. Processor time tells a loop that works from one
that was not let run: a machine, or another thread, that stands still leaves it none.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

FOLDER = "OMNI_BENCH_STANDSTILLS"
"""The folder where each process writes a file of its name."""
BEAT_S = 0.005
LOOK_S = 0.002
LONG_S = 0.02
DEPTH = 14
MOST_SHOWN = 12


def stack_of(frame: FrameType | None) -> str:
    """Innermost first."""
    names: list[str] = []
    while frame is not None and len(names) < DEPTH:
        path = Path(frame.f_code.co_filename)
        names.append(f"{frame.f_code.co_name} ({path.parent.name}/{path.name}:{frame.f_lineno})")
        frame = frame.f_back
    return "; ".join(names)


class Standstills:
    """Watches the loop that it is made in; writes a line for each standstill."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "a", buffering=1, encoding="utf-8")  # noqa: SIM115 - for life
        self._thread = threading.get_ident()
        self._clock = time.pthread_getcpuclockid(self._thread)
        self._seen: list[str] = []
        self._blind_s = self._collected_s = self._collecting = 0.0
        self._beat = time.monotonic()
        self._spent = self._spent_now()
        gc.callbacks.append(self._collects)
        # Else the watcher sees only calls that let go of the interpreter by themselves.
        sys.setswitchinterval(0.0005)
        threading.Thread(target=self._watch, daemon=True, name="standstills").start()

    def _spent_now(self) -> tuple[float, float]:
        return time.clock_gettime(self._clock), time.process_time()

    def beat(self) -> None:
        """The loop is alive."""
        now, spent = time.monotonic(), self._spent_now()
        took_s = now - self._beat - BEAT_S
        if took_s > LONG_S:
            row = {
                "at": round(now, 4),
                "ms": round(1000 * took_s, 1),
                "loop_cpu_ms": round(1000 * (spent[0] - self._spent[0]), 1),
                "process_cpu_ms": round(1000 * (spent[1] - self._spent[1]), 1),
                "watcher_late_ms": round(1000 * self._blind_s, 1),
                "collected_ms": round(1000 * self._collected_s, 1),
                "stacks": self._seen,
            }
            self._file.write(json.dumps(row) + "\n")
        self._beat, self._spent = now, spent
        self._seen, self._blind_s, self._collected_s = [], 0.0, 0.0

    async def run(self) -> None:
        """Beat until cancelled."""
        while True:
            await asyncio.sleep(BEAT_S)
            self.beat()

    def _collects(self, phase: str, _: dict[str, Any]) -> None:
        now = time.monotonic()
        if phase == "start":
            self._collecting = now
        else:
            self._collected_s += now - self._collecting

    def _watch(self) -> None:
        while True:
            before = time.monotonic()
            time.sleep(LOOK_S)
            now = time.monotonic()
            self._blind_s = max(self._blind_s, now - before - LOOK_S)
            if now - self._beat > 2 * BEAT_S:
                self._seen.append(stack_of(sys._current_frames().get(self._thread)))


def told(folder: Path, begin: float, end: float) -> dict[str, Any]:
    """By process: how many and how long, where the time went, and the stacks seen most."""
    found: dict[str, Any] = {}
    for path in sorted(folder.iterdir()):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        rows = [row for row in rows if begin <= row["at"] <= end]
        if not rows:
            continue
        stacks = Counter(stack for row in rows for stack in row["stacks"])
        longest = sorted(rows, key=lambda row: -float(row["ms"]))
        found[path.name] = {"count": len(rows), "at": [row["at"] - begin for row in rows][:100]} | {
            name: round(sum(row[name] for row in rows), 1)
            for name in ("ms", "loop_cpu_ms", "process_cpu_ms", "watcher_late_ms", "collected_ms")
        }
        found[path.name] |= {"longest": longest[:3], "stacks": stacks.most_common(MOST_SHOWN)}
    return found


def canary() -> None:
    """A process that does nothing else: when it stands still, so does the machine."""

    async def live() -> None:
        await Standstills(Path(os.environ[FOLDER]) / sys.argv[1]).run()

    asyncio.run(live())


if __name__ == "__main__":
    canary()
