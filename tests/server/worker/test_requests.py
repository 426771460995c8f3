"""Requests of the client: what they change, what the engine is told, and errors that name fields.

Guarded: typed turns, cancelling, clearing, items by their id, settings in the call; a bad event is
answered with an `error` event and nothing else happens; nothing a client sends raises.
"""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from engine.ipc import protocol as p
from media.playout import FADE_SAMPLES
from server.item_mapping import message_for_engine
from signaling.realtime.client_items import parse_upload
from signaling.session.items import InputMessage, InputVideoPart, MessageItem, ShownPart, shown
from tests.server.worker.talk import SESSION, Talk, samples
from tests.server.worker.test_conversation import BEGIN_EVENTS, CLOSING_EVENTS, DELTA


def text_item(text: str = "what time is it", **more: Any) -> dict[str, Any]:
    content = [{"type": "input_text", "text": text}]
    item = {"type": "message", "role": "user", "content": content} | more
    return {"type": "conversation.item.create", "item": item}


# ---------------------------------------------------------------- typed turns


def test_typed_turn_has_its_events_in_order_and_reaches_the_engine() -> None:
    talk = Talk()
    talk.ask(text_item())
    assert talk.take_types() == ["conversation.item.added", "conversation.item.done"]
    talk.ask({"type": "response.create"})
    assert talk.take_types() == []
    item, create = talk.to_engine
    assert isinstance(item, p.ItemIn)
    assert (item.role, item.parts) == ("user", (p.TextPart("what time is it"),))
    assert isinstance(create, p.CreateResponse) and create.request
    assert (create.instructions, create.modalities) == ("", ())
    talk.answer(1, {0: "Noon."}, 40)
    talk.play(80)
    assert talk.types == [
        *BEGIN_EVENTS,
        "output_audio_buffer.started",
        DELTA,
        *CLOSING_EVENTS,
        "output_audio_buffer.stopped",
    ]


def test_item_is_kept_under_the_clients_id_and_its_predecessor_is_told() -> None:
    talk = Talk()
    talk.ask(text_item(id="mine"))
    talk.ask(text_item(id="second"))
    first, second = talk.of("conversation.item.added")
    assert first["item"]["id"] == "mine" and first["previous_item_id"] is None
    assert second["previous_item_id"] == "mine"
    assert [item.item for item in talk.sent(p.ItemIn)] == ["mine", "second"]


def test_picture_reaches_the_engine_and_is_not_sent_back() -> None:
    talk = Talk()
    jpeg = b"\xff\xd8 a picture"
    url = "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
    content = [{"type": "input_text", "text": "look"}, {"type": "input_image", "image_url": url}]
    talk.ask(text_item() | {"item": {"type": "message", "role": "user", "content": content}})
    assert talk.sent(p.ItemIn)[0].parts == (p.TextPart("look"), p.ImagePart(jpeg))
    told = talk.one("conversation.item.added")["item"]["content"]
    assert told == [{"type": "input_text", "text": "look"}, {"type": "input_image"}]


def test_video_and_sound_reach_the_engine_and_are_not_sent_back() -> None:
    talk = Talk()
    video = "data:video/mp4;base64," + base64.b64encode(b"a film").decode()
    pcm = bytes(4800)
    content = [
        {"type": "input_audio", "audio": base64.b64encode(pcm).decode(), "transcript": "hum"},
        {"type": "input_text", "text": "and"},
    ]
    talk.ask(text_item() | {"item": {"type": "message", "role": "user", "content": content}})
    assert talk.sent(p.ItemIn)[0].parts == (p.AudioPart(pcm), p.TextPart("and"))
    told = talk.one("conversation.item.added")["item"]["content"]
    assert told[0] == {"type": "input_audio", "transcript": "hum"}
    # Ours, unknown to OpenAI's types.
    message = InputMessage("user", (InputVideoPart("video/mp4", b"a film"),))
    assert message_for_engine("s", "i", message).parts == (p.VideoPart(b"a film"),)
    kept = shown("i", message)
    assert isinstance(kept, MessageItem) and kept.parts == (ShownPart("video"),)
    parsed = parse_upload(
        json.dumps(
            {
                "type": "message",
                "role": "user",
                "content": [{"type": "input_video", "video_url": video}],
            }
        ).encode()
    )
    assert parsed.item == message


