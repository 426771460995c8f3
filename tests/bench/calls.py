"""Real calls to the native engine: the server as users run it, real peers, scripted decisions.

    python -m tests.bench.calls --calls 4 --seconds 20 --camera
    python -m tests.bench.calls --calls 64 --seconds 120 --camera --gpu --model DIR --json

`DIR`: `python -m tests.tiny_checkpoint DIR --size full --to-disk`; without it a tiny model. Callers
live in processes on cores of their own and send prepared packets. Prints one JSON object: at the
callers the timeline of the sound, the first sound of turns after the end of their unit and the
silence after an interruption; at the server the units before and after the contexts are full, what
was late or skipped, the capacity, processor time and memory of each process, the GPU's busy share.
`--gpu-busy` asks `nvidia-smi` for that share; `--profile` samples who holds the interpreter of the
engine, by py-spy where it is installed;
`--standstills` tells what media workers did while their loop stood still, and what two processes
that do nothing else saw, on the cores of the server and of the callers.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from engine.admission import quantiles
from tests.bench import standstills
from tests.bench.calls_profile import interpreter_shares
from tests.bench.calls_server import LOG, SPEAKING
from tests.serving import Serving

SERVER = (sys.executable, "-m", "tests.bench.calls_server")
CALLERS_A_PROCESS = 13
SAMPLE_S = 1.0
START_S = 0.15
"""Between the beginnings of two calls."""
FULL = 0.85
"""A context is full above this share of its limit: where it is, a tenth is freed at once."""
LATE_MS = 1000.0
FIRST_SOUND_S = 3.0
"""A turn whose first sound was not heard for so long is not counted among the first sounds."""
SETTLE_S = 4.0
RECOVERY_S = 20.0
"""Watched after an overload."""


def show(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def told(values: list[float]) -> dict[str, float]:
    if not values:
        return {"count": 0}
    found = quantiles(values)
    worst = round(max(values), 1)
    return {"count": found.count, "p50": found.p50, "p95": found.p95, "p99": found.p99} | {
        "worst": worst
    }


class Process:
    """A process of callers, which answers one JSON line to each."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, cores: set[int]) -> Process:
        def pin() -> None:
            os.sched_setaffinity(0, cores)

        return cls(
            await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.bench.calls_client"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=64 << 20,
                preexec_fn=pin,
            )
        )

    async def ask(self, command: str, **arguments: Any) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        line = json.dumps({"command": command, **arguments})
        self._process.stdin.write(line.encode() + b"\n")
        async with asyncio.timeout(60):
            return json.loads(await self._process.stdout.readline())

    async def stop(self) -> None:
        await self.ask("stop")
        await asyncio.wait_for(self._process.wait(), 20)


class Watch:
    """What the server says of itself each second, and the GPU's busy share where that is wanted.

    Asking the driver for that share takes half a second on some machines, and slows others down.
    """

    def __init__(self, server: Serving, *, has_gpu: bool) -> None:
        self._server = server
        self.samples: list[tuple[float, dict[str, Any]]] = []
        self._gpu: subprocess.Popen[str] | None = None
        if has_gpu and shutil.which("nvidia-smi"):
            fields = "--query-gpu=utilization.gpu,memory.used"
            command = ["nvidia-smi", fields, "--format=csv,noheader,nounits", "-l", "1"]
            self._gpu = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    async def run(self) -> None:
        while True:
            _, stats = await asyncio.to_thread(self._server.get, "/api/stats")
            self.samples.append((time.monotonic(), stats))
            await asyncio.sleep(SAMPLE_S)

    def gpu(self) -> dict[str, Any]:
        if self._gpu is None:
            return {}
        self._gpu.terminate()
        rows = [line.split(",") for line in self._gpu.communicate()[0].splitlines()]
        busy = [float(row[0]) for row in rows if len(row) == 2]
        used = [float(row[1]) for row in rows if len(row) == 2]
        if not busy:
            return {}
        return {"busy_percent_mean": round(statistics.mean(busy)), "memory_mib": max(used)}

    def processes(self, begin: float, end: float, calls: int) -> dict[str, Any]:
        inside = [(at, stats) for at, stats in self.samples if begin <= at <= end]
        if len(inside) < 2:
            return {}
        first, last = (
            {row["name"]: row for row in stats["processes"]} for _, stats in (inside[0], inside[-1])
        )
        elapsed = inside[-1][0] - inside[0][0]
        rows: dict[str, Any] = {}
        for name, row in last.items():
            if "cpu_s" in row and "cpu_s" in first.get(name, {}):
                cores = (row["cpu_s"] - first[name]["cpu_s"]) / elapsed
                lags = [
                    seen["loop_lag_ms"]
                    for _, stats in inside
                    for seen in stats["processes"]
                    if seen["name"] == name
                ]
                rows[name] = {
                    "cores": round(cores, 3),
                    "worst_lag_ms": max(lags),
                    "rss_mib": [r["rss_bytes"] >> 20 for r in (first[name], row)],
                }
        workers = sum(row["cores"] for name, row in rows.items() if name.startswith("worker"))
        lowest = min(stats["slots"]["capacity"] for _, stats in inside)
        return {
            "processes": rows,
            "workers_ms_per_call_second": round(workers * 1000 / max(1, calls), 1),
            "capacity": {"lowest": lowest, "last": inside[-1][1]["slots"]["capacity"]},
        }


