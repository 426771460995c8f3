"""SECURITY.md names tests that exist."""

from __future__ import annotations

import re

from tests import ROOT

NAMED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def test_tests_of_the_threat_list_exist() -> None:
    _, _, below = (ROOT / "SECURITY.md").read_text().partition("## Threats")
    text, _, _ = below.partition("\n## ")
    named = NAMED.findall(text)
    rows = [line for line in text.splitlines() if line.startswith("| ") and "---" not in line]
    assert len(named) >= len(rows) - 1 > 20
    assert all("::test_" in row for row in rows[1:]), "a threat without a test"
    for path, name in named:
        found = re.search(rf"^(async )?def {name}\(", (ROOT / path).read_text(), re.M)
        assert found, f"{path} has no {name}"
