"""The figures of the behaviour bench as a page of Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def page(result: dict[str, Any]) -> str:
    return "\n".join(_lines(result))


def _lines(result: dict[str, Any]) -> Iterator[str]:
    if result["overlaps"]:
        yield "| over an answer | cases | stopped | ducked p50 / p95 | silent p50 / p95 | right |"
        yield "|---|---|---|---|---|---|"
        for name, row in result["overlaps"].items():
            right = f"{row['right']} of {row['questions']}" if "right" in row else ""
            yield (
                f"| {name} | {row['cases']} | {row['stopped']} | {_pair(row.get('ducked_ms'))} | "
                f"{_pair(row.get('silent_ms'))} | {right} |"
            )
        yield ""
    if result["turns"]:
        yield "| a command | cases | answered | right | spoken over | response p50 / p95 |"
        yield "|---|---|---|---|---|---|"
        for name, row in result["turns"].items():
            yield (
                f"| {name} | {row['cases']} | {row['answered']} | {row['right']} | "
                f"{row['spoken_over']} | {_pair(row['response_ms'])} |"
            )
        yield ""
    if result["sentences"]:
        yield "| open sentences | cases | words wrong |"
        yield "|---|---|---|"
        for name, row in result["sentences"].items():
            yield f"| {name} | {row['cases']} | {row['wer']:.3f} |"
        yield ""
    if "voice" in result:
        yield f"DNSMOS of the answering voice: {result['voice']}"
        yield ""
    if "false_turns" in result:
        yield "| nobody speaks | answers |"
        yield "|---|---|"
        for name, count in result["false_turns"].items():
            yield f"| {name} | {count} |"


def _pair(figures: dict[str, Any] | None) -> str:
    if not figures or figures["p50"] is None:
        return ""
    return f"{figures['p50']} / {figures['p95']} ms"
