"""Codes of errors and warnings, read from the source that gives them: none is forgotten. Front."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from server.endings import FAILURES, REASONS

PACKAGES = (
    *("signaling", "server.front", "server.worker", "engine.builtin", "engine.scripted"),
    *("engine.minicpmo.session", "engine.minicpmo.modes", "engine.minicpmo.speech"),
)
"""Where clients are told of anything."""
NEAR_LINES = 12
CALLS = {
    "ProtocolError": "error",
    "json_error": "error",
    "refuse": "error",
    "_refuse": "error",
    "notify": "warning",
    "warn": "warning",
    "_warn": "warning",
    "_inform": "info",
    "SessionWarning": "warning",
    "Notice": "warning",
}
"""What tells a client of something -> what it becomes."""
PLACE = {"error": 1, "warning": 0, "info": 0}
"""Where a code stands that is given without its name; of errors behind whom it is told to."""


class CodeDoc(NamedTuple):
    """A code that clients can meet."""

    code: str
    kind: str
    """error, warning or info."""
    text: str
    """As it is told first in the source; a part that differs is an ellipsis."""


class EndingDoc(NamedTuple):
    """A reason for the end of a session."""

    code: str
    text: str
    is_failure: bool


def endings() -> list[EndingDoc]:
    """Why sessions end."""
    return [EndingDoc(code, text, code in FAILURES) for code, text in sorted(REASONS.items())]


@functools.cache
def codes() -> tuple[CodeDoc, ...]:
    """All codes, each once for what it becomes, in alphabetical order."""
    found: dict[tuple[str, str], CodeDoc] = {}
    for package in PACKAGES:
        for path in sorted(Path(str(resources.files(package))).rglob("*.py")):
            source = path.read_text()
            if not any(f"{name}(" in source for name in CALLS):
                continue
            for told in _told(ast.parse(source)):
                kept = found.setdefault((told.code, told.kind), told)
                if not kept.text:
                    found[told.code, told.kind] = told
    return tuple(sorted(found.values()))


def _told(tree: ast.Module) -> Iterator[CodeDoc]:
    noted = [
        (target.id, node.lineno, node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    ]

    def resolved(part: ast.expr | None) -> ast.expr | None:
        """What a name stands for that was given its value just before."""
        if not isinstance(part, ast.Name):
            return part
        near = [
            (line, value)
            for name, line, value in noted
            if name == part.id and 0 <= part.lineno - line <= NEAR_LINES
        ]
        return max(near, key=lambda found: found[0])[1] if near else part

    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        kind = CALLS.get(name)
        if kind is None:
            continue
        given = {word.arg: word.value for word in node.keywords}
        plain = list(node.args)
        code = given.get("code") or (
            plain[PLACE[kind]] if len(plain) > PLACE[kind] and name != "ProtocolError" else None
        )
        if isinstance(code, ast.Constant) and isinstance(code.value, str) and _is_code(code.value):
            texts = [
                resolved(part)
                for part in (given.get("message"), *(part for part in plain if part is not code))
            ]
            yield CodeDoc(code.value, kind, next(filter(None, map(_words, texts)), ""))


def _is_code(text: str) -> bool:
    return text.replace("_", "").isalnum() and text.islower()


def _words(node: ast.expr | None) -> str:
    """The words of a message as far as the source has them; a code or a name is none."""
    match node:
        case ast.Constant(value=str(text)):
            return text if " " in text else ""
        case ast.JoinedStr(values=parts):
            words = "".join(
                str(part.value) if isinstance(part, ast.Constant) else "…" for part in parts
            )
            return words if " " in words else ""
    return ""