def test_assistant_item_is_shown_as_output() -> None:
    talk = Talk()
    content = [{"type": "output_text", "text": "I said so"}]
    talk.ask(
        {
            "type": "conversation.item.create",
            "item": {"type": "message", "role": "assistant", "content": content},
        }
    )
    assert talk.one("conversation.item.added")["item"]["content"] == content


def test_response_options_reach_the_engine() -> None:
    talk = Talk()
    options = {"instructions": "be brief", "output_modalities": ["text"]}
    talk.ask({"type": "response.create", "response": options})
    [create] = talk.sent(p.CreateResponse)
    assert (create.instructions, create.modalities) == ("be brief", ("text",))


# ---------------------------------------------------------------- cancelling and clearing


@pytest.mark.parametrize("names_it", [True, False])
def test_cancelling_while_thinking_ends_the_response(names_it: bool) -> None:
    talk = Talk()
    talk.hear(p.ResponseStarted(SESSION, 1, "request"))
    response_id = talk.one("response.created")["response"]["id"]
    talk.take_types()
    talk.ask({"type": "response.cancel"} | ({"response_id": response_id} if names_it else {}))
    assert talk.types == ["conversation.item.truncated", *CLOSING_EVENTS]
    assert talk.to_engine == [
        p.CancelResponse(SESSION, 1),
        p.Heard(SESSION, 1, 0, final=True, interrupted=True),
    ]
    # What the engine says about it afterwards is old news.
    talk.take_types()
    talk.hear(p.TextOut(SESSION, 1, 0, "late"), p.ResponseDone(SESSION, 1, "cancelled"))
    assert talk.types == []


@pytest.mark.parametrize("event", ["response.cancel", "output_audio_buffer.clear"])
def test_cutting_while_speaking_clears_the_buffer_at_what_was_heard(event: str) -> None:
    talk = Talk()
    talk.answer(1, {0: "heard ", 900: "not"}, 1000)
    talk.play(100)
    talk.take_types()
    talk.ask({"type": event})
    assert talk.types == [
        "output_audio_buffer.cleared",
        "conversation.item.truncated",
        *CLOSING_EVENTS,
    ]
    details = talk.one("response.done")["response"]["status_details"]
    assert details == {"type": "cancelled", "reason": "client_cancelled"}
    assert talk.one("response.output_audio_transcript.done")["transcript"] == "heard "
    assert talk.sent(p.CancelResponse) == [p.CancelResponse(SESSION, 1)]
    assert talk.sent(p.Heard)[-1].samples == samples(100) + FADE_SAMPLES
    assert talk.play(60)[1:] == [None, None]


def test_truncating_the_spoken_item_cuts_it_at_what_was_really_heard() -> None:
    talk = Talk()
    talk.answer(1, {0: "heard"}, 1000)
    talk.play(100)
    item_id = talk.one("response.output_item.added")["item"]["id"]
    talk.ask({"type": "conversation.item.truncate", "item_id": item_id, "audio_end_ms": 7})
    assert talk.one("conversation.item.truncated")["audio_end_ms"] == 105
    assert talk.one("response.done")["response"]["status"] == "cancelled"


def test_clearing_an_empty_buffer_is_no_error() -> None:
    talk = Talk()
    talk.ask({"type": "output_audio_buffer.clear"})
    assert talk.types == [] and talk.to_engine == []


@pytest.mark.parametrize("response_id", [None, "resp_other"])
def test_cancelling_what_is_not_active_is_an_error(response_id: str | None) -> None:
    talk = Talk()
    if response_id is not None:
        talk.answer(1, {}, 100)
    talk.to_engine.clear()
    more = {} if response_id is None else {"response_id": response_id}
    talk.ask({"type": "response.cancel", "event_id": "mine"} | more)
    error = talk.one("error")["error"]
    assert (error["code"], error["event_id"]) == ("response_cancel_not_active", "mine")
    assert error["param"] == (None if response_id is None else "response_id")
    assert talk.to_engine == []


# ---------------------------------------------------------------- push to talk


def test_committing_and_clearing_the_input_reach_the_engine() -> None:
    talk = Talk(audio={"input": {"turn_detection": None}})
    talk.ask({"type": "input_audio_buffer.commit"})
    talk.ask({"type": "input_audio_buffer.clear"})
    assert [type(message) for message in talk.to_engine] == [p.CommitAudio, p.ClearAudio]
    assert talk.types == ["input_audio_buffer.cleared"]


