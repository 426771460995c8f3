"""The native engine by itself: seconds of omni conversation, stage by stage.

    python -m tests.bench.native --size full --device cuda --sessions 1 --units 60 --json

Weights are random, so what is said is scripted: two units of five words, one that ends the turn,
one that listens, and again. All sessions' units are due at the same moment. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.admission import quantiles
from engine.ipc import protocol as p
from engine.minicpmo.checkpoint import OmniModel, load
from engine.minicpmo.models.unit import RELEASED_UNIT
from engine.minicpmo.modes.full_duplex import FullDuplex
from engine.minicpmo.modes.modes import step
from engine.minicpmo.runner import Runner
from engine.minicpmo.session.session import Session
from engine.minicpmo.speech.pipeline import SpeechPipeline
from engine.minicpmo.speech.voices import VoiceLibrary
from engine.minicpmo.speech.worker import SpeechChunk, SpeechWorker
from tests.tiny_checkpoint import full_size_model, write_checkpoint

UNIT_SAMPLES = RELEASED_UNIT.samples(16_000)

WORDS = 5
PARTS = ("listen", "speak", "speak", "end of turn")
CAMERA = (640, 480)


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Script:
    """Decides for the random model: what each step of each slot's unit chooses."""

    def __init__(self, model: OmniModel) -> None:
        self._tokens = model.tokens
        self._word = model.tokens.encode("a")[0]
        self.unit = 0
        self._step: dict[int, int] = {}

    @property
    def part(self) -> str:
        return PARTS[self.unit % len(PARTS)]

    def next_unit(self) -> None:
        self.unit += 1
        self._step.clear()

    def choose(self, slots: list[int]) -> list[int]:
        chosen = []
        for slot in slots:
            step = self._step.get(slot, 0)
            self._step[slot] = step + 1
            chosen.append(self._id(step))
        return chosen

    def _id(self, step: int) -> int:
        tokens = self._tokens
        if self.part == "listen":
            return tokens.listen
        spoken = [tokens.speak, *[self._word] * WORDS]
        spoken += [tokens.turn_eos] if self.part == "end of turn" else []
        return spoken[step] if step < len(spoken) else tokens.chunk_eos


class Bench:
    """Sessions over one runner, and when their messages came."""

    def __init__(
        self, model: OmniModel, sessions: int, max_context: int, *, graphs: bool = True
    ) -> None:
        voices = VoiceLibrary(model, "")
        self.runner = Runner(model, sessions, max_context)
        pipeline = SpeechPipeline(model, sessions, max_prompt=voices.longest_prompt)
        voices.place(model)
        self.speech = SpeechWorker(pipeline, self._spoken)
        self.runner.graphs.enabled &= graphs
        pipeline.graphs.enabled &= graphs
        started = time.perf_counter()
        self.runner.warm_up(lambda text: None)
        self.speech.warm_up(lambda text: None)
        self.warm_up_s = time.perf_counter() - started
        self.duplex = FullDuplex(self.runner, self.speech)
        self.script = Script(model)
        self.runner.duplex.replay.force = self.script.choose
        self.stages: dict[str, list[float]] = {}
        self.first_audio_ms: list[float] = []
        self.is_finite = True
        self._started = 0.0
        self._heard: set[str] = set()
        config = p.SessionConfig(
            options={"force_listen_count": 0}, sampling=p.Sampling(greedy=True, seed=1)
        )
        self.sessions = []
        for slot in range(sessions):
            session = Session(f"s{slot}", slot, config, slot, self._take, unit=RELEASED_UNIT)
            session.voice, _ = voices.choose("")
            if session.voice.base is not None:
                self.speech.set_voice(slot, session.voice.base)
            self.duplex.open(session)
            self.sessions.append(session)

    def second(self, index: int) -> float:
        """One unit of every session; how long until all are done, ms."""
        self.script.next_unit()
        sound = np.random.default_rng(index).integers(-800, 800, UNIT_SAMPLES, dtype=np.int16)
        width, height = CAMERA
        rgb = np.random.default_rng(index).bytes(width * height * 3)
        for session in self.sessions:
            session.given.see(p.ImageIn(session.id, 0, width, height, rgb))
            self.duplex.saw(session)
            session.audio_input.push(
                index * UNIT_SAMPLES, sound.tobytes(), for_units=True, over=False
            )
        self._started = time.perf_counter()
        self._heard.clear()
        while self._step() | self.speech.step():
            pass
        _synchronize(self.runner.model.device)
        rows = self.runner.llm
        self.is_finite &= all(bool(x[:-1].isfinite().all()) for x in (rows.hidden, rows.logits))
        return (time.perf_counter() - self._started) * 1000

    def _step(self) -> bool:
        started = self.duplex.start() or self.duplex.read_on() or self.duplex.look_ahead()
        return step(self.runner, (self.duplex,)) or started

    def _spoken(self, spoken: SpeechChunk) -> None:
        if spoken.error is not None:
            raise spoken.error
        spoken.request.on_chunk(spoken)

    def _take(self, message: p.FromEngine) -> None:
        if isinstance(message, p.UnitDone):
            for stage, ms in message.stages_ms.items():
                self.stages.setdefault(f"{message.decision} {stage}", []).append(ms)
        if isinstance(message, p.AudioOut):
            session = next(s for s in self.sessions if s.id == message.session)
            heard = message.pts + len(message.pcm) // 2
            # Played at once, so that pacing holds nothing back.
            session.output.heard(p.Heard(message.session, message.epoch, heard))
            if message.session not in self._heard:
                self._heard.add(message.session)
                self.first_audio_ms.append((time.perf_counter() - self._started) * 1000)


