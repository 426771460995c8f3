"""The modes that the operator offers, and what becomes of a session that wants another one."""

from __future__ import annotations

from typing import get_args

from msgspec.structs import replace

from engine.ipc.session_config import Mode
from server.worker.engine_settings import mode_of
from signaling.settings import SemanticVad, ServerVad, SessionSettings
from signaling.toolchecks import unsupported

MODES: tuple[Mode, ...] = get_args(Mode)
WHERE = "session.audio.input.turn_detection"
_TURNS = {"full_duplex": SemanticVad(), "half_duplex": ServerVad(), "turn_based": None}
_WORDS = {
    "full_duplex": '"semantic_vad" (full duplex)',
    "half_duplex": '"server_vad" (half duplex)',
    "turn_based": "null (turn-based)",
}


def is_offered(settings: SessionSettings, modes: tuple[Mode, ...]) -> bool:
    """Whether a session may have this mode; one that only transcribes has none."""
    return settings.type == "transcription" or mode_of(settings) in modes


def within(settings: SessionSettings, modes: tuple[Mode, ...]) -> SessionSettings:
    """The settings with which a session begins: in the first mode where its own is not offered."""
    if is_offered(settings, modes):
        return settings
    hears = replace(settings.audio.input, turn_detection=_TURNS[modes[0]])
    return replace(settings, audio=replace(settings.audio, input=hears))


def check_mode(settings: SessionSettings, modes: tuple[Mode, ...]) -> None:
    """Raise `ProtocolError` for a change to a mode that is not offered."""
    if not is_offered(settings, modes):
        allowed = ", ".join(_WORDS[mode] for mode in modes)
        raise unsupported(WHERE, f"this mode is not offered here; allowed: {allowed}")


def told(modes: tuple[Mode, ...]) -> str:
    """What the client of a session reads that begins in another mode than it asked for."""
    return f"{WHERE}: this mode is not offered here; the session has {_WORDS[modes[0]]}."
