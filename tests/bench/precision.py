"""How exact the engine's number formats are, stage by stage.

    python -m tests.bench.precision --size full --device cuda --json
    python -m tests.bench.precision --model DIR --device cuda --json

Every network runs on the same inputs as in the engine (bfloat16, graphs, our kernels, several rows)
and in float32 with the same weights (eager, no TF32). Errors are relative to the latter. On a CPU
the engine is float32; this runs it in bfloat16 there too. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from engine.minicpmo.checkpoint import OmniModel, load
from tests.bench import precision_llm, precision_senses, precision_sound, precision_speech
from tests.bench.gpu import memory_gib
from tests.tiny_checkpoint import full_size_model, write_checkpoint


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def build(options: argparse.Namespace, folder: Path) -> OmniModel:
    """The model as the engine has it on CUDA, whatever the device."""
    device = torch.device(options.device)
    with mock.patch(
        "engine.minicpmo.checkpoint.best_device", lambda wanted: (device, torch.bfloat16)
    ):
        if options.model:
            return load(Path(options.model), show=progress)
        if options.size == "full":
            return full_size_model(folder, options.device)
        return load(write_checkpoint(folder, seed=1), show=progress)


def measure(model: OmniModel) -> dict[str, Any]:
    """All stages; leaves the networks in float32."""
    told: dict[str, Any] = {}
    took: dict[str, float] = {}

    def stage(name: str, run: Callable[[], Any]) -> Any:
        progress(name)
        started = time.perf_counter()
        found = run()
        # What the stage left behind is freed now, so that the peak is that of one stage.
        gc.collect()
        took[name] = round(time.perf_counter() - started, 1)
        return found

    told["llm"], trace, narrow = stage(
        "llm", lambda: precision_llm.measure(model.llm, model.tokens)
    )
    told["senses"] = stage("senses", lambda: precision_senses.measure(model))
    told["speech"], codes = stage(
        "speech", lambda: precision_speech.measure(model.speech, trace, narrow)
    )
    told["sound"] = stage("sound", lambda: precision_sound.measure(model, codes))
    return told | {"seconds": took}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m tests.bench.precision")
    parser.add_argument("--size", choices=("tiny", "full"), default="tiny")
    parser.add_argument("--model", help="folder of a checkpoint instead of random weights")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    with tempfile.TemporaryDirectory() as name:
        model = build(options, Path(name))
        result = {
            "model": options.model or options.size,
            "device": str(model.device),
            "torch": torch.__version__,
        }
        if model.device.type == "cuda":
            result["gpu"] = torch.cuda.get_device_name(model.device)
        told = result | measure(model)
    told["peak_device_gib"] = memory_gib(model.device)
    print(json.dumps(told) if options.json else json.dumps(told, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
