"""Settings that change nothing are told once, by name; those that clients leave alone never."""

from __future__ import annotations

from typing import Any

import pytest

from server.worker.unused_settings import unused
from signaling.settings import SessionSettings
from tests.server.worker.talk import Talk

SILENT = {"type": "server_vad", "idle_timeout_ms": 6000}


def told(talk: Talk) -> list[str]:
    return [event["message"] for event in talk.of("session.warning")]


def test_defaults_are_all_honoured() -> None:
    assert unused(SessionSettings()) == []


@pytest.mark.parametrize(
    ("update", "name"),
    [
        (
            {"audio": {"input": {"noise_reduction": {"type": "near_field"}}}},
            "session.audio.input.noise_reduction",
        ),
        (
            {
                "audio": {
                    "input": {"turn_detection": {"type": "server_vad", "idle_timeout_ms": 6000}}
                }
            },
            "session.audio.input.turn_detection.idle_timeout_ms",
        ),
        ({"tools": [{"type": "function", "name": "f"}]}, "session.tools"),
        ({"tool_choice": "required"}, "session.tool_choice"),
        (
            {"truncation": {"type": "retention_ratio", "retention_ratio": 0.5}},
            "session.truncation.retention_ratio",
        ),
        ({"video": {"fps": 5}}, "session.video.fps"),
    ],
)
def test_setting_without_effect_is_told_once_by_its_name(update: dict[str, Any], name: str) -> None:
    talk = Talk()
    talk.conversation.update(update)
    assert told(talk) == [f"{name} is accepted but has no effect here."]
    talk.conversation.update(update)
    talk.conversation.update({"instructions": "Be brief."})
    assert len(told(talk)) == 1
