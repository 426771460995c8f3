"""Whatever a client of openbmb-realtime sends, the door survives it, and answers as documented."""

from __future__ import annotations

import json
import typing
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from signaling.openbmb.client_messages import CLIENT_MESSAGES
from signaling.openbmb.server_messages import OpenBmbServerMessage
from tests.signaling.openbmb.test_door import Rig

KINDS = {struct.__struct_config__.tag: struct for struct in typing.get_args(OpenBmbServerMessage)}
WORDS = ("AAAA", "AAAAAAAA", "////", "", "no base64", "user_stop", "Be brief.")
LEAF = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats()),
    st.sampled_from(WORDS),
)
NAMES = st.sampled_from(
    (
        *("payload", "input", "session", "audio", "video_frames", "force_listen", "config"),
        *("voice", "system_prompt", "instructions", "max_slice_nums", "temperature", "reason"),
        *("ref_audio_base64", "length_penalty", "tts_enabled", "vision_hd", "max_tokens"),
    )
)
VALUE = st.recursive(
    LEAF,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)
MESSAGE = st.builds(
    lambda kind, members: members | {"type": kind},
    st.sampled_from((*CLIENT_MESSAGES, "nothing known")),
    st.dictionaries(NAMES, VALUE, max_size=3),
)


@settings(max_examples=30)
@given(st.lists(MESSAGE, max_size=4), st.integers(0, 4))
def test_any_messages_are_survived_and_answered_in_the_protocol(
    messages: list[dict[str, Any]], ready_at: int
) -> None:
    rig = Rig()
    for number, message in enumerate(messages):
        if number == ready_at:
            rig.ready()
        rig.door.receive(json.dumps(message))
        rig.unit("listen")
    for sent in rig.sent:
        msgspec.convert(sent, KINDS[sent["type"]])
    assert sum(sent["type"] == "error" for sent in rig.sent) <= 1


@settings(max_examples=20)
@given(st.text(max_size=40).filter(lambda text: "{" not in text))
def test_what_is_no_message_ends_the_session_once(text: str) -> None:
    rig = Rig().begin()
    rig.door.receive(text)
    assert [sent["type"] for sent in rig.sent] == ["error"]
    rig.door.receive(text)
    assert len(rig.sent) == 1
