"""Latency and cost of the built-in engine at its interface: no network, no media path.

`python -m tests.bench.builtin [--utterances 10] [--sessions 1]` feeds spoken commands in real time,
20 ms at a time, and prints one JSON object. "End of speech" is the last 20 ms frame of the file
above -45 dBFS.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
import wave
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil

from engine.builtin.engine import BuiltinEngine
from engine.config import BuiltinConfig
from engine.hearing.vad import rms_db
from engine.ipc.protocol import (
    AudioIn,
    AudioOut,
    FromEngine,
    Heard,
    InputTranscript,
    Interrupt,
    ResponseDone,
    SessionConfig,
    SpeechStarted,
    SpeechStopped,
    UnitDone,
)

DATA = Path(__file__).parents[1] / "engine" / "data"
FILES = (
    "what_time", "seven_times_eight", "count_to_ten", "date", "who", "help", "thanks", "hello",
    "what_see", "open",
)  # fmt: skip
FRAME = 320
SILENCE = bytes(2 * FRAME)
ONSET_DB = -40.0
SPEECH_DB = -45.0
LEAD_S = 0.4
TAIL_S = 1.6


class Line:
    """A caller: speaks in real time, hears everything at once, keeps the times of all messages."""

    def __init__(self, engine: BuiltinEngine, name: str) -> None:
        self._name = name
        self._session = engine.open(name, 0, SessionConfig(), self._on_message)
        self.log: list[tuple[float, FromEngine]] = []
        self._pts = 0
        self._hears = True

    def _on_message(self, message: FromEngine) -> None:
        self.log.append((time.monotonic(), message))
        if isinstance(message, AudioOut) and self._hears:
            end = message.pts + len(message.pcm) // 2
            heard = Heard(self._name, message.epoch, end, final=message.last)
            asyncio.get_running_loop().call_soon(self._session.handle, heard)

    async def speak(self, frames: Sequence[bytes], *, hears: bool = True) -> list[float]:
        """Send the frames on an absolute 20 ms clock; return when each one was sent."""
        self._hears = hears
        begun, sent = time.monotonic(), []
        for index, frame in enumerate(frames):
            await asyncio.sleep(max(0.0, begun + index * 0.02 - time.monotonic()))
            self._session.handle(AudioIn(self._name, self._pts, frame))
            self._pts += FRAME
            sent.append(time.monotonic())
        return sent

    def first(self, kind: type[FromEngine], after: float) -> float | None:
        for at, message in self.log:
            is_partial = isinstance(message, InputTranscript) and not message.final
            if at >= after and isinstance(message, kind) and not is_partial:
                return at
        return None

    async def close(self) -> None:
        await self._session.close()


def load(name: str) -> tuple[list[bytes], int, int]:
    """Frames with silence around, and which of them are the first and the last of speech."""
    with wave.open(str(DATA / f"{name}.wav")) as file:
        pcm = file.readframes(file.getnframes())
    noise = np.random.default_rng(1).integers(-12, 12, size=FRAME * 200, dtype=np.int16)
    lead = [noise[i * FRAME : (i + 1) * FRAME].tobytes() for i in range(round(LEAD_S / 0.02))]
    tail = [noise[i * FRAME : (i + 1) * FRAME].tobytes() for i in range(round(TAIL_S / 0.02))]
    speech = [pcm[i : i + 2 * FRAME] for i in range(0, len(pcm) - 2 * FRAME, 2 * FRAME)]
    frames = lead + speech + tail
    onset = next(i for i, frame in enumerate(frames) if rms_db(frame) > ONSET_DB)
    last = max(i for i, frame in enumerate(frames) if rms_db(frame) > SPEECH_DB)
    return frames, onset, last


async def measure_answers(line: Line, count: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {"speech_stopped": [], "transcript": [], "first_audio": []}
    for index in range(count):
        frames, _, last = load(FILES[index % len(FILES)])
        sent = await line.speak(frames)
        # The last voiced frame is complete when it was sent.
        for name, kind in (
            ("speech_stopped", SpeechStopped),
            ("transcript", InputTranscript),
            ("first_audio", AudioOut),
        ):
            after = sent[last]
            at = line.first(kind, after)
            found[name].append(float("nan") if at is None else (at - after) * 1000)
    return found


async def measure_interruptions(line: Line, count: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {"speech_started": [], "interrupt": []}
    story, _, _ = load("tell_story")
    stop, onset, _ = load("what_time")
    for _ in range(count):
        await line.speak(story, hears=False)
        sent = await line.speak(stop, hears=False)
        # A frame's first sample was recorded 20 ms before the frame could be sent.
        after = sent[onset] - 0.02
        for name, kind in (("speech_started", SpeechStarted), ("interrupt", Interrupt)):
            at = line.first(kind, after)
            found[name].append(float("nan") if at is None else (at - after) * 1000)
    return found


def quantiles(values: Sequence[float]) -> dict[str, float]:
    array = np.array(values)
    missing = int(np.isnan(array).sum())
    array = array[~np.isnan(array)]
    if not len(array):
        return {"count": 0, "missing": missing}
    p50, p95, top = (float(np.percentile(array, q)) for q in (50, 95, 100))
    return {
        "count": len(array),
        "missing": missing,
        "p50": round(p50, 1),
        "p95": round(p95, 1),
        "max": round(top, 1),
    }


def memory() -> dict[str, float]:
    me = psutil.Process()
    children = me.children(recursive=True)
    return {
        "engine_rss_mb": round(me.memory_info().rss / 1e6, 1),
        "children": len(children),
        "children_pss_mb": round(sum(c.memory_full_info().pss for c in children) / 1e6, 1),
        "children_uss_mb": round(sum(c.memory_full_info().uss for c in children) / 1e6, 1),
    }


async def run(utterances: int, sessions: int) -> dict[str, object]:
    engine = BuiltinEngine(BuiltinConfig(), 1)
    begun = time.monotonic()
    await engine.start(lambda text: None)
    start_ms = (time.monotonic() - begun) * 1000
    lines = [Line(engine, f"bench-{index}") for index in range(sessions)]
    cpu = time.process_time()
    answers = await asyncio.gather(*(measure_answers(line, utterances) for line in lines))
    engine_cpu_s = time.process_time() - cpu
    interruptions = await asyncio.gather(*(measure_interruptions(line, 5) for line in lines))
    units = [m for line in lines for _, m in line.log if isinstance(m, UnitDone)]
    stages = {name for unit in units for name in unit.stages_ms}
    failed = [
        message.reason
        for line in lines
        for _, message in line.log
        if isinstance(message, ResponseDone) and message.status == "failed"
    ]
    result: dict[str, object] = {
        "sessions": sessions,
        "start_ms": round(start_ms, 1),
        "load_average": os.getloadavg()[0],
        "end_of_speech_to_ms": {
            name: quantiles([v for answer in answers for v in answer[name]]) for name in answers[0]
        },
        "onset_to_ms": {
            name: quantiles([v for one in interruptions for v in one[name]])
            for name in interruptions[0]
        },
        "stages_ms": {
            name: quantiles([u.stages_ms[name] for u in units if name in u.stages_ms])
            for name in sorted(stages)
        },
        "engine_loop_cpu_s": round(engine_cpu_s, 2),
        "failed": failed,
        **memory(),
    }
    for line in lines:
        await line.close()
    await engine.close()
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--utterances", type=int, default=10)
    parser.add_argument("--sessions", type=int, default=1)
    arguments = parser.parse_args()
    result = asyncio.run(run(arguments.utterances, arguments.sessions))
    print(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
