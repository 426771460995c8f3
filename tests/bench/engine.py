"""The native engine under load, driven as production does: sound in real time, random phases.

    python -m tests.bench.engine --sessions 1,8,32 --mode omni --speaking 1.0 --seconds 60 \
        --context 8192 --filled --weights random --size full --device cuda --json

Prints one JSON object: for each load the time from the end of a unit's sound until it is done and
until its first sound, units that came late, stages beside what their bytes and operations need at
least at the rates measured in the same run. `--compare sequential` runs units of one session after
another without graphs and gives the ratio.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import json
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, get_args

import torch

from engine.admission import quantiles
from engine.config import KvCacheType, WeightsType
from engine.gpu.memory import GIB, left, limit
from engine.ipc import protocol as p
from engine.minicpmo.checkpoint import OmniModel, load
from engine.minicpmo.modes.unit_alignment import PHASES
from engine.minicpmo.runner import Runner
from engine.minicpmo.serving.scheduler import Scheduler
from engine.minicpmo.speech.pipeline import SpeechPipeline
from engine.minicpmo.speech.voices import VoiceLibrary
from tests.bench.engine_floors import Floors
from tests.bench.engine_load import LATE_MS, Call, Chat, Clock, Script, Waits, fill
from tests.bench.gpu import memory_gib
from tests.bench.kernels import traced
from tests.tiny_checkpoint import full_size_model, write_checkpoint

WARM_UP_S = 4.0
CHAT_TOKENS = 4000
CHAT_REPLY = 64
CHAT_PAUSE_S = 2.0
SHOW_S = 5.0
STUCK_S = 75.0
"""A load that takes this much longer than it should says where it stands and ends."""


def show(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def told(values: list[float]) -> dict[str, float]:
    if not values:
        return {}
    found = quantiles(values)
    return {"count": found.count, "p50": found.p50, "p95": found.p95, "p99": found.p99}


def device_gib(device: torch.device) -> dict[str, float]:
    """What the process has taken of the device, and what it may still take."""
    if device.type != "cuda":
        return {}
    free, total = torch.cuda.mem_get_info(device)
    found = {
        "process": total - free,
        "reserved": torch.cuda.memory_reserved(device),
        "allocated": torch.cuda.memory_allocated(device),
        "left": left(device),
    }
    return {name: round(count / GIB, 2) for name, count in found.items()}


class Load:
    """One load: so many sessions for so long."""

    def __init__(self, model: OmniModel, options: argparse.Namespace, calls: int, chats: int):
        self.options, self.waits = options, Waits()
        total = calls + chats
        voices = VoiceLibrary(model, "")
        runner = Runner(model, total, options.context, options.kv)
        pipeline = SpeechPipeline(
            model,
            total,
            max_prompt=max(voices.longest_prompt, options.prompt_frames),
            speech_context=options.speech_context,
            first_codes=options.first_codes,
        )
        voices.place(model)
        self.scheduler = Scheduler(runner, pipeline, voices, phases=options.phases)
        self.caches_gib = device_gib(model.device)
        started = time.perf_counter()
        self.scheduler.warm_up(lambda text: None)
        self.warm_up_s = time.perf_counter() - started
        self.warmed_up_gib = device_gib(model.device)
        self.script = Script(model.tokens, total, options.speaking, options.seed)
        runner.duplex.replay.force = self.script.choose
        # Most ids of a random model are no words: a reply would be over before it has a text.
        word = model.tokens.encode("a")[0]
        runner.turns.replay.force = lambda slots: [word] * len(slots)
        self.callers: list[Call | Chat] = []
        for slot in range(calls):
            self._call(slot)
        prompt = _prompt(model, min(CHAT_TOKENS, options.context // 2))
        for slot in range(calls, total):
            self._chat(slot, prompt)

    def _call(self, slot: int) -> None:
        call = Call(slot, self.script, self.waits, camera=self.options.mode in ("omni", "mixed"))
        options: dict[str, str | int | float | bool] = {"force_listen_count": 0}
        config = p.SessionConfig(options=options)
        self.scheduler.sessions.open(call.open(config))
        self.script.talks[slot] = self.scheduler.runner.duplex.sessions[slot]
        if self.options.filled:
            spread = 1 - 0.5 * (slot * 37 % 100) / 100
            fill(self.scheduler, slot, int(spread * self.options.context) - 100)
        self.callers.append(call)

    def _chat(self, slot: int, prompt: str) -> None:
        chat = Chat(slot, prompt, self.waits, pause_s=CHAT_PAUSE_S)
        config = p.SessionConfig(
            mode="turn_based",
            modalities=("text",),
            sampling=p.Sampling(seed=slot, max_output_tokens=CHAT_REPLY),
        )
        self.scheduler.sessions.open(chat.open(config))
        self.callers.append(chat)

    def run(self) -> dict[str, Any]:
        gc.collect()
        gc.freeze()
        show(
            f"warmed up in {self.warm_up_s:.1f} s, {memory_gib(self.scheduler.pipeline.device)} GiB"
        )
        clock = Clock(self.scheduler, self.callers, self.options.seed)
        self.scheduler.start()
        clock.start()
        time.sleep(WARM_UP_S)
        for caller in self.callers:
            caller.is_measured = True
        until = time.monotonic() + self.options.seconds
        while time.monotonic() < until:
            time.sleep(min(SHOW_S, self.options.seconds))
            done = self.waits.listen + self.waits.speak
            show(f"  {len(done)} units, p99 {told(done).get('p99', 0):.0f} ms")
        for caller in self.callers:
            caller.is_measured = False
        lag_ms, seconds = clock.worst_lag_ms, self.options.profile
        profile = {"profile": traced(seconds)} if seconds else {}
        clock.stop()
        self.scheduler.stop()
        gc.unfreeze()
        return self._outcome(lag_ms) | profile

    def _outcome(self, lag_ms: float) -> dict[str, Any]:
        waits = self.waits
        done = waits.listen + waits.speak
        runner, pipeline = self.scheduler.runner, self.scheduler.pipeline
        return {
            "warm_up_s": round(self.warm_up_s, 1),
            "unit_ms": told(done),
            "listening_unit_ms": told(waits.listen),
            "speaking_unit_ms": told(waits.speak),
            "first_sound_ms": told(waits.first_sound),
            "sound_ms": told(waits.sound),
            "chat_first_text_ms": told(waits.first_text),
            "late_units": sum(ms > LATE_MS for ms in done),
            "skipped_ms": waits.skipped_ms,
            "failed": waits.failed[:3],
            "stages_ms": {name: told(ms) for name, ms in sorted(waits.stages.items())},
            "graph_misses": runner.graphs.misses + pipeline.graphs.misses,
            "clock_lag_ms": round(lag_ms, 1),
            "longest_kv": max(runner.llm.kv.lengths),
            "mean_kv": round(statistics.mean(runner.llm.kv.lengths)),
            "peak_device_gib": memory_gib(runner.model.device),
            "taken_gib": {
                "with caches": self.caches_gib,
                "warmed up": self.warmed_up_gib,
                "at last": device_gib(runner.model.device),
            },
        }


def _prompt(model: OmniModel, tokens: int) -> str:
    word = "hello there "
    text = word * (tokens // len(model.tokens.encode(word)))
    return text.strip()


def _loads(options: argparse.Namespace) -> list[tuple[int, int]]:
    counts = [int(part) for part in options.sessions.split(",")]
    if options.mode == "chat":
        return [(0, count) for count in counts]
    chats = options.chats if options.mode == "mixed" else 0
    return [(count, chats) for count in counts]


def _model(options: argparse.Namespace, stack: ExitStack) -> OmniModel:
    if options.weights != "random":
        return load(
            Path(options.weights),
            device=options.device,
            weights=options.weights_dtype,
            show=show,
        )
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    if options.size == "full":
        return full_size_model(folder / "full", options.device, weights=options.weights_dtype)
    return load(
        write_checkpoint(folder / "tiny", seed=1),
        device=options.device,
        weights=options.weights_dtype,
        show=show,
    )


def sequential(model: OmniModel, options: argparse.Namespace) -> float:
    """Units one after another, no graphs, no batches: the mean of one that speaks, ms."""
    from tests.bench.native import Bench

    bench = Bench(model, 1, options.context, graphs=False)
    took = [bench.second(index) for index in range(16)]
    # The first four warm up, and every fourth one only listens.
    return statistics.mean(ms for index, ms in enumerate(took[4:], 5) if index % 4)


def compared(unit_ms: float, loads: dict[str, Any]) -> dict[str, Any]:
    """Seconds that the units of each load's second would take one after another."""
    shares = {}
    for name, load_ in loads.items():
        speaking = load_["speaking_unit_ms"].get("count", 0)
        calls = int(name.split()[0]) * speaking / max(1, load_["unit_ms"].get("count", 0))
        shares[name] = round(calls * unit_ms / 1000, 1)
    return {"speaking_unit_ms_mean": round(unit_ms, 1), "seconds_for_a_second": shares}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m tests.bench.engine")
    parser.add_argument("--sessions", default="1")
    parser.add_argument("--mode", choices=("omni", "audio", "chat", "mixed"), default="omni")
    parser.add_argument("--chats", type=int, default=2, help="typed conversations of mode mixed")
    parser.add_argument("--speaking", type=float, default=1.0, help="share of units that speak")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--context", type=int, default=8192)
    parser.add_argument("--filled", action="store_true", help="contexts are half full to full")
    parser.add_argument("--kv", choices=get_args(KvCacheType), default="auto")
    parser.add_argument("--weights-dtype", choices=get_args(WeightsType), default="auto")
    parser.add_argument(
        "--memory-gib", type=float, default=0.0, help="take no more of the GPU, as a smaller one"
    )
    parser.add_argument(
        "--prompt-frames", type=int, default=1, help="of the longest voice; 500 for uploaded ones"
    )
    parser.add_argument("--speech-context", type=int, default=1024)
    parser.add_argument("--phases", type=int, default=PHASES, help="0: units end where they may")
    parser.add_argument("--first-codes", type=int, default=9)
    parser.add_argument("--size", choices=("tiny", "full"), default="tiny")
    parser.add_argument("--weights", default="random", help="random, or a checkpoint folder")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--profile", type=float, default=0.0, help="trace the device for so many seconds more"
    )
    parser.add_argument("--compare", choices=("sequential",))
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    return parser.parse_args()


