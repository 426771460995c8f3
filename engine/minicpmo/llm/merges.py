"""The merges of a byte-level vocabulary, also where `merges.txt` lacks some of them.

An entry's id is its rank: the merge that makes it is found by merging its characters with all
entries of lower rank. Of the released model a `merges.txt` goes round that lacks most Chinese
words; with it Chinese is cut into pieces that the model was not trained with.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from engine.minicpmo.models.config_reader import ConfigError

Pair = tuple[str, str]


class Merges(NamedTuple):
    """The vocabulary's entries by id, and its merges, the earliest first."""

    vocabulary: dict[str, int]
    pairs: list[Pair]
    lacking: int
    """Of these, those that the file does not have."""


def read_merges(vocabulary: Path, merges: Path, added: Collection[str]) -> Merges:
    """Read both files and complete the merges; `added`: entries that no merge makes.

    An entry that the file does not make lacks a merge only if its parts are entries before it:
    vocabularies have others, which text never becomes. Raises `ConfigError` where merges lack and
    the file has some that do not follow from the ids, so that those need not either.
    """
    ranks = _ranks(vocabulary)
    pairs = _pairs(merges)
    wanted = sum(len(entry) > 1 and entry not in added for entry in ranks)
    if len(pairs) >= wanted:
        return Merges(ranks, pairs, 0)
    derived = derive({entry: rank for entry, rank in ranks.items() if entry not in added})
    made = {left + right for left, right in pairs}
    lacking = sum(left + right not in made for left, right in derived)
    if not lacking:
        return Merges(ranks, pairs, 0)
    if set(pairs).difference(derived):
        raise ConfigError(
            f"{merges} has {len(pairs)} merges where {vocabulary.name} has {wanted} entries made "
            "of several bytes, and the others do not follow from their ids: a tokenizer.json of "
            "the model is needed"
        )
    return Merges(ranks, derived, lacking)


def derive(ranks: Mapping[str, int]) -> list[Pair]:
    """The merge of each entry that has one, by rank; entries of one character have none."""
    found: list[Pair] = []
    for entry, rank in sorted(ranks.items(), key=lambda item: item[1]):
        parts = list(entry)
        while len(parts) > 2 and (place := _best(parts, ranks, rank)) >= 0:
            parts[place : place + 2] = [parts[place] + parts[place + 1]]
        if len(parts) == 2 and all(part in ranks for part in parts):
            found.append((parts[0], parts[1]))
    return found


def _best(parts: list[str], ranks: Mapping[str, int], below: int) -> int:
    """Where the pair of the lowest rank below `below` lies, or -1."""
    best, place = below, -1
    for index in range(len(parts) - 1):
        rank = ranks.get(parts[index] + parts[index + 1], below)
        if rank < best:
            best, place = rank, index
    return place


def _ranks(path: Path) -> dict[str, int]:
    try:
        ranks: dict[str, int] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    if not isinstance(ranks, dict) or not all(isinstance(rank, int) for rank in ranks.values()):
        raise ConfigError(f"{path}: not ids by entry")
    return ranks


def _pairs(path: Path) -> list[Pair]:
    pairs: list[Pair] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if not line.strip() or line.startswith("#version"):
            continue
        parts = line.rstrip("\r").split(" ")
        if len(parts) != 2:
            raise ConfigError(f"{path}, line {number}: not two entries")
        pairs.append((parts[0], parts[1]))
    return pairs
