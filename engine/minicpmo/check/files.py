"""Which release a folder holds: its files, their sizes, the hashes of the small ones."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from engine.gpu.weights import INDEX_FILE, SINGLE_FILE
from engine.minicpmo.check.release import FILES, HUB_ID, TOTAL_SIZE
from engine.minicpmo.check.report import CheckSection
from engine.minicpmo.checkpoint import ASSETS
from engine.minicpmo.models.voice.preparation import Preparer

HASH_PIECE = 1 << 22
GB = 1e9

NEEDED = ("config.json", "tokenizer_config.json")
SPEECH = ("flow.yaml", "flow.pt", "hift.pt")


def check_files(folder: Path, speaking: Path) -> CheckSection:
    """Files that are there, and whether they are the published ones.

    `speaking`: the folder whose `assets` serve.
    """
    section = CheckSection("files")
    stored = [path for path in folder.rglob("*") if path.is_file() and ".cache" not in path.parts]
    size = sum(path.stat().st_size for path in stored)
    shards = sorted(folder.glob("*.safetensors"))
    section.facts |= {"count": len(stored), "gb": round(size / GB, 2), "shards": len(shards)}
    for name in NEEDED:
        if not (folder / name).is_file():
            section.fault(f"{name} is missing")
    _weights(folder, shards, section)
    _speech(speaking / ASSETS, section)
    known = {
        name: _against((speaking if name.startswith("assets") else folder) / name, name)
        for name in FILES
    }
    section.facts["released"] = {name: told for name, told in known.items() if told}
    other = [name for name, told in known.items() if told and told != "same"]
    if known and not other and all(known.values()):
        section.ok(f"the files that were compared are those of {HUB_ID}, byte for byte")
    elif other:
        section.note(f"not the published files: {', '.join(f'{n} ({known[n]})' for n in other)}")
    return section


def _weights(folder: Path, shards: list[Path], section: CheckSection) -> None:
    index = folder / INDEX_FILE
    if not index.is_file():
        if (folder / SINGLE_FILE).is_file():
            section.ok(f"weights in one file, {(folder / SINGLE_FILE).stat().st_size / GB:.2f} GB")
        else:
            section.fault(f"neither {SINGLE_FILE} nor {INDEX_FILE}")
        return
    try:
        told = json.loads(index.read_text())
        names, total = set(told["weight_map"].values()), told.get("metadata", {}).get("total_size")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        section.fault(f"{INDEX_FILE} cannot be read: {error!r}")
        return
    absent = sorted(names - {path.name for path in shards})
    if absent:
        section.fault(f"missing {', '.join(absent)}: the download is not complete")
    else:
        section.ok(f"all {len(names)} files of weights are there")
    section.facts["total_size"] = total
    if total == TOTAL_SIZE:
        section.ok(f"the index's total is the released one, {TOTAL_SIZE} bytes")
    elif total is not None:
        section.note(f"the index's total is {total} bytes; released: {TOTAL_SIZE}")


def _speech(assets: Path, section: CheckSection) -> None:
    if not assets.is_dir():
        section.fault(f"no {ASSETS}: it would answer in text only")
        return
    absent = [name for name in SPEECH if not (assets / name).is_file()]
    if absent:
        section.fault(f"{ASSETS} lacks {', '.join(absent)}")
    if missing := Preparer(assets).missing:
        section.note(f"{ASSETS} lacks {', '.join(missing)}: no recording can become a voice")


def _against(path: Path, name: str) -> str:
    """`same`, what differs, or an empty string where there is no such file."""
    if not path.is_file():
        return ""
    known, size = FILES[name], path.stat().st_size
    if known.size is not None and size != known.size:
        return f"{size} bytes, released {known.size}"
    digest = sha256(path)
    return "same" if known.has_hash(digest) else f"sha256 {digest[:8]}…{digest[-5:]}"


def sha256(path: Path) -> str:
    """Of a file's contents, in hexadecimal."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(HASH_PIECE):
            found.update(piece)
    return found.hexdigest()
