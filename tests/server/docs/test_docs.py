"""The documentation tells all that the server takes and sends, and its examples are taken."""

from __future__ import annotations

import ast
import html
import json
import re
import typing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.ipc.child_process import LoopLag
from server.docs import codes as codes_module
from server.docs.codes import codes
from server.docs.fields import fields_of, text_of
from server.docs.frame import language_of
from server.docs.openapi import EXCHANGES, document, operations
from server.docs.page import page
from server.docs.protocols import EventDoc, protocols
from server.front.app import SECURITY_HEADERS, build
from server.front.feedback import FeedbackBox
from server.front.recording_shelf import RecordingShelf
from server.front.telemetry import Telemetry
from server.front.voice_routes import VoiceRoutes
from server.front.voices import VoiceDesk
from signaling.http.auth import Authenticator
from signaling.live import client_events as live_client
from signaling.live import server_events as live_server
from signaling.live.client_events import parse_live_event
from signaling.openbmb.client_messages import parse_message
from signaling.realtime.client_events import CLIENT_EVENT_TYPES, parse_client_event
from tests.openai_types import live_events, realtime_events
from tests.server.front.rig import PaperFront

PARSERS = {"realtime": parse_client_event, "live": parse_live_event, "openbmb": parse_message}
ADAPTERS = {"realtime": realtime_events, "live": live_events}
CLIENT = [(p.key, event) for p in protocols() for event in p.client]
SERVER = [(p.key, event) for p in protocols() for event in p.server]


def name_of(case: Any) -> str:
    return case.name if isinstance(case, EventDoc) else str(case)


@pytest.mark.parametrize(("key", "event"), CLIENT, ids=name_of)
def test_example_of_the_client_is_taken_by_its_door(key: str, event: EventDoc) -> None:
    msgspec.convert(event.example, event.struct)
    PARSERS[key](json.dumps(event.example))


@pytest.mark.parametrize(("key", "event"), SERVER, ids=name_of)
def test_example_of_the_server_is_what_its_struct_sends(key: str, event: EventDoc) -> None:
    read = msgspec.convert(event.example, event.struct)
    assert msgspec.to_builtins(read) == event.example
    if key in ADAPTERS and not event.is_extension:
        parsed = ADAPTERS[key]().validate_json(json.dumps(event.example))
        assert parsed.type == event.name


def test_no_event_of_a_protocol_is_left_out() -> None:
    realtime, live, openbmb = protocols()
    assert {event.name for event in realtime.client} == set(CLIENT_EVENT_TYPES)
    assert {event.name for event in live.client} == set(live_client.CLIENT_EVENTS)
    assert {event.struct for event in live.server} == set(
        typing.get_args(live_server.LiveServerEvent)
    )
    told = {event.name for event in realtime.server}
    assert {"session.created", "error", "metrics", "session.queued", "session.ended"} <= told
    assert len(realtime.server) >= 38 and len(openbmb.server) == 11


@pytest.mark.parametrize(("key", "event"), CLIENT + SERVER, ids=name_of)
def test_each_event_has_words_and_an_example(key: str, event: EventDoc) -> None:
    assert len(event.text) > 10 and event.example["type"] == event.name
    assert event.text == text_of(event.struct)


def test_members_have_types_bounds_defaults_and_the_texts_below_them() -> None:
    [append] = [event for event in protocols()[2].client if event.name == "input.append"]
    [unit] = fields_of(append.struct)
    assert (unit.name, unit.type, unit.is_required) == ("input", "DuplexInput", True)
    [demo] = [e for e in protocols()[2].client if e.name == "input_audio_buffer.append"]
    fields = {field.name: field for field in fields_of(demo.struct)}
    assert fields["audio"].bounds == "1 to 853,336 characters"
    assert fields["audio"].text.startswith("Base64 of float32"), "of the struct it is made from"
    assert fields["force_listen"].default == "false" and not fields["force_listen"].is_required
    assert fields["video_frames"].type == "list of string"


