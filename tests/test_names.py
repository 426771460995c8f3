"""One name, one thing: no class name stands for two things in the whole of the product."""

from __future__ import annotations

import re
from collections import defaultdict

from tests import ROOT

FOLDERS = ("engine", "server", "signaling", "media", "web")
CLASS = re.compile(r"^ *class (\w+)[:(]", re.MULTILINE)


def definitions() -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            for name in CLASS.findall(path.read_text()):
                found[name].append(str(path.relative_to(ROOT)))
    return found


def test_no_class_name_stands_for_two_things() -> None:
    found = definitions()
    assert len(found) > 300, "the walk finds too little"
    twice = {name: places for name, places in found.items() if len(places) > 1}
    assert twice == {}
