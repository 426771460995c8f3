"""Client events: what each becomes, and the error that each mistake gets."""

import base64
import json
from typing import Any

import pytest

from signaling.errors import ProtocolError
from signaling.realtime import client_events as ev
from signaling.realtime import client_items as wire
from signaling.session import items


def parse(**event: Any) -> ev.ClientEvent:
    return ev.parse_client_event(json.dumps(event))


def item(**item: Any) -> dict[str, Any]:
    return {"type": "conversation.item.create", "item": item}


def message(*content: Any, role: str = "user") -> dict[str, Any]:
    return item(type="message", role=role, content=list(content))


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


MP4 = "data:video/mp4;base64," + encoded(b"a film")
JPEG = "data:image/jpeg;base64," + base64.b64encode(b"\xff\xd8jpeg").decode()


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({"type": "conversation.item.delete", "item_id": "i"}, ev.ItemDelete("i")),
        ({"type": "conversation.item.retrieve", "item_id": "i"}, ev.ItemRetrieve("i")),
        (
            {
                "type": "conversation.item.truncate",
                "item_id": "i",
                "content_index": 0,
                "audio_end_ms": 5,
            },
            ev.ItemTruncate("i", 5),
        ),
        ({"type": "response.create"}, ev.ResponseCreate()),
        ({"type": "response.create", "response": None}, ev.ResponseCreate()),
        ({"type": "response.cancel", "event_id": "e"}, ev.ResponseCancel(event_id="e")),
        ({"type": "input_audio_buffer.commit"}, ev.InputBufferCommit()),
        ({"type": "input_audio_buffer.clear"}, ev.InputBufferClear()),
        ({"type": "output_audio_buffer.clear", "new": 1}, ev.OutputBufferClear()),
        (
            message({"type": "input_text", "text": "hi"}),
            wire.ItemCreate(items.InputMessage("user", (items.InputTextPart("hi"),))),
        ),
        (
            message({"type": "input_image", "image_url": JPEG}),
            wire.ItemCreate(
                items.InputMessage("user", (items.InputImagePart("image/jpeg", b"\xff\xd8jpeg"),))
            ),
        ),
        (
            message({"type": "input_video", "video_url": MP4}),
            wire.ItemCreate(
                items.InputMessage("user", (items.InputVideoPart("video/mp4", b"a film"),))
            ),
        ),
        (
            message(
                {
                    "type": "input_video",
                    "video_url": "data:video/webm;codecs=vp8;base64," + encoded(b"recorded"),
                }
            ),
            wire.ItemCreate(
                items.InputMessage("user", (items.InputVideoPart("video/webm", b"recorded"),))
            ),
        ),
        (
            message({"type": "input_audio", "audio": encoded(bytes(4800)), "transcript": "hi"}),
            wire.ItemCreate(items.InputMessage("user", (items.InputAudioPart(bytes(4800), "hi"),))),
        ),
        (
            message({"type": "output_audio", "transcript": "yes"}, role="assistant"),
            wire.ItemCreate(items.InputMessage("assistant", (items.InputTextPart("yes"),))),
        ),
        (
            item(type="function_call_output", call_id="c", output="4", id="i"),
            wire.ItemCreate(items.FunctionCallOutput("c", "4", "i")),
        ),
    ],
)
def test_event_is_parsed(raw: dict[str, Any], expected: ev.ClientEvent) -> None:
    assert parse(**raw) == expected


def test_session_update_keeps_its_partial_object() -> None:
    event = parse(type="session.update", session={"tracing": None}, event_id="e")
    assert event == ev.SessionUpdate({"tracing": None}, "e")


def test_response_options() -> None:
    event = parse(type="response.create", response={"instructions": "x", "conversation": "none"})
    assert isinstance(event, ev.ResponseCreate) and event.response is not None
    assert (event.response.instructions, event.response.conversation) == ("x", "none")


