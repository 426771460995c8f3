"""The table of docs/parity.md names tests that exist."""

from __future__ import annotations

import re

from tests import ROOT

TABLE = (ROOT / "docs" / "parity.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in TABLE.splitlines()
    if line.startswith("| ")
][1:]


def test_each_row_says_whether_it_works_and_what_works_names_a_test() -> None:
    assert len(ROWS) == 26
    for feature, state, what, shown in ROWS:
        assert state in ("yes", "partly", "no"), feature
        names = re.findall(r"`(tests/[^`]+)`", shown)
        # What needs a GPU is measured, not tested.
        assert names or state != "yes" or "`docs/benchmarks.md`" in what, feature
        for name in names:
            path, _, test = name.partition("::")
            text = (ROOT / path).read_text()
            assert not test or re.search(rf"def {test}\b", text), name