def measure(model: OmniModel, options: argparse.Namespace) -> dict[str, Any]:
    bench = Bench(model, options.sessions, options.context)
    warm_up = len(PARTS)
    for index in range(warm_up):
        bench.second(index)
    bench.stages.clear()
    bench.first_audio_ms.clear()
    took: dict[str, list[float]] = {part: [] for part in PARTS}
    for index in range(options.units):
        ms = bench.second(index + warm_up)
        took[bench.script.part].append(ms)
        if index % 10 == 9:
            progress(f"  unit {index + 1} of {options.units}: {ms:.0f} ms")

    def told(values: list[float]) -> dict[str, float]:
        return {k: getattr(quantiles(values), k) for k in ("count", "p50", "p95", "p99")}

    late = sum(ms > 1000 for values in took.values() for ms in values)
    return {
        "sessions": options.sessions,
        "warm_up_s": round(bench.warm_up_s, 1),
        "graph_misses": bench.runner.graphs.misses + bench.speech.pipeline.graphs.misses,
        "units": options.units,
        "all_finite": bench.is_finite,
        "unit_ms": {kind: told(values) for kind, values in took.items() if values},
        "first_audio_ms": told(bench.first_audio_ms) if bench.first_audio_ms else {},
        "stages_ms": {stage: told(values) for stage, values in sorted(bench.stages.items())},
        "units_slower_than_real_time": late,
        "kv_tokens": bench.runner.llm.length(0),
    }


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _memory(device: torch.device) -> dict[str, float]:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    found = {"peak_host_gib": round(peak, 2)}
    if device.type == "cuda":
        found["peak_device_gib"] = round(torch.cuda.max_memory_allocated(device) / 1024**3, 2)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m tests.bench.native")
    parser.add_argument("--size", choices=("tiny", "full"), default="tiny")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--sessions", type=int, default=1)
    parser.add_argument("--units", type=int, default=60)
    parser.add_argument("--context", type=int, default=8192)
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    with tempfile.TemporaryDirectory() as name:
        started = time.perf_counter()
        if options.size == "full":
            model = full_size_model(name, options.device)
        else:
            folder = write_checkpoint(Path(name) / "tiny", seed=1)
            model = load(folder, device=options.device, show=progress)
        build_s = time.perf_counter() - started
        result = {"size": options.size, "device": str(model.device), "build_s": round(build_s, 1)}
        result |= measure(model, options) | _memory(model.device)
    print(json.dumps(result) if options.json else json.dumps(result, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