def test_codes_are_those_of_the_source() -> None:
    found = {told.code: told for told in codes()}
    assert found["call_not_found"].text == "There is no such call."
    assert found["audio_skipped"].kind == "warning" and "skipped" in found["audio_skipped"].text
    tree = ast.parse('raise ProtocolError(f"x: no {y} here.", code="quite_new")')
    [told] = codes_module._told(tree)
    assert (told.code, told.text) == ("quite_new", "x: no … here.")


@pytest.fixture
def served(tmp_path: Path) -> Any:
    paper = PaperFront()
    telemetry = Telemetry(paper.front, "1", "fake", LoopLag())
    info = {
        "name": "omnicall",
        "version": "1.2.3",
        "auth_required": False,
        "kind": "fake",
        "modes": ["half_duplex", "turn_based"],
    }
    voices = VoiceRoutes(VoiceDesk(tmp_path, 1), list)
    kept = RecordingShelf(tmp_path, paper.front.desk, enabled=False, max_bytes=1, max_days=1)
    box = FeedbackBox(tmp_path, paper.front.desk)
    auth = Authenticator((), is_keyless=True)
    return operations(build(paper.front, telemetry, auth, info, routes=[voices, box, kept]))


async def test_openapi_tells_every_route_with_words_and_what_it_takes(served: Any) -> None:
    ours = {("GET", "/docs"), ("GET", "/docs/openapi.json")}
    assert {(op.method, op.path) for op in served} == set(EXCHANGES) | ours
    assert [op.path for op in served if not op.text] == []
    told = document(served, "1.2.3")
    encoded = json.dumps(told)
    schemas = told["components"]["schemas"]
    references = set(re.findall(r'"#/components/schemas/(\w+)"', encoded))
    assert references <= schemas.keys() and "ChatRequest" in references
    assert schemas["SessionSettings"]["properties"]["engine"]["description"].startswith("Our ext")
    for path, methods in told["paths"].items():
        for method in methods.values():
            named = {p["name"] for p in method.get("parameters", []) if p["in"] == "path"}
            assert named == set(re.findall(r"{(\w+)}", path)) and method["summary"]


async def test_page_needs_no_script_and_each_event_has_its_anchor(served: Any) -> None:
    text = page(served, protocols(), "1.2.3")
    assert "<script" not in text and "style=" not in text and " onclick" not in text
    assert re.findall(r'(?:src|href)="(?:https?:)?//', text) == [], "nothing from elsewhere"
    assert "script-src" not in SECURITY_HEADERS["Content-Security-Policy"]
    anchors = re.findall(r' id="([^"]+)"', text)
    assert len(anchors) == len(set(anchors))
    linked = set(re.findall(r'href="#([^"]+)"', text))
    assert linked <= set(anchors)
    for key, side, events in ((p.key, s, getattr(p, s)) for p in protocols() for s in SIDES):
        for event in events:
            assert f"{key}-{side}-{event.name}" in anchors
            assert html.escape(event.name) in text


def test_frame_is_in_the_language_that_is_asked_for_or_accepted_first(served: Any) -> None:
    known = protocols()
    english, chinese = (page(served, known, "1.2.3", language) for language in ("en", "zh"))
    assert '<html lang="en">' in english and "Ends of sessions" in english
    assert '<html lang="zh-CN">' in chinese and "会话的结束" in chinese
    anchors = [re.findall(r' id="([^"]+)"', text) for text in (english, chinese)]
    assert anchors[0] == anchors[1]
    for asked, accepted, language in (
        ("", "", "en"),
        ("", "fr-FR,zh-CN;q=0.9,en;q=0.8", "zh"),
        ("en", "zh-CN", "en"),
        ("zh-CN", "en", "zh"),
        ("xx", "de", "en"),
    ):
        assert language_of(asked, accepted) == language, (asked, accepted)


SIDES = ("client", "server")
