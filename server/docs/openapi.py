"""HTTP routes as OpenAPI 3.1: paths and words from what is served, schemas from structs. Front."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec
from aiohttp import web

from server.docs.fields import fields_of, nested
from server.front.feedback import Feedback
from server.front.presets import PresetList
from server.front.recording_shelf import RecordingList
from server.front.voice_routes import VoiceChange, VoiceEntry, VoiceList
from signaling.audio.speech_request import ReadingRequest
from signaling.audio.transcription import TranscriptionForm
from signaling.chat.request import ChatRequest
from signaling.http.calls import SecretRequest
from signaling.http.live import LiveCreation
from signaling.http.resources import RESOURCES
from signaling.live.session_config import CalledConfig
from signaling.realtime.client_items import RawItemCreate
from signaling.realtime.server_events import WireMessage
from signaling.settings import SessionSettings

JSON = "application/json"
SDP = "application/sdp"
FRAGMENT = "application/trickle-ice-sdpfrag"
Content = Mapping[str, type[Any] | dict[str, Any]]
"""Media type -> its struct, or a schema."""
TEXT: dict[str, Any] = {"type": "string"}
OBJECT: dict[str, Any] = {"type": "object"}
FILE: dict[str, Any] = {"type": "string", "format": "binary"}


class ErrorObject(msgspec.Struct, frozen=True):
    """What went wrong; every error below /v1 and /whip has this shape."""

    message: str
    type: str
    code: str | None
    param: str | None
    """The member that is meant, in dotted form."""


class ErrorBody(msgspec.Struct, frozen=True):
    """The body of an error."""

    error: ErrorObject


class Exchange(NamedTuple):
    """What an operation takes and gives, as far as its code does not say."""

    takes: Content = {}
    status: int = 200
    gives: Content = {}
    query: Mapping[str, str] = {}
    """Parameter -> what it means."""
    needs_key: bool = True


_OFFER: Content = {
    SDP: TEXT,
    "multipart/form-data": {
        "type": "object",
        "properties": {
            "sdp": TEXT,
            "session": {"$ref": "#/components/schemas/SessionSettings"},
        },
        "required": ["sdp"],
    },
}
_MODEL = {"model": "the name of a model"}
_STREAM = Exchange(
    {},
    101,
    {},
    {
        **_MODEL,
        "call_id": "join this call instead of opening a session",
        "extensions": "true: our extensions are told, too",
        "mode": "audio or video: the protocol of openbmb-realtime",
    },
)
_NOT_SERVED = Exchange({}, 501, {JSON: ErrorBody})
_ICE = Exchange({FRAGMENT: TEXT}, 204, {FRAGMENT: TEXT}, {}, False)
_ENDS = Exchange({}, 204, {}, {}, False)
_CALL = "/v1/realtime/calls/{call_id}"
_LIVE = "/v1/live/sessions"
EXCHANGES: dict[tuple[str, str], Exchange] = {
    ("POST", "/v1/realtime/calls"): Exchange(_OFFER, 201, {SDP: TEXT}, _MODEL),
    ("GET", _CALL): Exchange({}, 200, {JSON: OBJECT}, {}, False),
    ("PATCH", _CALL): _ICE,
    ("DELETE", _CALL): _ENDS,
    ("POST", f"{_CALL}/hangup"): Exchange({}, 200, {JSON: OBJECT}, {}, False),
    ("POST", f"{_CALL}/items"): Exchange(
        {JSON: RawItemCreate}, 200, {JSON: WireMessage}, {}, False
    ),
    ("POST", f"{_CALL}/feedback"): Exchange({JSON: Feedback}, 204, {}, {}, False),
    **{("POST", f"{_CALL}/{name}"): _NOT_SERVED for name in ("accept", "reject", "refer")},
    ("POST", "/v1/realtime/client_secrets"): Exchange({JSON: SecretRequest}, 200, {JSON: OBJECT}),
    ("GET", "/v1/realtime"): _STREAM,
    ("GET", "/realtime"): _STREAM,
    ("POST", "/v1/chat/completions"): Exchange(
        {JSON: ChatRequest}, 200, {JSON: OBJECT, "text/event-stream": TEXT}
    ),
    ("GET", "/v1/models"): Exchange({}, 200, {JSON: OBJECT}),
    ("GET", "/v1/models/{model}"): Exchange({}, 200, {JSON: OBJECT}),
    ("POST", "/v1/audio/speech"): Exchange({JSON: ReadingRequest}, 200, {"audio/*": FILE}),
    ("POST", "/v1/audio/transcriptions"): Exchange(
        {"multipart/form-data": TranscriptionForm},
        200,
        {JSON: OBJECT, "text/plain": TEXT, "text/event-stream": TEXT},
    ),
    ("POST", _LIVE): Exchange({JSON: LiveCreation}, 201, {JSON: OBJECT}),
    ("GET", _LIVE): Exchange({}, 101),
    ("GET", f"{_LIVE}/{{session_id}}/attach"): Exchange({}, 101),
    ("POST", f"{_LIVE}/{{session_id}}/hangup"): Exchange({}, 200, {}, {}, False),
    ("GET", f"{_LIVE}/{{session_id}}/content"): Exchange({}, 404, {JSON: ErrorBody}),
    **{
        (method, f"{_LIVE}/{{session_id}}/{name}"): _NOT_SERVED
        for name in ("fork", "accept", "reject", "refer")
        for method in (("POST", "GET") if name == "fork" else ("POST",))
    },
    ("POST", "/whip"): Exchange({SDP: TEXT}, 201, {SDP: TEXT}, _MODEL),
    ("PATCH", "/whip/{call_id}"): _ICE,
    ("DELETE", "/whip/{call_id}"): Exchange({}, 200, {}, {}, False),
    ("GET", "/health"): Exchange({}, 200, {JSON: OBJECT}, {}, False),
    ("GET", "/metrics"): Exchange({}, 200, {"text/plain": TEXT}),
    ("GET", "/api/stats"): Exchange({}, 200, {JSON: OBJECT}),
    ("GET", "/api/voices"): Exchange({}, 200, {JSON: VoiceList}),
    ("POST", "/api/voices"): Exchange(
        {
            "multipart/form-data": {
                "type": "object",
                "properties": {"file": FILE, "name": TEXT, "language": TEXT},
                "required": ["file"],
            },
            "audio/*": FILE,
        },
        201,
        {JSON: VoiceEntry},
        {"name": "with the file alone: what to call it", "language": "as `en` or `zh`"},
    ),
    ("PATCH", "/api/voices/{voice_id}"): Exchange({JSON: VoiceChange}, 200, {JSON: VoiceEntry}),
    ("DELETE", "/api/voices/{voice_id}"): Exchange({}, 204),
    ("GET", "/api/voices/{voice_id}/sound"): Exchange({}, 200, {"audio/wav": FILE}),
    ("GET", "/api/recordings"): Exchange({}, 200, {JSON: RecordingList}),
    ("DELETE", "/api/recordings/{call_id}"): Exchange({}, 204),
    ("GET", "/api/recordings/{call_id}/{name}"): Exchange({}, 200, {"*/*": FILE}),
    ("GET", "/api/presets"): Exchange({}, 200, {JSON: PresetList}),
    ("GET", "/api/presets/{preset_id}/media/{index}"): Exchange({}, 200, {"*/*": FILE}),
    ("GET", "/api/info"): Exchange({}, 200, {JSON: OBJECT}, {}, False),
}
ROOTS: tuple[type[Any], ...] = (SessionSettings, CalledConfig, ErrorBody)
"""Schemas that members which are checked by themselves refer to."""


class Operation(NamedTuple):
    """A method of a path."""

    method: str
    path: str
    """With {parameters}."""
    text: str
    """The docstring of what answers."""


def operations(app: web.Application) -> list[Operation]:
    """What an application serves, the files of pages excepted."""
    found = [
        Operation(method, _plain(resource.path), inspect.getdoc(endpoint) or "")
        for resource in app.get(RESOURCES, [])
        for method, endpoint in resource.endpoints.items()
    ]
    known = {operation.path for operation in found}
    for route in app.router.routes():
        path = "" if route.resource is None else route.resource.canonical
        text = inspect.getdoc(route.handler) if inspect.ismethod(route.handler) else None
        if route.method == "GET" and text and _plain(path) not in known:
            found.append(Operation("GET", path, text))
    return found


def document(served: Iterable[Operation], version: str) -> dict[str, Any]:
    """The OpenAPI document."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in served:
        exchange = EXCHANGES.get((operation.method, operation.path), Exchange(needs_key=False))
        paths.setdefault(operation.path, {})[operation.method.lower()] = _rendered(
            operation, exchange
        )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "omnicall",
            "version": version,
            "description": "The events of the protocols are at /docs.",
        },
        "paths": paths,
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _rendered(operation: Operation, exchange: Exchange) -> dict[str, Any]:
    first, _, rest = operation.text.partition("\n")
    shown: dict[str, Any] = {"summary": first.rstrip("."), "tags": [_tag(operation.path)]}
    if rest.strip():
        shown["description"] = " ".join(rest.split())
    named = [
        {"name": name, "in": "path", "required": True, "schema": TEXT}
        for name in re.findall(r"{(\w+)}", operation.path)
    ]
    named += [
        {"name": name, "in": "query", "description": text, "schema": TEXT}
        for name, text in exchange.query.items()
    ]
    if named:
        shown["parameters"] = named
    if exchange.takes:
        shown["requestBody"] = {"content": _content(exchange.takes)}
    done: dict[str, Any] = {"description": _MEANINGS[exchange.status]}
    if exchange.gives:
        done["content"] = _content(exchange.gives)
    shown["responses"] = {str(exchange.status): done}
    if exchange.status < 400:
        shown["responses"]["default"] = {
            "description": "An error.",
            "content": _content({JSON: ErrorBody}),
        }
    if exchange.needs_key:
        shown["security"] = [{"key": []}]
    return shown


