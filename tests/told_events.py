"""Every event that a server under test sends, held against OpenAI's types when it stops.

`tests.serving` does so for each server that a test starts, whatever calls it: a browser, a client
of others, `omnicall.client`, a program.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from pathlib import Path

from tests import ROOT

MAX_SHOWN = 3


class ToldEvents:
    """What the processes of one server send; `environment` has them write it down."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="told-"))
        # Of a server that never stopped, too, because it did not start.
        self._remove = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        before = os.environ.get("PYTHONPATH", "")
        self.environment = {
            "TOLD_EVENTS_FOLDER": str(self._folder),
            "PYTHONPATH": f"{ROOT / 'tests' / 'told'}{os.pathsep}{before}".rstrip(os.pathsep),
        }

    def check(self) -> int:
        """How many were told. Raises `AssertionError` with those that are none, once."""
        from tests.openai_events import EXTENSIONS, checked_event, checked_live_event

        count, faults = 0, []
        for path in sorted(self._folder.glob("*")):
            # Behind the last line is what a process that was killed did not finish.
            for line in path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]:
                door, _, text = line.partition("\t")
                count += 1
                try:
                    if door == "LiveConnection":
                        checked_live_event(text)
                    else:
                        checked_event(text, EXTENSIONS if door == "RealtimeDoor" else frozenset())
                except (AssertionError, ValueError) as error:
                    faults.append(f"{text[:1000]}: {error}")
        self._remove()
        assert not faults, f"{len(faults)} events were none: " + "\n".join(faults[:MAX_SHOWN])
        return count
