"""Of what a client has set, what has an effect: the rest is refused, or told of and not echoed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import to_builtins
from msgspec.structs import replace

from server.worker.engine_settings import mode_of
from signaling.session.core import Abilities
from signaling.settings import SessionSettings
from signaling.toolchecks import unsupported

TOLD_HERE = frozenset(
    {"instructions", "voice", "speed", "max_output_tokens", "tools", "tool_choice", "tool_name"}
)
"""What engines call the settings that are told of from here, where there is one."""
OWN = frozenset({"id", "object", "expires_at"})
"""Members that come back with the session's own object."""
RATE = "rate"
"""Checked, and not told where a format has only one."""


def calls_functions(settings: SessionSettings, abilities: Abilities | None) -> bool:
    return abilities is not None and mode_of(settings) in abilities.tool_modes


def refuse(
    changes: Mapping[str, Any], settings: SessionSettings, abilities: Abilities | None
) -> None:
    """Raise `ProtocolError` for changes that this engine cannot do and must not seem to.

    `settings`: with the changes.
    """
    if changes.get("tools") and abilities is not None and not calls_functions(settings, abilities):
        raise unsupported("session.tools", "this engine calls no functions in this mode")


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
    if speaks.voice not in abilities.voices:
        speaks = replace(speaks, voice="default")
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
    spoken = wanted.audio.input.transcription
    asked = {
        "instructions": bool(wanted.instructions) and "instructions" not in abilities.honours,
        "audio.input.noise_reduction": wanted.audio.input.noise_reduction is not None,
        "audio.input.transcription": wanted.audio.input.transcription
        != real.audio.input.transcription,
        "audio.input.transcription.language": abilities.transcribes
        and spoken is not None
        and spoken.language is not None,
        "audio.input.transcription.prompt": abilities.transcribes
        and spoken is not None
        and spoken.prompt is not None,
        "audio.output.voice": wanted.audio.output.voice != real.audio.output.voice,
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
        if value is None or name in OWN or name == RATE:
            continue
        at = f"{where}.{name[:64]}"
        if name not in known:
            yield at
        elif isinstance(value, Mapping) and isinstance(known[name], Mapping):
            yield from _unknown(value, known[name], at)
