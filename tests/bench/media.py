"""Compare the media path with stock aiortc: CPU for each call, and what loss and jitter do.

    python -m tests.bench.media --calls 8 --seconds 15 --loss --json

The server runs in a process of its own, with our classes or with aiortc's decoder, resampler and
encoder, one after the other in balanced order; one client process per run sends the same
pre-encoded Opus with FEC and receives the downlink. Both directions carry speech all the time.
Progress goes to stderr.
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
from typing import Any

from tests.bench.media_client import run_client
from tests.bench.media_server import run_server

WARM_UP_S = 3.0
ORDER = ("ours", "stock", "stock", "ours")
"""Balanced, so that a machine that grows busier or calmer favours neither."""
LOSS_CALLS = 2
PHASES_S = {"before": (1.0, 4.0), "during": (4.0, 10.0), "after": (11.0, 15.0)}
LOSS_CASES = {"clean": (0.0, 0.0), "loss 5 %": (0.05, 0.0), "jitter 30 ms": (0.0, 0.030)}
LOSS_CASES["loss 5 %, jitter 30 ms"] = (0.05, 0.030)


class Process:
    """A server or client process that answers one JSON line to each."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, *args: str) -> "Process":
        """Start this program in the given role."""
        return cls(
            await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.bench.media", *args),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=64 << 20,
            )
        )

    async def ask(self, command: str, **arguments: Any) -> Any:
        """Send a command and return its answer."""
        assert self._process.stdin is not None and self._process.stdout is not None
        line = json.dumps({"command": command, **arguments})
        self._process.stdin.write(line.encode() + b"\n")
        answer = await asyncio.wait_for(self._process.stdout.readline(), 30)
        return json.loads(answer)

    async def stop(self) -> None:
        """End the process."""
        await self.ask("stop")
        await asyncio.wait_for(self._process.wait(), 10)


def progress(text: str) -> None:
    """Tell a waiting person what goes on."""
    print(text, file=sys.stderr, flush=True)


async def start_calls(kind: str, num_calls: int) -> tuple[Process, Process]:
    """Start a server and a client and connect their calls."""
    server = await Process.start("--role", "server", "--kind", kind)
    client = await Process.start("--role", "client")
    for _ in range(num_calls):
        offer = await client.ask("offer")
        answer = await server.ask("answer", sdp=offer["sdp"])
        await client.ask("accept", sdp=answer["sdp"])
    return server, client


async def measure_cost(kind: str, num_calls: int, seconds: float) -> dict[str, Any]:
    """Return the server's CPU per call-second and whether its answer was right."""
    progress(f"{kind}: {num_calls} calls, {seconds:g} s")
    server, client = await start_calls(kind, num_calls)
    await asyncio.sleep(WARM_UP_S)
    begin, received = await server.ask("mark"), await client.ask("mark")
    await asyncio.sleep(seconds)
    end, received_end = await server.ask("mark"), await client.ask("mark")
    await client.stop()
    await server.stop()
    elapsed = end["time"] - begin["time"]
    received_s = received_end["time"] - received["time"]
    call_seconds = elapsed * num_calls
    packets = received_end["packets"] - received["packets"]
    result = {
        "cpu_ms_per_call_s": round((end["cpu_s"] - begin["cpu_s"]) * 1000 / call_seconds, 2),
        "samples_in_per_call_s": round((end["samples"] - begin["samples"]) / call_seconds),
        "packets_out_per_call_s": round(packets / received_s / num_calls, 2),
        "out_gaps": received_end["gaps"] - received["gaps"],
        "client_concealed_samples": received_end["concealed"] - received["concealed"],
        "out_interval_p99_ms": received_end["interval_p99_ms"],
        "context_switches_per_call_s": round((end["switches"] - begin["switches"]) / call_seconds),
        "threads": end["threads"],
        "max_rss_mb": end["max_rss_mb"],
    }
    progress(json.dumps(result))
    return result


async def measure_loss(kind: str, loss: float, jitter_s: float) -> dict[str, Any]:
    """Return what a spell of loss or jitter does to the timeline and the delay."""
    progress(f"{kind}: loss {loss:.0%}, jitter {jitter_s * 1000:.0f} ms")
    server, client = await start_calls(kind, LOSS_CALLS)
    begin = time.monotonic()
    await asyncio.sleep(PHASES_S["during"][0])
    await client.ask("impair", loss=loss, jitter_s=jitter_s)
    await asyncio.sleep(PHASES_S["during"][1] - PHASES_S["during"][0])
    await client.ask("impair", loss=0.0, jitter_s=0.0)
    await asyncio.sleep(PHASES_S["after"][1] - PHASES_S["during"][1])
    sent, heard = await client.ask("sent"), await server.ask("heard")
    await client.stop()
    await server.stop()
    delays: dict[str, list[float]] = {phase: [] for phase in PHASES_S}
    lost = missed = 0
    for log, call in zip(sent["calls"], heard["calls"], strict=True):
        lost += sum(was_dropped for _, _, was_dropped in log)
        missed += call["missed_samples"]
        times = dict(call["times"])
        for packet, at, was_dropped in log:
            phase = next((p for p, (a, b) in PHASES_S.items() if a <= at - begin < b), None)
            if phase and not was_dropped and packet in times:
                delays[phase].append((times[packet] - at) * 1000)
    result: dict[str, Any] = {
        "packets_lost": lost,
        "missed_samples": missed,
        "concealed_samples": sum(call["concealed_samples"] for call in heard["calls"]),
        "fec_samples": sum(call["fec_samples"] for call in heard["calls"]),
        "lost_samples": lost * 320,
        "late_packets": sum(call["late_packets"] for call in heard["calls"]),
    }
    for phase, values in delays.items():
        cuts = statistics.quantiles(values, n=20)
        result[f"delay_{phase}_ms"] = {"p50": round(cuts[9], 2), "p95": round(cuts[18], 2)}
    progress(json.dumps(result))
    return result


async def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Run what was asked for and return the JSON object to print."""
    runs: dict[str, list[dict[str, Any]]] = {"ours": [], "stock": []}
    for kind in ORDER:
        share_s = args.seconds / ORDER.count(kind)
        runs[kind].append(await measure_cost(kind, args.calls, share_s))
    cost = {
        kind: statistics.mean(run["cpu_ms_per_call_s"] for run in kind_runs)
        for kind, kind_runs in runs.items()
    }
    result: dict[str, Any] = {
        "calls": args.calls,
        "seconds": args.seconds,
        "ours_ms": round(cost["ours"], 2),
        "stock_ms": round(cost["stock"], 2),
        "ratio": round(cost["ours"] / cost["stock"], 3),
        **runs,
    }
    if args.loss:
        result["loss"] = {
            case: {kind: await measure_loss(kind, *how) for kind in ("ours", "stock")}
            for case, how in LOSS_CASES.items()
        }
    return result


def main() -> None:
    """Parse the command line and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=15.0, help="of steady state for each kind")
    parser.add_argument("--loss", action="store_true", help="measure loss and jitter as well")
    parser.add_argument("--json", action="store_true", help="on one line")
    parser.add_argument("--role", choices=("server", "client"), help=argparse.SUPPRESS)
    parser.add_argument("--kind", choices=("ours", "stock"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.role == "server":
        run_server(args.kind)
    elif args.role == "client":
        run_client()
    else:
        print(json.dumps(asyncio.run(measure(args)), indent=None if args.json else 2))


if __name__ == "__main__":
    main()
