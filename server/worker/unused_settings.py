"""Settings of a session that are accepted, as OpenAI's clients send them, and change nothing."""

from __future__ import annotations

from server.worker.engine_settings import mode_of
from signaling.session.core import Abilities
from signaling.settings import ServerVad, SessionSettings


def unused(settings: SessionSettings, abilities: Abilities | None = None) -> list[str]:
    """The settings that differ from their defaults and are not honoured, by their dotted names."""
    calls = abilities is not None and mode_of(settings) in abilities.tool_modes
    hears = settings.audio.input
    detection = hears.turn_detection
    asked = {
        "audio.input.noise_reduction": hears.noise_reduction is not None,
        "audio.input.turn_detection.idle_timeout_ms": isinstance(detection, ServerVad)
        and detection.idle_timeout_ms is not None,
        "tools": bool(settings.tools) and not calls,
        "tool_choice": not calls and settings.tool_choice not in ("auto", "none"),
        "truncation.retention_ratio": isinstance(settings.truncation, dict),
        "video.fps": settings.video.fps != SessionSettings().video.fps,
    }
    return [f"session.{name}" for name, is_asked in asked.items() if is_asked]
