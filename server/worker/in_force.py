"""Of what a client has set, what has an effect: the rest is refused, or told of and not echoed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import to_builtins
from msgspec.structs import replace

from server.worker.engine_settings import mode_of
from signaling.errors import ProtocolError
from signaling.session.core import Abilities
from signaling.settings import SessionSettings

TAKEN_SILENTLY = frozenset({"id", "object", "expires_at", "reasoning", "parallel_tool_calls"})
"""Members that say nothing about a session of ours, or that come back with its own object."""
RATE = "rate"
"""Checked, and not told where a format has only one."""


def calls_functions(settings: SessionSettings, abilities: Abilities | None) -> bool:
    return abilities is not None and mode_of(settings) in abilities.tool_modes


def refuse(
    changes: Mapping[str, Any], settings: SessionSettings, abilities: Abilities | None
) -> None:
    """Raise `ProtocolError` for changes that cannot be done and must not seem to be.

    `settings`: with the changes.
    """
    if changes.get("prompt") is not None:
        raise _unsupported("session.prompt", "there are no stored prompts here")
    for index, tool in enumerate(settings.tools):
        check_tool(tool, f"session.tools.{index}")
    check_choice(settings.tool_choice, settings.tools, "session.tool_choice")
    if changes.get("tools") and abilities is not None and not calls_functions(settings, abilities):
        raise _unsupported("session.tools", "this engine calls no functions in this mode")


def check_tool(tool: Mapping[str, Any], where: str) -> None:
    """Raise `ProtocolError` for a tool that is no function that can be called."""
    if tool.get("type", "function") != "function":
        kind = str(tool.get("type"))[:40]
        raise _unsupported(
            f"{where}.type", f'"{kind}" is not called from here; allowed: "function"'
        )
    name = tool.get("name")
    if not isinstance(name, str) or not 0 < len(name) <= 128:
        raise ProtocolError(
            f"{where}.name: a name of 1 to 128 characters is needed.", param=f"{where}.name"
        )


def check_choice(
    choice: str | Mapping[str, Any], tools: tuple[dict[str, Any], ...], where: str
) -> None:
    """Raise `ProtocolError` for a choice that names no function there is."""
    if isinstance(choice, str):
        if choice not in ("auto", "none", "required"):
            told = f'{where}: allowed: "auto", "none", "required", or one function by its name.'
            raise ProtocolError(told, param=where)
        return
    if choice.get("type") != "function":
        raise _unsupported(f"{where}.type", 'only functions are called; allowed: "function"')
    if choice.get("name") not in [tool.get("name") for tool in tools]:
        raise ProtocolError(
            f"{where}.name: {str(choice.get('name'))[:80]!r} is none of the tools.",
            param=f"{where}.name",
        )


def in_force(settings: SessionSettings, abilities: Abilities | None) -> SessionSettings:
    """The settings as they have an effect; all of them while no engine serves the session."""
    if abilities is None:
        return settings
    hears, speaks = settings.audio.input, settings.audio.output
    hears = replace(
        hears,
        noise_reduction=None,
        transcription=hears.transcription if abilities.transcribes else None,
    )
    if "speed" not in abilities.honours:
        speaks = replace(speaks, speed=1.0)
    calls = calls_functions(settings, abilities)
    return replace(
        settings,
        audio=replace(settings.audio, input=hears, output=speaks),
        include=None,
        tracing=None,
        tools=settings.tools if calls else (),
        tool_choice=settings.tool_choice if calls else "auto",
        truncation="auto" if isinstance(settings.truncation, dict) else settings.truncation,
        max_output_tokens=settings.max_output_tokens
        if "max_output_tokens" in abilities.honours
        else "inf",
    )


def without_effect(settings: SessionSettings, abilities: Abilities | None) -> list[str]:
    """The settings that differ from their defaults and have no effect, by their dotted names."""
    if abilities is None:
        return []
    wanted, real = settings, in_force(settings, abilities)
    asked = {
        "audio.input.noise_reduction": wanted.audio.input.noise_reduction is not None,
        "audio.input.transcription": wanted.audio.input.transcription
        != real.audio.input.transcription,
        "audio.output.speed": wanted.audio.output.speed != real.audio.output.speed,
        "include": bool(wanted.include),
        "max_output_tokens": wanted.max_output_tokens != real.max_output_tokens,
        "tools": wanted.tools != real.tools,
        "tool_choice": wanted.tool_choice not in ("none", real.tool_choice),
        "truncation.retention_ratio": isinstance(wanted.truncation, dict),
        "video.fps": wanted.video.fps != SessionSettings().video.fps,
    }
    return [f"session.{name}" for name, is_asked in asked.items() if is_asked]


def unknown(changes: Mapping[str, Any], settings: SessionSettings) -> list[str]:
    """The members of a partial session object that no setting has, by their dotted names."""
    return list(_unknown(changes, to_builtins(settings), "session"))


def _unknown(given: Mapping[str, Any], known: Mapping[str, Any], where: str) -> Iterator[str]:
    for name, value in given.items():
        if value is None or name in TAKEN_SILENTLY or name == RATE:
            continue
        at = f"{where}.{name[:64]}"
        if name not in known:
            yield at
        elif isinstance(value, Mapping) and isinstance(known[name], Mapping):
            yield from _unknown(value, known[name], at)


def _unsupported(where: str, why: str) -> ProtocolError:
    return ProtocolError(f"{where}: {why}.", code="unsupported_value", param=where)
