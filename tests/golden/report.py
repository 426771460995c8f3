"""What a replay found: one line per quantity of a golden set and where its input came from."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from tests.golden.limits import Limits

TENSOR = 1e-4
"""Relative RMS that float32 tensors may differ by."""

SHOWN = 60
"""Characters of a discrete value in a message."""


@dataclass(slots=True)
class Line:
    """The worst comparison of one quantity from one kind of input."""

    key: str
    kind: str
    passed: bool
    tolerance: float
    relative_rms: float = 0.0
    max_abs: float = 0.0
    count: int = 1
    note: str = ""


class Report:
    """Collects comparisons; `kind` tells the input: `stored`, `own`, `batch` or a stage's word.

    Several comparisons under one key and kind (rows of a batch) are one line, the worst one.
    """

    def __init__(self, expected: Iterable[str] = (), limits: Limits | None = None) -> None:
        self.expected = list(expected)
        self.limits = limits or Limits()
        self.lines: dict[tuple[str, str], Line] = {}
        self.givens: dict[str, str] = {}

    def add(
        self,
        key: str,
        ours: Tensor,
        stored: Tensor,
        tolerance: float = TENSOR,
        kind: str = "stored",
    ) -> tuple[float, float]:
        """Compare a tensor; returns the relative RMS difference and the largest absolute one.

        The difference is relative to the stored values, or absolute where those are all zero.
        The tolerance is the one for float32 on a CPU; `limits` makes it the one for this run.
        """
        tolerance = self.limits.limit(key, tolerance)
        if tuple(ours.shape) != tuple(stored.shape):
            note = f"shape {list(ours.shape)}, stored {list(stored.shape)}"
            self._put(Line(key, kind, False, tolerance, float("inf"), float("inf"), note=note))
            return float("inf"), float("inf")
        left, right = ours.detach().cpu().double(), stored.detach().cpu().double()
        if not right.numel():
            self._put(Line(key, kind, True, tolerance))
            return 0.0, 0.0
        scale = right.square().mean().sqrt().item() or 1.0
        relative = (left - right).square().mean().sqrt().item() / scale
        largest = (left - right).abs().max().item()
        # NaN compares false with everything, so ask for what is right.
        self._put(Line(key, kind, relative <= tolerance, tolerance, relative, largest))
        return relative, largest

    def add_absolute(
        self, key: str, ours: Tensor, stored: Tensor, limit: float, kind: str = "stored"
    ) -> float:
        """Compare a tensor by its largest absolute difference."""
        relative, largest = self.add(key, ours, stored, float("inf"), kind)
        line = self.lines[key, kind]
        line.tolerance = self.limits.limit(key, limit)
        line.passed = line.passed and largest <= line.tolerance
        line.note = line.note or "absolute"
        return relative

    def equal(self, key: str, ours: Any, stored: Any, kind: str = "stored") -> bool:
        """Compare a discrete value: ids, flags, lengths, text, or an integer tensor."""
        ours, stored = _plain(ours), _plain(stored)
        same = bool(ours == stored)
        note = "" if same else _first_difference(ours, stored)
        self._put(Line(key, kind, same, 0.0, note=note))
        return same

    def given(self, key: str, why: str) -> None:
        """List a quantity that is taken from the set instead of being compared."""
        self.givens[key] = why

    def fail(self, key: str, why: str, kind: str = "stage") -> None:
        """Record that a quantity could not be computed at all."""
        self._put(Line(key, kind, False, 0.0, note=why))

    def missing(self) -> list[str]:
        """Return the expected keys with neither a comparison nor a reason why there is none.

        A longer name (`key.part`) covers its key, so that a stage may compare a list by its parts.
        """
        seen = {key for key, _ in self.lines} | self.givens.keys()
        covered = set(seen)
        for key in seen:
            while "." in key:
                key = key.rpartition(".")[0]
                covered.add(key)
        return [key for key in self.expected if key not in covered]

    def failed(self) -> list[Line]:
        return [line for line in self.lines.values() if not line.passed]

    def exit_code(self) -> int:
        return 1 if self.failed() or self.missing() else 0

    def text(self) -> str:
        """Return the report as lines for a person."""
        lines = [_line_text(line) for line in self.lines.values()]
        lines += [f"given  {key}: {why}" for key, why in self.givens.items()]
        lines += [f"MISSED {key}" for key in self.missing()]
        worst = max((line.relative_rms for line in self.lines.values()), default=0.0)
        lines.append(
            f"{len(self.lines)} quantities, {len(self.failed())} out of tolerance, "
            f"{len(self.missing())} not compared, {len(self.givens)} given, "
            f"worst relative RMS {worst:.2e}"
        )
        return "\n".join(lines)

    def json(self) -> str:
        return json.dumps(
            {
                "lines": [asdict(line) for line in self.lines.values()],
                "given": self.givens,
                "missing": self.missing(),
                "exit_code": self.exit_code(),
            },
            indent=1,
        )

    def _put(self, line: Line) -> None:
        known = self.lines.get((line.key, line.kind))
        if known is None:
            self.lines[line.key, line.kind] = line
            return
        known.count += 1
        known.passed = known.passed and line.passed
        known.relative_rms = max(known.relative_rms, line.relative_rms)
        known.max_abs = max(known.max_abs, line.max_abs)
        known.note = known.note or line.note


def _line_text(line: Line) -> str:
    verdict = "ok    " if line.passed else "FAIL  "
    times = f" x{line.count}" if line.count > 1 else ""
    head = f"{verdict} {line.key} [{line.kind}]{times}"
    if line.tolerance > 0:
        head += f" rms {line.relative_rms:.2e} max {line.max_abs:.2e} limit {line.tolerance:g}"
    return f"{head} {line.note}".rstrip()


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, torch.Size | tuple | list):
        return [_plain(item) for item in value]
    return value


def _first_difference(ours: Any, stored: Any) -> str:
    if isinstance(ours, list) and isinstance(stored, list):
        for place, (left, right) in enumerate(zip(ours, stored, strict=False)):
            if left != right:
                return f"[{place}] {str(left)[:SHOWN]}, stored {str(right)[:SHOWN]}"
        return f"length {len(ours)}, stored {len(stored)}"
    return f"{str(ours)[:SHOWN]!r}, stored {str(stored)[:SHOWN]!r}"
