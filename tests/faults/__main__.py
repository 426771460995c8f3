"""What becomes of calls when something breaks, when somebody attacks, and over time.

    python -m tests.faults [--only engine:kill,worker] [--json]     # the matrix
    python -m tests.faults soak --minutes 60 [--calls 6]            # slopes of what processes hold
    python -m tests.faults strangers [--rate 1000] [--seconds 30]   # who has no key
    python -m tests.faults hostile-caller                           # who has one
    python -m tests.faults vanishing [--clients 200]                # who comes back, or does not
    python -m tests.faults outliving [--calls 8]                    # whose worker, engine is killed

Progress goes to stderr, the result to stdout; exit code 1 if something is not as it should be.
"""

from __future__ import annotations

import argparse
import asyncio
import sys

import msgspec

from tests.faults import hostile, matrix, outliving, soak, strangers, vanishing


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", default="", help="processes, faults, or process:fault; by commas")
    parser.add_argument("--json", action="store_true")
    commands = parser.add_subparsers(dest="command")
    soaking = commands.add_parser("soak")
    soaking.add_argument("--minutes", type=float, default=60.0)
    soaking.add_argument("--calls", type=int, default=6)
    soaking.add_argument("--pace", type=float, default=1.0, help="2: callers speak half as often")
    attack = commands.add_parser("strangers")
    attack.add_argument("--rate", type=float, default=1000.0, help="packets and requests a second")
    attack.add_argument("--seconds", type=float, default=30.0)
    commands.add_parser("hostile-caller")
    commands.add_parser("outliving").add_argument("--calls", type=int, default=8)
    commands.add_parser("vanishing").add_argument("--clients", type=int, default=200)
    return parser


async def _matrix(only: str, as_json: bool) -> int:
    wanted = [name.strip() for name in only.split(",") if name.strip()]
    found = []
    for process, fault in matrix.rows():
        names = {process, fault.name, f"{process}:{fault.name}"}
        if wanted and not names & set(wanted):
            continue
        print(f"{process}: {fault.name}", file=sys.stderr, flush=True)
        row = await matrix.try_fault(process, fault)
        found.append(row)
        for what in row.faults:
            print(f"    {what}", file=sys.stderr, flush=True)
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
    else:
        print(matrix.as_table(found))
    return 1 if any(row.faults for row in found) else 0


async def _run(given: argparse.Namespace) -> int:
    match given.command:
        case "soak":
            report = await soak.run(given.minutes, given.calls, given.pace)
        case "strangers":
            report = await strangers.run(given.rate, given.seconds)
        case "hostile-caller":
            report = await hostile.run()
        case "outliving":
            report = await outliving.run(given.calls)
        case "vanishing":
            report = await vanishing.run(given.clients)
        case _:
            return await _matrix(given.only, given.json)
    print(msgspec.json.format(msgspec.json.encode(report), indent=2).decode())
    return 1 if report["faults"] else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(_run(_parser().parse_args())))