@pytest.mark.parametrize(
    ("raw", "code", "param", "says"),
    [
        ({}, "missing_required_parameter", "type", "required"),
        ({"type": "session.nope"}, "unknown_event", "type", "session.update"),
        ({"type": 5}, "unknown_event", "type", "allowed"),
        (
            {"type": "input_audio_buffer.append"},
            "missing_required_parameter",
            "audio",
            "required",
        ),
        ({"type": "session.update"}, "missing_required_parameter", "session", "required"),
        ({"type": "session.update", "session": 1}, "invalid_value", "session", "object"),
        (
            {"type": "session.update", "session": {"audio": {"output": {"speed": 9}}}},
            "invalid_value",
            "session.audio.output.speed",
            "1.5",
        ),
        ({"type": "conversation.item.delete"}, "missing_required_parameter", "item_id", "required"),
        (
            {"type": "conversation.item.truncate", "item_id": "i", "audio_end_ms": -1},
            "invalid_value",
            "audio_end_ms",
            ">= 0",
        ),
        (item(type="nope"), "invalid_value", "item.type", "function_call_output"),
        (message(role="user"), "invalid_value", "item.content", "length"),
        (message({}, role="bot"), "invalid_value", "item.role", "assistant"),
        (message({"type": "input_text"}), "missing_required_parameter", "item.content.0.text", ""),
        (
            message({"type": "input_text", "text": "x" * 40_000}),
            "invalid_value",
            "item.content.0.text",
            "32768",
        ),
        (
            message({"type": "input_audio"}),
            "missing_required_parameter",
            "item.content.0.audio",
            "",
        ),
        (message({"type": "output_text"}), "invalid_value", "item.content.0.type", "input_text"),
        (
            message({"type": "input_image", "image_url": "https://example.com/a.png"}),
            "invalid_value",
            "item.content.0.image_url",
            "data URL",
        ),
        (
            message({"type": "input_image", "image_url": "data:image/png;base64,###"}),
            "invalid_value",
            "item.content.0.image_url",
            "base64",
        ),
        (message({"type": "input_image"}), "invalid_value", "item.content.0.image_url", "data URL"),
        (message({"type": "input_video"}), "invalid_value", "item.content.0.video_url", "data URL"),
        (
            message({"type": "input_video", "video_url": "https://example.com/a.mp4"}),
            "invalid_value",
            "item.content.0.video_url",
            "data URL data:video/",
        ),
        (
            message({"type": "input_video", "video_url": JPEG}),
            "invalid_value",
            "item.content.0.video_url",
            "data URL data:video/",
        ),
        (
            message({"type": "input_video", "video_url": "data:video/mp4;base64,"}),
            "invalid_value",
            "item.content.0.video_url",
            "empty",
        ),
        (
            message({"type": "input_audio", "audio": encoded(bytes(4801))}),
            "invalid_value",
            "item.content.0.audio",
            "16-bit",
        ),
        (
            message({"type": "input_audio", "audio": encoded(bytes(100))}),
            "invalid_value",
            "item.content.0.audio",
            "100 ms",
        ),
        (
            message({"type": "input_audio", "audio": encoded(bytes(48_000 * 61))}),
            "invalid_value",
            "item.content.0.audio",
            "length",
        ),
        (
            message({"type": "input_video", "video_url": MP4}, role="system"),
            "invalid_value",
            "item.content.0.type",
            "input_text",
        ),
    ],
)
def test_mistakes_are_named(raw: dict[str, Any], code: str, param: str, says: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse(**raw, event_id="mine")
    error = caught.value
    assert (error.code, error.param, error.event_id) == (code, param, "mine")
    assert says in error.message


@pytest.mark.parametrize("text", ["", "x", "[]", "3", "[" * 100_000, '{"type": "\ud800"}', "null"])
def test_garbage_is_an_error_and_no_crash(text: str) -> None:
    with pytest.raises(ProtocolError):
        ev.parse_client_event(text)


def test_event_id_of_a_wrong_type_is_named() -> None:
    with pytest.raises(ProtocolError) as caught:
        parse(type="response.cancel", event_id=5)
    assert caught.value.param == "event_id"
    assert caught.value.event_id is None


def test_video_is_bounded_and_the_field_named() -> None:
    url = "data:video/mp4;base64," + "A" * wire.MAX_VIDEO_CHARS
    body = json.dumps(message({"type": "input_video", "video_url": url})["item"]).encode()
    with pytest.raises(ProtocolError) as caught:
        wire.parse_upload(body)
    assert caught.value.param is not None and caught.value.param.endswith("video_url")
    assert str(wire.MAX_VIDEO_CHARS) in caught.value.message


def test_largest_video_is_taken() -> None:
    data = bytes(wire.MAX_VIDEO_BYTES)
    url = "data:video/mp4;base64," + encoded(data)
    body = json.dumps(message({"type": "input_video", "video_url": url})["item"]).encode()
    create = wire.parse_upload(body)
    assert create.item == items.InputMessage("user", (items.InputVideoPart("video/mp4", data),))


@pytest.mark.parametrize("body", [b"", b"[]", b"3", b"{}", b"\xff", b"[" * 100_000])
def test_upload_that_is_no_item_is_an_error(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        wire.parse_upload(body)


@pytest.mark.parametrize(
    "kind", ["image/heic", "IMAGE/JPG", "image/gif", "application/octet-stream"]
)
def test_kinds_of_pictures_are_left_to_whoever_reads_them(kind: str) -> None:
    url = f"data:{kind};base64,{encoded(b'a photo')}"
    create = parse(**message({"type": "input_image", "image_url": url}))
    assert isinstance(create, wire.ItemCreate)
    picture = items.InputImagePart(kind.lower(), b"a photo")
    assert create.item == items.InputMessage("user", (picture,))
