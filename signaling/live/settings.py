"""What a Live configuration means for a session: its settings, items and tools. Any process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from signaling.live.session_config import (
    ClientDelegation,
    LiveConfig,
    PastAnswer,
    PastMessage,
    PastRule,
    ResponsesDelegation,
)
from signaling.live.tasks import TOOL
from signaling.session.core import Abilities, ContextKind
from signaling.session.items import InputMessage, InputTextPart, Role
from signaling.settings import SessionSettings

OPENAI_VOICES = frozenset(
    "alloy ash ballad cedar coral echo marin sage shimmer verse".split()  # noqa: SIM905
)
"""Clients always name one; here they mean the default voice."""
CALLING = Abilities(tool_modes=("full_duplex",))
APPENDS: tuple[ContextKind, ...] = ("instructions", "thinking", "commentary")
UNUSED_BACKEND = (
    "max_output_tokens",
    "parallel_tool_calls",
    "reasoning",
    "service_tier",
    "text",
)


def settings_of(config: LiveConfig) -> SessionSettings:
    """Return the settings that a session starts with; raises `ProtocolError`.

    Functions are added when it is known whether the engine calls any (`tool_changes`).
    """
    voice = "" if config.voice in OPENAI_VOICES else config.voice
    settings = SessionSettings().merge(
        {
            "model": config.model,
            "instructions": config.instructions or "",
            "audio": {"output": {"voice": voice or "default"}},
        }
    )
    # What an engine that calls functions would be given on top must be within bounds, too.
    settings.merge(tool_changes(config, CALLING))
    return settings


def past_items(config: LiveConfig) -> Iterator[InputMessage]:
    """Return what was said before the session, in order."""
    for message in config.input or ():
        text = InputTextPart(message.content[0].text)
        yield InputMessage(role=_role(message), parts=(text,), id=message.id)


def _role(message: PastMessage) -> Role:
    match message:
        case PastRule():
            return "system"
        case PastAnswer():
            return "assistant"
        case _:
            return "user"


def calls_functions(abilities: Abilities | None) -> bool:
    return abilities is not None and "full_duplex" in abilities.tool_modes


def tool_changes(config: LiveConfig, abilities: Abilities | None) -> dict[str, Any]:
    """Return the settings with which the engine can delegate; {} if it cannot."""
    if not calls_functions(abilities):
        return {}
    delegation = config.delegation
    if isinstance(delegation, ResponsesDelegation):
        backend = delegation.responses
        rules = [config.instructions or "", backend.instructions or ""]
        return {
            "tools": list(backend.tools or ()),
            "tool_choice": backend.tool_choice or "auto",
            "instructions": "\n\n".join(filter(None, rules)),
        }
    if abilities is not None and abilities.delegates:
        return {}
    return {"tools": [TOOL]}


def notices(config: LiveConfig, abilities: Abilities | None) -> Iterator[tuple[str, str]]:
    """Return code and message for each setting that has no effect with this engine."""
    has_voice = abilities is not None and abilities.may_speak_with(config.voice)
    if config.voice and config.voice not in OPENAI_VOICES and not has_voice:
        yield "voice_unknown", f"There is no voice {config.voice[:80]!r}; the default one speaks."
    if abilities is not None and not abilities.transcribes:
        yield "no_input_transcript", "What the user says is not written down by this model."
    if abilities is not None and (lacking := set(APPENDS) - set(abilities.appends)):
        names = ", ".join(f"session.{kind}.append" for kind in APPENDS if kind in lacking)
        yield "append_unsupported", f"This model takes no {names}."
    delegation = config.delegation
    if not isinstance(delegation, ResponsesDelegation):
        return
    if not calls_functions(abilities):
        told = "This model delegates nothing: session.delegation.responses has no effect."
        yield "delegation_unavailable", told
        return
    for name in UNUSED_BACKEND:
        if getattr(delegation.responses, name) is not None:
            told = f"session.delegation.responses.{name} is accepted but has no effect here."
            yield "unused_setting", told


def acknowledgement_delay_ms(config: LiveConfig) -> int:
    """Return how long the model waits before it says that a task takes a moment."""
    delegation = config.delegation
    if isinstance(delegation, ClientDelegation | ResponsesDelegation):
        return delegation.acknowledgement_delay_ms or 0
    return 0
