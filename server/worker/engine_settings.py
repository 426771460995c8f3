"""From what a client may set (the Realtime session object) to what an engine understands."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from engine.ipc.protocol import (
    CUT_WORDS,
    FunctionTool,
    Mode,
    Retention,
    Sampling,
    SessionConfig,
    ToolChoice,
    TurnDetection,
    Welcome,
)
from signaling.session.core import Abilities
from signaling.settings import (
    Option,
    RetentionRatio,
    SemanticVad,
    ServerVad,
    SessionSettings,
)

EAGERNESS_PATIENCE = {"low": 3.0, "medium": 3.0, "auto": 3.0, "high": 2.0}
EAGERNESS_SILENCE_MS = {"low": 480, "medium": 320, "auto": 320, "high": 220}
SAMPLED = frozenset(msgspec.structs.asdict(Sampling())) - {"max_output_tokens"}
"""What `session.engine` may set of how words are chosen."""
LENGTH_PENALTIES = {"short": 1.0, "balanced": 1.1, "long": 1.3}
"""What `response_length` means where a number is honoured: above 1 answers become longer, and
interrupting them harder."""
DETAIL_SLICES = {"low": 1, "auto": 1, "high": 2}


def mode_of(settings: SessionSettings) -> Mode:
    """Full duplex, half duplex or turn-based, as `turn_detection` tells."""
    match settings.audio.input.turn_detection:
        case SemanticVad():
            return "full_duplex"
        case ServerVad():
            return "half_duplex"
        case _:
            return "turn_based"


def engine_config(
    settings: SessionSettings, recalled: str = "", *, can_hold: bool = True
) -> SessionConfig:
    """The engine's view of a session's settings.

    `recalled`: what was said before, see `recall`. `can_hold`: an answer that is heard can wait.
    """
    detection = settings.audio.input.turn_detection
    match detection:
        case SemanticVad():
            turns = TurnDetection(
                silence_duration_ms=EAGERNESS_SILENCE_MS[detection.eagerness],
                patience=EAGERNESS_PATIENCE[detection.eagerness],
                create_response=detection.create_response,
                interrupt_response=detection.interrupt_response,
            )
        case ServerVad():
            turns = TurnDetection(
                threshold=detection.threshold,
                prefix_padding_ms=min(detection.prefix_padding_ms, 2000),
                silence_duration_ms=min(max(detection.silence_duration_ms, 100), 5000),
                create_response=detection.create_response,
                interrupt_response=detection.interrupt_response,
            )
        case _:
            turns = TurnDetection(create_response=False)
    if detection is not None:
        words = CUT_WORDS if detection.cut_words is None else detection.cut_words
        turns = msgspec.structs.replace(
            turns, overlap=detection.overlap, cut_words=words, can_hold=can_hold
        )
    if settings.type == "transcription":
        turns = msgspec.structs.replace(turns, create_response=False, interrupt_response=False)
    voice = settings.audio.output.voice_name
    choice, name = choice_of(settings.tool_choice)
    limit = settings.max_output_tokens
    written = settings.audio.input.transcription
    given = settings.engine
    if settings.response_length is not None:
        given = {"length_penalty": LENGTH_PENALTIES[settings.response_length], **given}
    sampling, options = _sampling(given, limit if isinstance(limit, int) else None)
    return SessionConfig(
        mode=mode_of(settings),
        instructions=settings.instructions,
        appendix=recalled,
        # OpenAI's names of voices mean nothing here; an engine takes its default for those.
        voice=voice if voice != "default" else "",
        speed=settings.audio.output.speed,
        modalities=settings.output_modalities,
        turn_detection=turns,
        sampling=sampling,
        transcribe=written is not None,
        transcribe_language=(written and written.language) or "",
        context_policy="end" if settings.truncation == "disabled" else "slide",
        retention=_retention(settings.truncation),
        max_image_slices=DETAIL_SLICES[settings.video.detail],
        tools=function_tools(settings.tools),
        tool_choice=choice,
        tool_name=name,
        options=options,
    )


def _retention(truncation: str | RetentionRatio) -> Retention | None:
    if not isinstance(truncation, RetentionRatio):
        return None
    limits = truncation.token_limits
    most = None if limits is None else limits.post_instructions
    return Retention(truncation.retention_ratio, most)


def _sampling(
    given: Mapping[str, Option], max_output_tokens: int | None
) -> tuple[Sampling, dict[str, Option]]:
    """How words are chosen, and the options that the engine knows itself.

    What is out of bounds stays an option, so that the engine tells of it.
    """
    options, chosen = dict(given), {}
    for name in SAMPLED & options.keys():
        try:
            msgspec.convert({name: options[name]}, Sampling)
        except msgspec.ValidationError:
            continue
        chosen[name] = options.pop(name)
    wanted = chosen | {"max_output_tokens": max_output_tokens}
    return msgspec.convert(wanted, Sampling), options


def function_tools(tools: Iterable[dict[str, Any]]) -> tuple[FunctionTool, ...]:
    """The functions among a client's tools; the others have been refused or told of."""
    return tuple(
        FunctionTool(
            tool["name"],
            str(tool.get("description") or ""),
            json.dumps(tool.get("parameters") or {}),
        )
        for tool in tools
        if tool.get("type", "function") == "function" and _is_name(tool.get("name"))
    )


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and 0 < len(name) <= 128


def choice_of(tool_choice: str | dict[str, Any] | None) -> tuple[ToolChoice, str]:
    """Which function is called: whether at all, and the name of the one that must be."""
    match tool_choice:
        case "none":
            return "none", ""
        case "required":
            return "required", ""
        case {"type": "function", "name": str(name)}:
            return "required", name
        case _:
            return "auto", ""


def abilities_of(welcome: Welcome) -> Abilities:
    """What an engine can do, as connections ask for it."""
    return Abilities(
        tool_modes=welcome.tool_modes,
        appends=welcome.appends,
        delegates=welcome.delegates,
        answers_out_of_band=welcome.answers_out_of_band,
        transcribes=welcome.transcribes,
        sees=welcome.video,
        hears_in_units=welcome.unit_ms > 0,
        voices=welcome.voices,
        takes_voices=welcome.takes_voices,
        languages=welcome.writes or welcome.languages,
        context_tokens=welcome.context_tokens,
        honours=frozenset(welcome.honours),
    )