_MEANINGS = {
    101: "The WebSocket is open.",
    200: "Done.",
    201: "Created; the address is in Location.",
    204: "Done.",
    404: "There is none.",
    501: "Not supported, with the reason.",
}


def _content(content: Content) -> dict[str, Any]:
    return {
        kind: {
            "schema": given
            if isinstance(given, dict)
            else {"$ref": f"#/components/schemas/{given.__name__}"}
        }
        for kind, given in content.items()
    }


def _schemas() -> dict[str, Any]:
    structs: set[type[Any]] = {
        given
        for exchange in EXCHANGES.values()
        for content in (exchange.takes, exchange.gives)
        for given in content.values()
        if isinstance(given, type)
    }
    _, schemas = msgspec.json.schema_components(
        sorted({*structs, *ROOTS}, key=lambda struct: struct.__name__),
        ref_template="#/components/schemas/{name}",
    )
    roots: list[type[Any]] = [*structs, *ROOTS]
    for struct in (*roots, *nested(roots)):
        members = schemas[struct.__name__].get("properties", {})
        for field in fields_of(struct):
            if field.text and field.name in members:
                members[field.name] = {**members[field.name], "description": field.text}
    del schemas[SessionSettings.__name__]["properties"]["unknown"]  # not a client's to give
    return dict(sorted(schemas.items()))


def _plain(path: str) -> str:
    """A path without the patterns of its parameters."""
    return re.sub(r"{(\w+):[^}]*}", r"{\1}", path)


def _tag(path: str) -> str:
    if path.startswith("/v1/"):
        return path.split("/")[2]
    return "whip" if path.startswith("/whip") else "server"
