"""Chat requests of any shape: an order, or a ProtocolError, and never anything else."""

from __future__ import annotations

import contextlib
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from signaling.audio.speech_request import ReadingRequest, parse_speech
from signaling.audio.transcription import TranscriptionForm, parse_transcription
from signaling.chat.request import IGNORED, REFUSED, ChatRequest, parse_chat
from signaling.errors import ProtocolError

WORDS = (
    *("text", "image_url", "input_audio", "audio_url", "video_url", "refusal", "function", "auto"),
    *("user", "assistant", "system", "tool", "wav", "mp3", "data:image/png;base64,AAAA", "\ud800"),
)
KEYS = (
    *ChatRequest.__struct_fields__,
    *ReadingRequest.__struct_fields__,
    *("role", "content", "type", "text", "url", "data", "format", "id", "name", "arguments"),
    *("tool_calls", "tool_call_id", "function", "parameters", "strict", "voice", "include_usage"),
    *("image_url", "input_audio", "audio_url", "video_url", "refusal", "detail"),
    *REFUSED,
    *IGNORED,
)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(WORDS),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5)
    ),
    max_leaves=24,
)
messages = st.lists(
    st.dictionaries(st.sampled_from(("role", "content", "audio", "tool_calls")), values), max_size=3
)


@given(st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=8), values), messages | values)
@settings(max_examples=40)
def test_anything_is_an_order_or_a_fault_of_the_client(members: dict[str, Any], said: Any) -> None:
    whole = {"model": "omnicall", **members, "messages": said}
    body = json.dumps(whole).encode("utf-8", "surrogatepass")
    with contextlib.suppress(ProtocolError):
        order = parse_chat(body, lambda audio_id: None)
        assert all(name.isascii() and name.isprintable() for name in order.ignored)
    with contextlib.suppress(ProtocolError):
        parse_speech(body)


@given(st.binary(max_size=200))
def test_any_bytes_are_an_order_or_a_fault_of_the_client(body: bytes) -> None:
    for parse in (lambda b: parse_chat(b, lambda audio_id: None), parse_speech):
        with contextlib.suppress(ProtocolError):
            parse(body)


fields = st.sampled_from(("file", *TranscriptionForm.__struct_fields__)) | st.text(max_size=8)


@given(st.lists(st.tuples(fields, st.binary(max_size=16) | st.sampled_from((b"RIFF", b"json")))))
def test_any_form_is_an_order_or_a_fault_of_the_client(parts: list[tuple[str, bytes]]) -> None:
    with contextlib.suppress(ProtocolError):
        parse_transcription(parts)