# ---------------------------------------------------------------- items


def test_item_can_be_retrieved_and_deleted_by_its_id() -> None:
    talk = Talk()
    talk.ask(text_item(id="mine"))
    talk.ask({"type": "conversation.item.retrieve", "item_id": "mine"})
    assert talk.one("conversation.item.retrieved")["item"]["content"][0]["text"] == (
        "what time is it"
    )
    talk.ask({"type": "conversation.item.delete", "item_id": "mine"})
    assert talk.one("conversation.item.deleted")["item_id"] == "mine"
    assert talk.to_engine[-1] == p.DeleteItem(SESSION, "mine")
    talk.ask({"type": "conversation.item.retrieve", "item_id": "mine"})
    assert talk.one("error")["error"]["code"] == "item_retrieve_invalid_item_id"


def test_spoken_answer_can_be_retrieved_as_it_was_heard() -> None:
    talk = Talk()
    talk.answer(1, {0: "heard ", 900: "not"}, 1000)
    item_id = talk.one("response.output_item.added")["item"]["id"]
    talk.play(100)
    talk.hear(p.Interrupt(SESSION, 1))
    talk.ask({"type": "conversation.item.retrieve", "item_id": item_id})
    item = talk.one("conversation.item.retrieved")["item"]
    assert item["status"] == "incomplete"
    assert item["content"] == [{"type": "output_audio", "transcript": "heard "}]


@pytest.mark.parametrize("kind", ["retrieve", "delete", "truncate"])
def test_unknown_item_is_named_in_the_error(kind: str) -> None:
    talk = Talk()
    event = {"type": f"conversation.item.{kind}", "item_id": "nobody", "event_id": "e1"}
    talk.ask(event | ({"audio_end_ms": 3} if kind == "truncate" else {}))
    error = talk.one("error")["error"]
    code = "item_retrieve_invalid_item_id" if kind == "retrieve" else "item_not_found"
    assert (error["code"], error["param"], error["event_id"]) == (code, "item_id", "e1")
    assert "nobody" in error["message"] and talk.to_engine == []


def test_item_of_the_same_id_is_refused() -> None:
    talk = Talk()
    talk.ask(text_item(id="mine"))
    talk.ask(text_item("another", id="mine"))
    assert talk.one("error")["error"]["param"] == "item.id"
    assert len(talk.sent(p.ItemIn)) == 1


# ---------------------------------------------------------------- settings in the call


def test_update_merges_and_tells_both_sides() -> None:
    talk = Talk(instructions="be kind")
    talk.ask(
        {
            "type": "session.update",
            "session": {
                "type": "realtime",
                "audio": {"input": {"turn_detection": {"type": "server_vad", "threshold": 0.9}}},
            },
        }
    )
    updated = talk.one("session.updated")["session"]
    assert updated["instructions"] == "be kind" and updated["id"] == SESSION
    assert updated["audio"]["input"]["turn_detection"]["threshold"] == 0.9
    told = talk.sent(p.UpdateSession)[0].config
    assert (told.mode, told.instructions) == ("half_duplex", "be kind")
    assert told.turn_detection.threshold == 0.9


def test_update_before_there_is_an_engine_holds_for_when_there_is_one() -> None:
    talk = Talk(has_engine=False)
    talk.ask({"type": "session.update", "session": {"instructions": "later"}})
    assert talk.types == ["session.updated"]
    assert talk.conversation.settings.instructions == "later"


def test_refused_update_changes_nothing() -> None:
    talk = Talk(instructions="before")
    talk.ask(
        {
            "type": "session.update",
            "event_id": "e9",
            "session": {"instructions": "after", "audio": {"output": {"speed": 9}}},
        }
    )
    error = talk.one("error")["error"]
    assert (error["param"], error["event_id"]) == ("session.audio.output.speed", "e9")
    assert talk.conversation.settings.instructions == "before"
    assert talk.types == ["error"] and talk.to_engine == []


# ---------------------------------------------------------------- errors


