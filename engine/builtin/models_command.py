"""`omnicall models get NAME...`: fetch voices and recognisers of the built-in engine."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from engine.builtin.model_fetch import PINS, FetchError, ModelFolder
from engine.builtin.published_models import EXAMPLES, PublishedModel, find_published

SOURCE = "https://huggingface.co"
SETTINGS = {"voice": "builtin.voice_dir", "recogniser": "builtin.recogniser_dir"}


def main(argv: Sequence[str]) -> int:
    """The exit code: 0, 1 (could not be fetched), 2 (there is no such name) or 130 (stopped)."""
    options = _parser().parse_args(argv)
    wanted: list[PublishedModel] = []
    for name in options.names:
        model = find_published(name)
        if model is None:
            _say(f"omnicall models: {name} is no name of a model; as {', '.join(EXAMPLES)}")
            return 2
        wanted.append(model)
    try:
        folder = ModelFolder(Path(options.dir))
        for model in wanted:
            _get(folder, model, options.source)
    except FetchError as error:
        _say(f"omnicall models: {error}")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _get(folder: ModelFolder, model: PublishedModel, source: str) -> None:
    fetched = folder.fetch(model, source, _Bar().show)
    for file in fetched:
        state = "fetched for the first time, not checked" if file.is_new else "as it was before"
        _say(f"{file.path}: {state} (SHA-256 {file.pin.sha256})")
    if any(file.is_new for file in fetched):
        _say(f"its hashes are kept in {PINS}; from now on anything else under its name is refused")
    _say(f"to use it: omnicall --set {SETTINGS[model.kind]}={folder.home(model)}")


class _Bar:
    """Tells each tenth of a file."""

    def __init__(self) -> None:
        self._told = ("", -1)

    def show(self, name: str, done: int, total: int) -> None:
        tenth = 10 * done // total if total else done // 10_000_000
        if (name, tenth) != self._told:
            self._told = (name, tenth)
            share = f"{10 * tenth} %" if total else f"{done // 1_000_000} MB"
            _say(f"  {name}: {share}")


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="omnicall models", description=__doc__)
    actions = parser.add_subparsers(required=True, metavar="get")
    get = actions.add_parser("get", help="fetch models by their names")
    get.add_argument("names", nargs="+", metavar="NAME", help=f"as {', '.join(EXAMPLES)}")
    get.add_argument("--dir", default="models", help="where they are kept (models)")
    get.add_argument(
        "--source",
        default=os.environ.get("HF_ENDPOINT") or SOURCE,
        help="a server with the paths of the Hugging Face hub (that hub, or $HF_ENDPOINT)",
    )
    return parser