def main() -> int:
    options = parse()
    with ExitStack() as stack:
        started = time.perf_counter()
        model = _model(options, stack)
        if options.memory_gib:
            # To draw weights takes more than to load them.
            torch.cuda.empty_cache()
            limit(torch.device(options.device), options.memory_gib)
        floors = Floors(model, options.kv)
        result: dict[str, Any] = {
            "build_s": round(time.perf_counter() - started, 1),
            "model_gib": device_gib(model.device),
            "mode": options.mode,
            "speaking": options.speaking,
            "rates": floors.rates(),
            "loads": {},
        }
        for calls, chats in _loads(options):
            show(f"{calls} calls, {chats} chats")
            faulthandler.dump_traceback_later(options.seconds + STUCK_S, exit=True)
            load_ = Load(model, options, calls, chats)
            outcome = load_.run()
            rows = -(-max(1, calls) // max(1, options.phases))
            outcome["floors_ms"] = floors.beside(outcome, rows, options.speaking)
            result["loads"][f"{calls} calls, {chats} chats"] = outcome
            show(json.dumps(outcome))
            del load_
            gc.collect()
            if model.device.type == "cuda":
                torch.cuda.empty_cache()
        faulthandler.cancel_dump_traceback_later()
        if options.compare:
            result["sequential"] = compared(sequential(model, options), result["loads"])
    print(json.dumps(result) if options.json else json.dumps(result, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
