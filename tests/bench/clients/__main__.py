"""Which clients of others work, as they are, against a real server.

    python -m tests.bench.clients --python VENV/bin/python --modules DIR/node_modules --write
    python -m tests.bench.clients --only openai-live,gstreamer --json

The server is the built-in engine with a chat endpoint that calls functions. What is not installed
is told with the command that installs it; nothing of it belongs into the checkout. `--write` writes
the table of docs/clients.md, which takes all clients. Exits with 1 if anything did not work.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from pathlib import Path

from tests import ROOT
from tests.bench.clients.rig import servers
from tests.bench.clients.roster import CLIENTS, Client
from tests.bench.clients.table import Outcome, render, write
from tests.bench.clients.trial import Places, tried


async def all_of(clients: list[Client], places: Places) -> list[Outcome]:
    """One after the other: most of them need the processor."""
    outcomes = []
    with tempfile.TemporaryDirectory() as folder:
        async with servers(Path(folder)) as rig:
            for client in clients:
                outcome = await tried(client, rig, places)
                _progress(outcome)
                outcomes.append(outcome)
    return outcomes


def _progress(outcome: Outcome) -> None:
    told = outcome.missing or ("; ".join(f"{k}: {v}" for k, v in outcome.faults.items()) or "all")
    print(f"  {outcome.client.name} {outcome.version}: {told}", file=sys.stderr, flush=True)
    for note in outcome.notes:
        print(f"    {note}", file=sys.stderr, flush=True)


def as_json(outcomes: list[Outcome]) -> str:
    rows = [
        {
            "client": outcome.client.name,
            "version": outcome.version,
            "missing": outcome.missing,
            "steps": {step: why or "yes" for step, why in outcome.steps.items()},
            "faults": outcome.faults if not outcome.missing else {},
            "notes": outcome.notes,
        }
        for outcome in outcomes
    ]
    return json.dumps(rows, indent=1)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [client.name for client in CLIENTS]
    parser.add_argument("--only", help=f"of {', '.join(names)}")
    parser.add_argument(
        "--python", action="append", default=[], help="of an environment with clients; repeatable"
    )
    parser.add_argument(
        "--modules", type=Path, default=ROOT / "tests" / "web" / "node_modules", help="of npm"
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--write", action="store_true", help="the table of docs/clients.md")
    options = parser.parse_args()
    wanted = options.only.split(",") if options.only else names
    if unknown := set(wanted) - set(names):
        parser.error(f"--only: no client {', '.join(sorted(unknown))}")
    if options.write and options.only:
        parser.error("--write takes all clients")
    places = Places((*options.python, sys.executable), options.modules.resolve())
    chosen = [client for client in CLIENTS if client.name in wanted]
    outcomes = asyncio.run(all_of(chosen, places))
    if options.write:
        write(outcomes)
    print(as_json(outcomes) if options.json else render(outcomes))
    return int(any(outcome.faults for outcome in outcomes if not outcome.missing))


if __name__ == "__main__":
    sys.exit(main())
