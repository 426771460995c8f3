"""The figures of the behaviour bench as a page of Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

Columns = dict[str, dict[str, Any]]
"""What was measured, by the engine's speech parts."""


def page(found: Columns) -> str:
    return "\n".join(_lines(found))


def _lines(found: Columns) -> Iterator[str]:
    for part, (heads, cells) in TABLES.items():
        rows = list(_rows(found, part))
        if rows:
            yield _line(heads)
            yield "|---" * len(heads) + "|"
            for name, title, row in rows:
                yield _line((name, title, *cells(row)))
            yield ""
    for title, result in found.items():
        if "voice" in result:
            yield f"DNSMOS of the answering voice {title}: {result['voice']}"
            yield ""


def _line(cells: Iterable[Any]) -> str:
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def _overlap_cells(row: dict[str, Any]) -> tuple[Any, ...]:
    right = f"{row['right']} of {row['questions']}" if "right" in row else ""
    ducked, silent = _pair(row.get("ducked_ms")), _pair(row.get("silent_ms"))
    return row["cases"], row["stopped"], ducked, silent, right


def _turn_cells(row: dict[str, Any]) -> tuple[Any, ...]:
    counts = (row[name] for name in ("cases", "answered", "right", "spoken_over"))
    return *counts, _pair(row["response_ms"])


def _rows(found: Columns, part: str) -> Iterator[tuple[str, str, Any]]:
    """Each kind of a part, with each of the speech parts below the other."""
    kinds = dict.fromkeys(kind for result in found.values() for kind in result.get(part, {}))
    for kind in kinds:
        for title, result in found.items():
            if kind in result.get(part, {}):
                yield kind, title, result[part][kind]


def _pair(figures: dict[str, Any] | None) -> str:
    if not figures or figures["p50"] is None:
        return ""
    return f"{figures['p50']} / {figures['p95']} ms"


_WITH = "with"
TABLES: dict[str, tuple[tuple[str, ...], Callable[[Any], tuple[Any, ...]]]] = {
    "overlaps": (
        ("over an answer", _WITH, "cases", "stopped", "ducked", "silent p50 / p95", "right"),
        _overlap_cells,
    ),
    "turns": (
        ("a command", _WITH, "cases", "answered", "right", "spoken over", "response p50 / p95"),
        _turn_cells,
    ),
    "sentences": (
        ("open sentences", _WITH, "cases", "words wrong"),
        lambda row: (row["cases"], f"{row['wer']:.3f}"),
    ),
    "loss": (
        ("lost packets", _WITH, "PLCMOS", "fall"),
        lambda row: (row.get("plcmos", ""), row.get("fall", "")),
    ),
    "clock": (("stream to the caller", _WITH, "ahead of real time, ms"), lambda ms: (ms,)),
    "false_turns": (("nobody speaks", _WITH, "answers"), lambda count: (count,)),
}
