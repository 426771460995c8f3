"""The table in docs/clients.md: rows of clients, columns of steps, footnotes."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from tests import ROOT
from tests.bench.clients.roster import Client
from tests.bench.clients.steps import STEPS

PAGE = ROOT / "docs" / "clients.md"
BEGIN = "<!-- clients: written by `python -m tests.bench.clients --write` -->"
END = "<!-- clients: end -->"
TITLES = {"speech": "speech both ways"}


class Outcome(Struct, frozen=True):
    """What was seen of one client."""

    client: Client
    version: str = ""
    steps: dict[str, str] = {}
    """Empty where it worked, else why it did not."""
    missing: str = ""
    """Why it was not tried; everything else is then empty."""
    notes: tuple[str, ...] = ()

    @property
    def faults(self) -> dict[str, str]:
        """What did not work, by step; all that should have been tried counts."""
        wanted = [*(step for step in STEPS if step not in self.client.lacks), *self.client.more]
        told = {step: self.steps.get(step, "not reached") for step in wanted}
        return {step: why for step, why in told.items() if why}


class _Footnotes:
    def __init__(self) -> None:
        self.texts: list[str] = []

    def mark(self, *texts: str) -> str:
        """The superscripts of these texts, each told once."""
        for text in texts:
            if text not in self.texts:
                self.texts.append(text)
        numbers = sorted({self.texts.index(text) + 1 for text in texts})
        return "".join(f"<sup>{number}</sup>" for number in numbers)


def render(outcomes: list[Outcome]) -> str:
    """Markdown: `yes`, `sends`, `no` or `-` for each step, or why a client was not tried."""
    notes = _Footnotes()
    head = ["client", "version", *(TITLES.get(step, step) for step in STEPS)]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    lines += [f"| {' | '.join(_row(outcome, notes))} |" for outcome in outcomes]
    told = [f"{number}. {text}" for number, text in enumerate(notes.texts, 1)]
    return "\n".join([*lines, "", *told])


def _row(outcome: Outcome, notes: _Footnotes) -> list[str]:
    client = outcome.client
    title = client.title + notes.mark(*client.notes)
    if outcome.missing:
        return [title, "not tried" + notes.mark(outcome.missing), *("" for _ in STEPS)]
    cells = []
    for step in STEPS:
        if step in client.lacks:
            cells.append("-" + notes.mark(client.lacks[step]))
        else:
            works = "sends" if step == "speech" and client.only_sends else "yes"
            cells.append("**no**" if step in outcome.faults else works)
    return [title, outcome.version, *cells]


def write(outcomes: list[Outcome], path: Path = PAGE) -> None:
    """Put the table between its markers."""
    text = path.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{path}: the markers of the table are missing")
    path.write_text(f"{before}{BEGIN}\n{render(outcomes)}\n{END}{after}")
