"""`omnicall check-model DIR`: is this the model that the engine was written for, and what fits?

Without `--speak` it reads of the weights headers only, and the files of the speech output (0.7 GB)
whole: a minute on a CPU. Ends with a block to paste into a report.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import get_args

import torch

from engine.config import KvCacheType, MiniCpmoConfig, WeightsType
from engine.hub import HubError, locate
from engine.minicpmo.check.files import check_files
from engine.minicpmo.check.fit import check_fit
from engine.minicpmo.check.report import CheckReport, CheckSection, rendered
from engine.minicpmo.check.settings import check_settings
from engine.minicpmo.check.speaking import ANSWER_TOKENS, Wanted, check_speaking
from engine.minicpmo.check.tensors import check_tensors
from engine.minicpmo.check.voices import check_voices
from engine.minicpmo.check.words import check_words
from engine.minicpmo.checkpoint import with_assets
from engine.minicpmo.models.config import OmniConfig
from engine.minicpmo.models.config_reader import ConfigError
from engine.minicpmo.models.stored_format import read_format

DEFAULTS = MiniCpmoConfig()


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="omnicall check-model",
        description="Look through a folder with MiniCPM-o 4.5 before it is served: which release "
        "it is, whether all of it is there, how text becomes ids, which voices it has, how many "
        "sessions a GPU has memory for. Nothing is changed.",
    )
    made.add_argument("folder", help="the model's folder, or its name on the hub")
    made.add_argument("--speak", action="store_true", help="also start it and have it answer")
    made.add_argument("--bench", action="store_true", help="with --speak: seconds of a call, timed")
    made.add_argument("--wav", default="check-model.wav", help="where the spoken answer goes")
    made.add_argument("--tokens", type=int, default=ANSWER_TOKENS, help="of an answer at most")
    made.add_argument("--json", action="store_true", help="print JSON and nothing else")
    made.add_argument("--assets", default="", help="another folder, if this one has no assets")
    made.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto")
    made.add_argument("--weights-dtype", choices=get_args(WeightsType), default="auto")
    made.add_argument("--kv-cache-dtype", choices=get_args(KvCacheType), default="auto")
    made.add_argument("--context", type=int, default=4096, help="positions with --speak")
    made.add_argument("--flow-steps", type=int, default=DEFAULTS.flow_steps)
    made.add_argument("--voice", default="", help="as minicpmo.voice")
    made.add_argument("--memory-gib", type=float, default=0.0, help="as engine.gpu_memory_gib")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """0: no fault found; 1: faults; 2: there is no such folder."""
    options = parser().parse_args(argv)
    show = _shower(quiet=options.json)
    try:
        folder = locate(options.folder)
    except HubError as error:
        sys.stderr.write(f"omnicall check-model: {error}\n")
        return 2
    report = CheckReport(f"{_ourselves()}; {folder.name}; {time.strftime('%Y-%m-%d')}")
    plain = not _takes_signs()
    try:
        for section in sections(folder, options, show):
            report.sections.append(section)
            show("")
            if not options.json:
                sys.stdout.write(rendered(section, plain=plain) + "\n\n")
                sys.stdout.flush()
    except KeyboardInterrupt:
        sys.stderr.write("\n")
        return 130
    if options.json:
        sys.stdout.write(json.dumps(report.to_json(), ensure_ascii=False) + "\n")
    else:
        sys.stdout.write(f"{report.verdict}\n\n{report.block()}\n")
    return 1 if report.faults else 0


def sections(
    folder: Path, options: argparse.Namespace, show: Callable[[str], None]
) -> Iterator[CheckSection]:
    """One after another, so that each is seen as soon as it is there."""
    settings = MiniCpmoConfig(
        device=options.device,
        max_context=options.context,
        kv_cache_dtype=options.kv_cache_dtype,
        weights_dtype=options.weights_dtype,
        assets=options.assets,
        voice=options.voice,
        flow_steps=options.flow_steps,
    )
    speaking = with_assets(folder, Path(options.assets).expanduser() if options.assets else None)
    show("reading files")
    yield check_files(folder, speaking)
    section = CheckSection("configuration")
    try:
        stored = read_format(folder)
        config = OmniConfig.load(folder)
    except ConfigError as error:
        section.fault(str(error))
        yield section
        return
    yield check_settings(config, options.flow_steps)
    show("comparing weights")
    yield check_tensors(folder, speaking, config, stored)
    show("trying the tokenizer")
    yield check_words(folder, config)
    show("measuring voices")
    voices, frames = check_voices(speaking, settings)
    yield voices
    show("counting memory")
    yield check_fit(
        speaking,
        config,
        settings,
        frames,
        stored=stored,
        memory_gib=options.memory_gib,
    )
    if options.speak:
        wanted = Wanted(
            settings,
            Path(options.wav),
            answer_tokens=options.tokens,
            bench=options.bench,
            memory_gib=options.memory_gib,
        )
        yield asyncio.run(check_speaking(folder, wanted, show))


def _ourselves() -> str:
    """What was checked with what, in a line."""
    try:
        own = version("omnicall")
    except PackageNotFoundError:
        own = "from a checkout"
    gpu = "no GPU"
    if torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability()
        gpu = f"{torch.cuda.get_device_name()} (sm_{major}{minor})"
    return f"omnicall {own}, Python {platform.python_version()}, torch {torch.__version__}, {gpu}"


def _takes_signs() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"


def _shower(*, quiet: bool) -> Callable[[str], None]:
    """One line that says what is under way; an empty text wipes it. Only where somebody looks."""
    if quiet or not sys.stderr.isatty():
        return lambda text: None

    def show(text: str) -> None:
        sys.stderr.write(f"\r\x1b[K{text[:100]}{' ...' if text else ''}")
        sys.stderr.flush()

    return show


if __name__ == "__main__":
    sys.exit(main())
