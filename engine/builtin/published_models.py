"""Voices and recognisers that others publish: which files a name stands for, and where they lie."""

from __future__ import annotations

import re
from typing import Literal

from msgspec import Struct

WHISPER_SIZES = ("tiny", "base", "small", "medium")
WHISPER = re.compile(rf"whisper-(?:(?:{'|'.join(WHISPER_SIZES)})(?:\.en)?|large-v3)")
VOICE = re.compile(r"(?P<language>[a-z]{2,3})_(?P<region>[A-Z]{2})-(?P<voice>\w+)-(?P<quality>\w+)")
QUALITIES = ("x_low", "low", "medium", "high")
EXAMPLES = ("whisper-base", "whisper-small", "en_US-lessac-medium", "zh_CN-huayan-medium")
"""Some names, for people."""


class PublishedFile(Struct, frozen=True):
    path: str
    """In the repository."""
    saved_as: str
    """In the folder of its kind."""


class PublishedModel(Struct, frozen=True):
    name: str
    kind: Literal["voice", "recogniser"]
    repository: str
    revision: str
    """What is asked for the first time; from then on the commit that was found."""
    files: tuple[PublishedFile, ...]


def find_published(name: str) -> PublishedModel | None:
    """What a name stands for; None if it is of neither form. Whether it exists is not known here.

    `whisper-SIZE` and, for English alone, `whisper-SIZE.en`; Piper voices have the names of their
    files, as `de_DE-thorsten-medium`.
    """
    if WHISPER.fullmatch(name):
        return _whisper(name)
    match = VOICE.fullmatch(name)
    if match is None or match["quality"] not in QUALITIES:
        return None
    language, locale = match["language"], f"{match['language']}_{match['region']}"
    folder = f"{language}/{locale}/{match['voice']}/{match['quality']}"
    files = tuple(
        PublishedFile(f"{folder}/{name}{ending}", f"{name}{ending}")
        for ending in (".onnx.json", ".onnx")
    )
    return PublishedModel(name, "voice", "rhasspy/piper-voices", "v1.0.0", files)


def _whisper(name: str) -> PublishedModel:
    vocabulary = "vocabulary.json" if name == "whisper-large-v3" else "vocabulary.txt"
    files = tuple(
        PublishedFile(path, f"{name}/{path}") for path in ("config.json", vocabulary, "model.bin")
    )
    return PublishedModel(name, "recogniser", f"Systran/faster-{name}", "main", files)
