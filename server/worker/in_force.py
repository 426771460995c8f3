"""Of what a client has set, what has an effect: the rest is refused, or told of and not echoed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from msgspec.structs import replace

from server.worker.engine_settings import SAMPLED, mode_of
from signaling.session.core import Abilities
from signaling.settings import RetentionRatio, SessionSettings, Transcription
from signaling.toolchecks import unsupported

TOLD_HERE = frozenset(
    {
        *("instructions", "voice", "speed", "max_output_tokens", "tools", "tool_choice"),
        *("tool_name", "context_policy", "retention"),
        *SAMPLED,
    }
)
"""What engines call the settings that are told of from here, where there is one."""


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
    if changes.get("truncation") and abilities is not None:
        _check_limit(settings.truncation, abilities.context_tokens)
    hears = (changes.get("audio") or {}).get("input") or {}
    if hears.get("transcription") and abilities is not None and _is_foreign(settings, abilities):
        known = ", ".join(abilities.languages)
        told = f"other languages than {known} are not written down"
        raise unsupported("session.audio.input.transcription.language", told)


def _check_limit(truncation: str | RetentionRatio, context_tokens: int) -> None:
    """Raise `ProtocolError` for more of a conversation than the model can remember."""
    if not isinstance(truncation, RetentionRatio) or truncation.token_limits is None:
        return
    most = truncation.token_limits.post_instructions
    if most is not None and context_tokens and most > context_tokens:
        told = f"the model here remembers {context_tokens} tokens"
        raise unsupported("session.truncation.token_limits.post_instructions", told)


def check_served(settings: SessionSettings, abilities: Abilities | None) -> None:
    """Raise `ProtocolError` for a session that this engine cannot serve at all."""
    if settings.type == "transcription" and abilities is not None and not abilities.transcribes:
        raise unsupported("session.type", "this engine does not write down what it hears")


def _is_foreign(settings: SessionSettings, abilities: Abilities) -> bool:
    """Whether speech is to be written down in a language that the engine does not know."""
    if not abilities.transcribes or not abilities.languages:
        return False
    written = settings.audio.input.transcription
    if written is None or not written.language:
        return False
    return _tongue(written.language) not in map(_tongue, abilities.languages)


def _tongue(language: str) -> str:
    """Of a tag as `en-US` what comes before the region."""
    return language.replace("_", "-").partition("-")[0].lower()


def in_force(settings: SessionSettings, abilities: Abilities | None) -> SessionSettings:
    """The settings as they have an effect; all of them while no engine serves the session."""
    if abilities is None:
        return settings
    hears, speaks = settings.audio.input, settings.audio.output
    hears = replace(
        hears,
        noise_reduction=None,
        transcription=_written(settings, abilities),
    )
    if "speed" not in abilities.honours:
        speaks = replace(speaks, speed=1.0)
    if not abilities.may_speak_with(speaks.voice_name):
        speaks = replace(speaks, voice="default")
    calls = calls_functions(settings, abilities)
    return replace(
        settings,
        audio=replace(settings.audio, input=hears, output=speaks),
        include=None,
        tracing=None,
        truncation=_truncates(settings.truncation, abilities),
        tools=settings.tools if calls else (),
        tool_choice=settings.tool_choice if calls else "auto",
        response_length=settings.response_length if "length_penalty" in abilities.honours else None,
        max_output_tokens=settings.max_output_tokens
        if "max_output_tokens" in abilities.honours
        else "inf",
    )


def _truncates(
    wanted: Literal["auto", "disabled"] | RetentionRatio, abilities: Abilities
) -> Literal["auto", "disabled"] | RetentionRatio:
    needed = "retention" if isinstance(wanted, RetentionRatio) else "context_policy"
    return wanted if wanted == "auto" or needed in abilities.honours else "auto"


def _written(settings: SessionSettings, abilities: Abilities) -> Transcription | None:
    written = settings.audio.input.transcription
    if written is None or not abilities.transcribes:
        return None
    if not abilities.languages or _is_foreign(settings, abilities):
        written = replace(written, language=None)
    return written


def without_effect(settings: SessionSettings, abilities: Abilities | None) -> list[str]:
    """The settings that differ from their defaults and have no effect, by their dotted names."""
    if abilities is None:
        return []
    wanted, real = settings, in_force(settings, abilities)
    spoken, written = wanted.audio.input.transcription, real.audio.input.transcription
    asked = {
        "instructions": bool(wanted.instructions) and "instructions" not in abilities.honours,
        "audio.input.noise_reduction": wanted.audio.input.noise_reduction is not None,
        "audio.input.transcription": not abilities.transcribes
        and spoken not in (None, Transcription()),
        "audio.input.transcription.language": written is not None
        and spoken is not None
        and spoken.language != written.language,
        "audio.input.transcription.prompt": abilities.transcribes
        and spoken is not None
        and spoken.prompt is not None,
        "audio.output.voice": wanted.audio.output.voice != real.audio.output.voice,
        "audio.output.speed": wanted.audio.output.speed != real.audio.output.speed,
        "include": bool(wanted.include),
        "response_length": wanted.response_length != real.response_length,
        "max_output_tokens": wanted.max_output_tokens != real.max_output_tokens,
        "tools": wanted.tools != real.tools,
        "tool_choice": wanted.tool_choice not in ("none", real.tool_choice),
        "truncation": wanted.truncation != real.truncation,
        "video.fps": wanted.video.fps != SessionSettings().video.fps,
    }
    asked |= {
        f"engine.{name}": name not in abilities.honours
        for name in sorted(SAMPLED & wanted.engine.keys())
    }
    return [f"session.{name}" for name, is_asked in asked.items() if is_asked]