def of_start(lines: list[str]) -> dict[str, float]:
    """When each step of the engine's start began, s; steps that differ in numbers are one."""
    steps: dict[str, float] = {}
    for line in lines:
        if found := re.match(r" *([\d.]+) s  engine-\d+: (.{1,80})", line):
            steps.setdefault(re.sub(r"\d[\d.,]*", "N", found[2]), float(found[1]))
    return steps


def read_log(path: Path, begin: float, end: float) -> tuple[list[Any], list[Any]]:
    """Units and turns of the measured time."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    units = [row for row in rows if row[0] == "unit" and begin <= row[1] <= end]
    turns = [row for row in rows if row[0] == "turn" and begin <= row[2] <= end - FIRST_SOUND_S]
    return units, turns


def of_units(units: list[Any], context: int) -> dict[str, Any]:
    """Units while contexts grow, and when they are full."""
    found: dict[str, Any] = {}
    for name, rows in (
        ("growing", [row for row in units if row[4] < FULL * context]),
        ("full", [row for row in units if row[4] >= FULL * context]),
    ):
        times = [row[3]["unit"] for row in rows]
        stages: dict[str, list[float]] = {}
        for row in rows:
            for stage, ms in row[3].items():
                stages.setdefault(stage, []).append(ms)
        found[name] = told(times) | {
            "late": sum(ms > LATE_MS for ms in times),
            "skipped_ms": sum(row[5] for row in rows),
            "stages_ms": {stage: told(ms) for stage, ms in sorted(stages.items())},
        }
    return found


def of_callers(results: list[dict[str, Any]], turns: list[Any], seconds: float) -> dict[str, Any]:
    by_id = {result["call_id"]: result for result in results}
    first, unheard = [], 0
    for _, call_id, due in turns:
        onsets = by_id[call_id]["onsets"] if call_id in by_id else []
        after = [at - due for at in onsets if 0 < at - due < FIRST_SOUND_S]
        unheard += not after
        first += [1000 * min(after)] if after else []
    packets = sum(result["packets"] for result in results)
    return {
        "failed": [result["failed"] for result in results if result["failed"]][:5],
        "packets_a_second": round(packets / seconds / max(1, len(results)), 2),
        "sounding": round(1 - sum(r["silent"] for r in results) / max(1, packets), 3),
        "gaps": sum(result["gaps"] for result in results),
        "late_packets": sum(len(result["late"]) for result in results),
        "worst_interval_ms": max((result["worst_ms"] for result in results), default=0.0),
        "first_sound_ms": told(first),
        "turns_without_onset": unheard,
        "silence_after_interruption_ms": told([ms for r in results for ms in r["hushed_ms"]]),
        "not_silent_after_interruption": sum(result["unhushed"] for result in results),
    }


def of_overload(
    path: Path, inside: set[str], times: tuple[float, float, float], samples: list[Any]
) -> dict[str, Any]:
    """Units of those who were there before, while more called and after these left."""
    begin, end, over = times
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    units = [row for row in rows if row[0] == "unit" and row[6] in inside and begin <= row[1]]

    def late(row: Any) -> bool:
        return bool(row[3]["unit"] > LATE_MS or row[5])

    last = max((row[1] - end for row in units if late(row) and row[1] > end), default=0.0)
    found: dict[str, Any] = {"on_time_after_s": round(last, 1)}
    for name, since, until in (("during", begin, end), ("after", end, over)):
        part = [row for row in units if since <= row[1] < until]
        spans = [stats["slots"] for at, stats in samples if since <= at < until]
        found[name] = told([row[3]["unit"] for row in part]) | {
            "late_share": round(sum(map(late, part)) / max(1, len(part)), 4),
            "skipped_ms": sum(row[5] for row in part),
            "capacity": [min(s["capacity"] for s in spans), max(s["capacity"] for s in spans)],
            "most_calls": max(s["used"] for s in spans),
        }
    return found


def cores_of(options: argparse.Namespace) -> tuple[set[int], set[int]]:
    """Those of the server and those of the callers; shared where there are too few."""
    cores = sorted(os.sched_getaffinity(0))
    count = options.caller_cores or len(cores) // 3
    if not 0 < count < len(cores):
        return set(cores), set(cores)
    return set(cores[:-count]), set(cores[-count:])


def ingest_cpu_s(engine: int) -> float:
    """Of the engine's ingest process, 0 where it has none; the engine's own figure includes it."""
    spent = [
        child.cpu_times()
        for child in psutil.Process(engine).children()
        if any("engine.ingest" in part for part in child.cmdline())
    ]
    return sum(times.user + times.system for times in spent)


async def place(clients: list[Process], options: argparse.Namespace, url: str, calls: int) -> None:
    """Begin so many calls, one after the other, spread over the processes."""
    for index in range(calls):
        process = clients[index % len(clients)]
        # One in each process speaks over the answers.
        speaks_over = index < len(clients)
        await process.ask("call", url=url, camera=options.camera, speaks_over=speaks_over)
        await asyncio.sleep(START_S)


async def start_canaries(options: argparse.Namespace) -> list[asyncio.subprocess.Process]:
    found = []
    for name, cores in zip(("server", "callers"), cores_of(options), strict=True):
        command = ["-m", standstills.__name__, f"nobody-on-cores-of-{name}"]
        process = await asyncio.create_subprocess_exec(sys.executable, *command)
        os.sched_setaffinity(process.pid, cores)
        found.append(process)
    return found


async def measure(server: Serving, log: Path, options: argparse.Namespace) -> dict[str, Any]:
    _, caller_cores = cores_of(options)
    canaries = await start_canaries(options) if options.standstills else []
    count = max(1, -(-options.calls // CALLERS_A_PROCESS))
    clients = [await Process.start(caller_cores) for _ in range(count)]
    watch = Watch(server, has_gpu=options.gpu and options.gpu_busy)
    watching = asyncio.create_task(watch.run())
    try:
        await place(clients, options, server.url, options.calls)
        await asyncio.sleep(SETTLE_S)
        await asyncio.gather(*(client.ask("mark") for client in clients))
        engine = server.process("engine")["pid"]
        begin, ingest = time.monotonic(), ingest_cpu_s(engine)
        show(f"  {options.calls} calls, {options.seconds:g} s")
        await asyncio.sleep(options.seconds)
        end, ingest = time.monotonic(), ingest_cpu_s(engine) - ingest
        answers = await asyncio.gather(*(client.ask("result") for client in clients))
        results = [call for answer in answers for call in answer["calls"]]
        overload = {}
        if options.extra:
            inside = {call["call_id"] for call in results}
            times = await overloaded(server.url, caller_cores, options)
            overload = {"overload": of_overload(log, inside, times, watch.samples)}
        profile = {}
        if options.profile:
            profile = {"interpreter": await interpreter_shares(engine, options.profile)}
    finally:
        watching.cancel()
        for process in canaries:
            process.terminate()
        for client in clients:
            await client.stop()
    if options.standstills:
        folder = Path(os.environ[standstills.FOLDER])
        profile |= {"standstills": standstills.told(folder, begin, end)}
    units, turns = read_log(log, begin, end)
    return {
        "calls": options.calls,
        "seconds": round(end - begin, 1),
        "camera": options.camera,
        "callers": of_callers(results, turns, end - begin),
        "units": of_units(units, options.context),
        "server": watch.processes(begin, end, options.calls),
        "ingest_cores": round(ingest / (end - begin), 3),
        "gpu": watch.gpu(),
    } | (overload | profile)


async def overloaded(
    url: str, cores: set[int], options: argparse.Namespace
) -> tuple[float, float, float]:
    """Let more call for a while; when they began, when they left, when that was over."""
    count = max(1, -(-options.extra // CALLERS_A_PROCESS))
    clients = [await Process.start(cores) for _ in range(count)]
    begin = time.monotonic()
    show(f"  {options.extra} more call for {options.extra_seconds:g} s")
    try:
        await place(clients, options, url, options.extra)
        await asyncio.sleep(max(0.0, begin + options.extra_seconds - time.monotonic()))
    finally:
        for client in clients:
            await client.stop()
    end = time.monotonic()
    await asyncio.sleep(RECOVERY_S)
    return begin, end, time.monotonic()


def settings(options: argparse.Namespace, model: Path) -> list[str]:
    device = "cuda" if options.gpu else "cpu"
    slots = options.slots or options.calls + options.extra
    found = ["--engine", "minicpmo", "--model", str(model)]
    for setting in (
        f"engine.slots={slots}",
        "engine.ready_timeout_s=600",
        f"minicpmo.device={device}",
        f"minicpmo.max_context={options.context}",
        f"minicpmo.kv_cache_dtype={options.kv}",
        f"media.workers={options.workers}",
        "calls.max_per_remote=10000",
        *options.set,
    ):
        found += ["--set", setting]
    return found


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m tests.bench.calls")
    parser.add_argument("--calls", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=20.0, help="measured, once all calls run")
    parser.add_argument("--camera", action="store_true", help="two pictures a second")
    parser.add_argument("--gpu", action="store_true", help="the model runs on the GPU")
    parser.add_argument("--model", default="", help="a checkpoint; without it a tiny one is made")
    parser.add_argument("--slots", type=int, default=0, help="0: as many as calls")
    parser.add_argument("--context", type=int, default=4096)
    parser.add_argument("--kv", default="auto")
    parser.add_argument("--speaking", type=float, default=0.6, help="share of spoken seconds")
    parser.add_argument("--workers", default="auto", help="media worker processes")
    parser.add_argument("--caller-cores", type=int, default=0, help="0: a third of them")
    parser.add_argument("--profile", type=float, default=0.0, help="seconds of sampling at the end")
    parser.add_argument("--gpu-busy", action="store_true", help="ask nvidia-smi each second")
    parser.add_argument("--standstills", action="store_true", help="watch loops of media workers")
    parser.add_argument("--extra", type=int, default=0, help="calls more than these, afterwards")
    parser.add_argument("--extra-seconds", type=float, default=60.0)
    parser.add_argument("--set", action="append", default=[], help="more settings of the server")
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    return parser.parse_args()


def main() -> int:
    options = parse()
    server_cores, _ = cores_of(options)
    os.sched_setaffinity(0, server_cores)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = Path(options.model)
        if not options.model:
            from tests.tiny_checkpoint import write_checkpoint

            model = write_checkpoint(folder / "tiny", seed=1)
        log = folder / "units"
        environment = {LOG: str(log), SPEAKING: str(options.speaking)}
        if options.standstills:
            os.environ[standstills.FOLDER] = str(folder / "standstills")
            (folder / "standstills").mkdir()
        started = time.monotonic()
        with Serving(*settings(options, model), command=SERVER, environment=environment) as server:
            ready_s = round(time.monotonic() - started, 1)
            show(f"ready after {ready_s} s")
            _, stats = server.get("/api/stats")
            result = {"ready_s": ready_s, "slots": stats["slots"]["total"]}
            result["start_s"] = of_start(server.lines)
            result |= asyncio.run(measure(server, log, options))
    print(json.dumps(result) if options.json else json.dumps(result, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
