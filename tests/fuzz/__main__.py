"""Fuzz one target and print what was found, as JSON.

    python -m tests.fuzz offers --seconds 60 --seed 7
    python -m tests.fuzz events:echo --cases 10000

The same seed gives the same cases. Findings become files of the corpus (`--keep` names another
folder), which `pytest tests/fuzz` replays. The exit code is 1 if there are any.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
from pathlib import Path

import msgspec

from tests.fuzz.campaign import Campaign
from tests.fuzz.target import CORPUS
from tests.fuzz.targets import TARGETS


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("--seconds", type=float, default=None, help="default 60, with --cases none")
    parser.add_argument("--seed", type=int, default=secrets.randbits(32))
    parser.add_argument("--cases", type=int)
    parser.add_argument("--keep", type=Path, default=CORPUS, help="folder for findings")
    given = parser.parse_args()
    seconds = given.seconds or (60.0 if given.cases is None else float("inf"))
    print(f"seed {given.seed}", file=sys.stderr)
    campaign = Campaign(TARGETS[given.target](), given.seed, keep=given.keep)
    report = asyncio.run(campaign.run(seconds=seconds, cases=given.cases))
    print(msgspec.json.format(msgspec.json.encode(report), indent=2).decode())
    return 1 if report.findings else 0


if __name__ == "__main__":
    sys.exit(main())
