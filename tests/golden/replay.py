"""Replay a golden set and compare everything that it stores.

    python -m tests.golden.replay SET_DIR [--batch N] [--stages a,b] [--json]
    python -m tests.golden.replay SET_DIR --device cuda [--dtype bfloat16]

Float32 runs without graphs, free but for the forced choices. Bfloat16 replays all stored choices,
on CUDA by graphs; what it does not run is listed as given.
Exits with 1 if a quantity is out of tolerance or was never compared.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import re
import sys

import torch

from tests.golden.golden_set import GoldenSet
from tests.golden.place import Place
from tests.golden.report import Report

STAGES = ("prompts", "pictures", "sound", "llm", "turns", "codes", "wave", "session")
"""In the order in which errors are easiest to find; each is `tests.golden.stage_<name>`."""

WIDE_STAGES = ("wave", "session")
"""Not run in bfloat16."""
WIDE = (
    (r"^(voice|vocoder_original)/", "token2wav is never bfloat16: it is compared in float32"),
    (r"^trace/(vocoder_original|set\.base_cache)", "token2wav is compared in float32"),
    (r"/\w+\.(\w+\.)?(w\d+\..*|wave_\w+)$", "token2wav is compared in float32"),
    (r"\.(wave_\w+|token2wav.*|yielded_samples)$", "token2wav is compared in float32"),
    (r"\.(tts_margin|tts_codes)$", "free speech codes may differ: the stored ones are fed"),
    (r"^trace/.*\.(tts|tts_groups|n_tts_tokens|tts_pos_after)(\..*)?$", "the stored codes are fed"),
)
"""What bfloat16 does not compare, and why."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

REPEAT = "duplex_tts_reset"

log = logging.getLogger(__name__)


def replay(golden: GoldenSet, batch: int = 1, stages: tuple[str, ...] = STAGES) -> Report:
    """Run stages over a set; a stage that raises is recorded and the next one runs."""
    report = Report(golden.expected(), golden.place.limits())
    for name in stages:
        if golden.place.is_narrow and name in WIDE_STAGES:
            continue
        try:
            module = importlib.import_module(f"tests.golden.stage_{name}")
        except ModuleNotFoundError as error:
            if error.name != f"tests.golden.stage_{name}":
                raise
            report.fail(f"stage_{name}", "there is no such stage")
            continue
        try:
            with torch.inference_mode(), golden.place.running():
                module.compare(golden, report, batch)
        except Exception as error:  # noqa: BLE001 - one broken stage must not hide the others
            log.exception("stage %s", name)
            report.fail(f"stage_{name}", f"{type(error).__name__}: {error}")
    _settle_repeats(golden, report)
    if golden.place.is_narrow:
        for key in report.missing():
            why = next((why for pattern, why in WIDE if re.search(pattern, key)), None)
            if why is not None:
                report.given(key, why)
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
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="float32")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING)
    torch.set_num_threads(1)
    golden = GoldenSet(options.set, Place(torch.device(options.device), DTYPES[options.dtype]))
    report = replay(golden, options.batch, tuple(options.stages.split(",")))
    sys.stdout.write((report.json() if options.json else report.text()) + "\n")
    return report.exit_code()


if __name__ == "__main__":
    sys.exit(main())
