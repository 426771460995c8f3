"""What clients of openbmb-realtime send, and what is refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from signaling.errors import ProtocolError
from signaling.openbmb.client_messages import (
    ClientClose,
    DuplexConfig,
    DuplexInput,
    InitPayload,
    ReferenceVoice,
    parse_message,
)


def parsed(kind: str, **members: Any) -> Any:
    return parse_message(json.dumps({"type": kind, **members}))


def test_init_is_read_with_members_that_are_not_set_absent() -> None:
    assert parsed("session.init", payload={}) == InitPayload()
    payload = {
        "system_prompt": "Be brief.",
        "config": {"length_penalty": 1.1, "tts_enabled": False, "vision_hd": True},
        "voice": {"ref_audio_base64": "AAAA"},
        "max_slice_nums": 9,
        "of_tomorrow": 1,
    }
    assert parsed("session.init", payload=payload) == InitPayload(
        system_prompt="Be brief.",
        config=DuplexConfig(length_penalty=1.1, tts_enabled=False, vision_hd=True),
        voice=ReferenceVoice(ref_audio_base64="AAAA"),
        max_slice_nums=9,
    )


def test_both_sets_of_names_mean_the_same() -> None:
    given = {"audio": "AAAA", "video_frames": ["BBBB"], "force_listen": True}
    unit = DuplexInput(audio="AAAA", video_frames=("BBBB",), force_listen=True)
    assert parsed("input.append", input=given) == unit
    demo = parsed("input_audio_buffer.append", **given)
    assert (demo.audio, demo.video_frames, demo.force_listen) == ("AAAA", ("BBBB",), True)
    session = {"instructions": "Hm.", "ref_audio": "AA", "voice_config": {"length_penalty": 1.3}}
    assert parsed("session.update", session=session) == InitPayload(
        system_prompt="Hm.",
        config=DuplexConfig(length_penalty=1.3),
        voice=ReferenceVoice(ref_audio_base64="AA"),
    )
    assert parsed("session.close") == ClientClose(reason="user_stop")


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"type": "input.append"}, "input"),
        ({"type": "input.append", "input": {"audio": ""}}, "input.audio"),
        ({"type": "input.append", "input": {"audio": "A" * 900_000}}, "input.audio"),
        ({"type": "session.init", "payload": {"max_slice_nums": 10}}, "payload.max_slice_nums"),
        (
            {"type": "session.init", "payload": {"config": {"temperature": "hot"}}},
            "payload.config.temperature",
        ),
        ({"type": "input.commit"}, "type"),
        ({"type": 7}, "type"),
        ([], None),
    ],
)
def test_what_cannot_be_used_is_named(message: Any, param: str | None) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse_message(json.dumps(message))
    assert caught.value.param == param