BAD_EVENTS: list[tuple[Any, str | None]] = [
    ("not json", None),
    ("", None),
    ("[]", None),
    ("null", None),
    ('"text"', None),
    ("[" * 100_000, None),
    ('{"type": "\\ud800"}', None),
    ({}, "type"),
    ({"type": 7}, "type"),
    ({"type": "response.fly"}, "type"),
    ({"type": "input_audio_buffer.append", "audio": ""}, "type"),
    ({"type": "session.update"}, "session"),
    ({"type": "session.update", "session": []}, "session"),
    ({"type": "session.update", "session": {"output_modalities": ["smell"]}}, *(
        "session.output_modalities",)),
    ({"type": "session.update", "session": {"engine": {"x": 2**70}}}, "session.engine"),
    ({"type": "conversation.item.create"}, "item"),
    ({"type": "conversation.item.create", "item": {"type": "message"}}, "item.role"),
    (text_item(role="robot"), "item.role"),
    (text_item(content=[]), "item.content"),
    (text_item(content=[{"type": "input_audio", "audio": ""}]), "item.content.0.audio"),
    (text_item(content=[{"type": "input_text"}]), "item.content.0.text"),
    (text_item(content=[{"type": "input_image", "image_url": "http://x/y.png"}]), *(
        "item.content.0.image_url",)),
    (text_item(type="function_call_output", call_id="c", output="x"), "item.call_id"),
    (text_item(id=""), "item.id"),
    ({"type": "conversation.item.delete"}, "item_id"),
    ({"type": "conversation.item.truncate", "item_id": "x"}, "audio_end_ms"),
    ({"type": "conversation.item.truncate", "item_id": "x", "audio_end_ms": -1}, "audio_end_ms"),
    ({"type": "response.create", "response": {"output_modalities": []}}, *(
        "response.output_modalities",)),
    ({"type": "response.create", "response": {"instructions": 3}}, "response.instructions"),
    ({"type": "response.cancel", "response_id": 3}, "response_id"),
]  # fmt: skip


@pytest.mark.parametrize(("event", "param"), BAD_EVENTS, ids=lambda value: str(value)[:60])
def test_bad_event_is_answered_with_an_error_that_names_the_field(
    event: Any, param: str | None
) -> None:
    talk = Talk()
    has_id = isinstance(event, dict)
    talk.ask(event | {"event_id": "e7"} if has_id else event)
    error = talk.one("error")["error"]
    assert talk.types == ["error"] and talk.to_engine == []
    if param is not None:
        assert error["param"] is not None and error["param"].startswith(param)
        assert error["param"] in error["message"] or param == "type"
    assert error["event_id"] == ("e7" if has_id else None)
    assert error["type"] == "invalid_request_error" and len(error["message"]) < 600
    # The conversation goes on.
    talk.ask(text_item())
    assert talk.types[1:] == ["conversation.item.added", "conversation.item.done"]


@pytest.mark.parametrize(
    "event",
    [text_item(), {"type": "response.create"}, {"type": "input_audio_buffer.commit"}],
    ids=lambda event: event["type"],
)
def test_without_an_engine_the_client_is_told_to_try_again(event: dict[str, Any]) -> None:
    talk = Talk(has_engine=False)
    talk.ask(event)
    error = talk.one("error")["error"]
    assert (error["type"], error["code"]) == ("server_error", "engine_unavailable")
    assert talk.types == ["error"]


def test_item_that_the_engine_did_not_get_can_be_created_again() -> None:
    talk = Talk(has_engine=False)
    talk.ask(text_item(id="mine"))
    talk.has_engine = True
    talk.ask(text_item(id="mine"))
    assert talk.types == ["error", "conversation.item.added", "conversation.item.done"]


def test_item_that_the_engine_did_not_delete_is_still_there() -> None:
    talk = Talk()
    talk.ask(text_item(id="mine"))
    talk.has_engine = False
    talk.ask({"type": "conversation.item.delete", "item_id": "mine"})
    assert talk.types[-1] == "error"
    talk.ask({"type": "conversation.item.retrieve", "item_id": "mine"})
    assert talk.types[-1] == "conversation.item.retrieved"


def test_unknown_members_are_ignored() -> None:
    talk = Talk()
    talk.ask(json.dumps(text_item() | {"shiny": {"new": True}}))
    assert talk.types == ["conversation.item.added", "conversation.item.done"]
