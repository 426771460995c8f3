"""Replay a golden set and compare everything that it stores.

    python -m tests.golden.replay SET_DIR [--batch N] [--stages a,b] [--json]

Exits with 1 if a quantity is out of tolerance or was never compared.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import sys

import torch

from tests.golden.golden_set import GoldenSet
from tests.golden.report import Report

STAGES = ("prompts", "pictures", "sound", "llm", "turns", "codes", "wave", "session")
"""In the order in which errors are easiest to find; each is `tests.golden.stage_<name>`."""

REPEAT = "duplex_tts_reset"

log = logging.getLogger(__name__)


def replay(golden: GoldenSet, batch: int = 1, stages: tuple[str, ...] = STAGES) -> Report:
    """Run stages over a set; a stage that raises is recorded and the next one runs."""
    report = Report(golden.expected())
    for name in stages:
        try:
            module = importlib.import_module(f"tests.golden.stage_{name}")
        except ModuleNotFoundError as error:
            if error.name != f"tests.golden.stage_{name}":
                raise
            report.fail(f"stage_{name}", "there is no such stage")
            continue
        try:
            with torch.inference_mode():
                module.compare(golden, report, batch)
        except Exception as error:  # noqa: BLE001 - one broken stage must not hide the others
            log.exception("stage %s", name)
            report.fail(f"stage_{name}", f"{type(error).__name__}: {error}")
    _settle_repeats(golden, report)
    return report


def _settle_repeats(golden: GoldenSet, report: Report) -> None:
    """A set may store a session twice, the second time with a cleaned speech decoder. What speech
    has no part in is the same in both, and compared once."""
    for key in report.missing():
        twin = key.replace(REPEAT, "duplex", 1)
        if REPEAT in key and golden.stores_the_same(key, twin):
            report.given(key, f"stored the same as {twin}")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("set", help="folder of the golden set")
    parser.add_argument("--batch", type=int, default=1, help="rows to run side by side")
    parser.add_argument("--stages", default=",".join(STAGES), help="stages to run, in order")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING)
    torch.set_num_threads(1)
    golden = GoldenSet(options.set)
    report = replay(golden, options.batch, tuple(options.stages.split(",")))
    sys.stdout.write((report.json() if options.json else report.text()) + "\n")
    return report.exit_code()


if __name__ == "__main__":
    sys.exit(main())
