"""What a check of a checkpoint found, for people, for programs, and as a block to paste."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

Mark = Literal["ok", "note", "fault"]

SIGNS: dict[Mark, str] = {"ok": "✓", "note": "•", "fault": "✗"}
PLAIN_SIGNS: dict[Mark, str] = {"ok": "ok", "note": "--", "fault": "!!"}
"""Where the terminal cannot show the others."""
WIDTH = 92


@dataclass(frozen=True)
class CheckFinding:
    """One line of a section. A note is nothing bad: something to know, or that differs."""

    mark: Mark
    text: str


@dataclass
class CheckSection:
    """A question, its answer in a few words, and what that rests on."""

    title: str
    findings: list[CheckFinding] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    """For programs, and for the block to paste; JSON."""

    def ok(self, text: str) -> None:
        self.findings.append(CheckFinding("ok", text))

    def note(self, text: str) -> None:
        self.findings.append(CheckFinding("note", text))

    def fault(self, text: str) -> None:
        self.findings.append(CheckFinding("fault", text))

    def table(self, rows: Iterable[str]) -> None:
        """Lines that belong to the finding before them."""
        last = self.findings.pop()
        self.findings.append(CheckFinding(last.mark, "\n".join([last.text, *rows])))

    @property
    def mark(self) -> Mark:
        """The worst of its findings."""
        marks = {finding.mark for finding in self.findings}
        return "fault" if "fault" in marks else "note" if "note" in marks else "ok"


@dataclass
class CheckReport:
    """All sections in the order of their making."""

    heading: str
    sections: list[CheckSection] = field(default_factory=list)

    @property
    def faults(self) -> int:
        return sum(f.mark == "fault" for section in self.sections for f in section.findings)

    @property
    def verdict(self) -> str:
        if self.faults:
            count = "one fault" if self.faults == 1 else f"{self.faults} faults"
            return (
                f"{count}: the engine will not start with this folder, or not answer as it should"
            )
        return "no fault found"

    def to_json(self) -> dict[str, Any]:
        """The same for programs."""
        return {
            "checked": self.heading,
            "faults": self.faults,
            "sections": {
                section.title: {
                    "mark": section.mark,
                    "findings": [[f.mark, f.text] for f in section.findings],
                    **section.facts,
                }
                for section in self.sections
            },
        }

    def block(self) -> str:
        """What is worth pasting into a report: facts, and all that is not as expected."""
        rule = "-" * 20
        lines = [f"{rule} paste this into your report {rule}", self.heading]
        for section in self.sections:
            told = ", ".join(f"{name} {_short(value)}" for name, value in section.facts.items())
            lines.append(f"[{section.mark}] {section.title}: {told}" if told else "")
            lines += [
                f"    {PLAIN_SIGNS[finding.mark]} {finding.text.splitlines()[0]}"
                for finding in section.findings
                if finding.mark != "ok"
            ]
        lines += [f"verdict: {self.verdict}", "-" * len(lines[0])]
        return "\n".join(line for line in lines if line)


def rendered(section: CheckSection, *, plain: bool = False) -> str:
    """A section as the terminal shows it; `plain`: in ASCII signs."""
    signs = PLAIN_SIGNS if plain else SIGNS
    lines = [f"{section.title} ".ljust(WIDTH, "-" if plain else "─")]
    for finding in section.findings:
        first, *more = finding.text.splitlines()
        lines.append(f"  {signs[finding.mark]} {first}")
        lines += [f"      {line}" for line in more]
    return "\n".join(lines)


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return "/".join(map(_short, value)) or "none"
    if isinstance(value, dict):
        return "(" + ", ".join(f"{name} {_short(of)}" for name, of in value.items()) + ")"
    return str(value)
