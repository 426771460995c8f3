"""Events of the client on the data channel: OpenAI Realtime GA, parsed and validated.

Unknown members are ignored, so that newer SDKs work; unknown types and invalid members raise a
ProtocolError that names the member. Media worker.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from signaling.errors import ProtocolError
from signaling.fields import convert
from signaling.realtime.client_items import (
    EventId,
    Id,
    ItemCreate,
    RawItemCreate,
    parse_item_create,
)
from signaling.session.core import ClientFigures
from signaling.settings import (
    MAX_INSTRUCTIONS_CHARS,
    MAX_TOOLS,
    AudioFormat,
    Modality,
    Name,
    SessionSettings,
)
from signaling.texts import naming_event, read_object

MAX_INPUT_ITEMS = 128
MAX_APPEND_CHARS = 20 * 1024 * 1024
"""15 MiB of sound."""

Metadata = Annotated[
    dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]],
    Meta(max_length=16),
]
"""What a client attaches to a response, as OpenAI bounds it; comes back unchanged."""


class SessionUpdate(msgspec.Struct, frozen=True):
    """Change settings, also in the middle of a call; answered by `session.updated`."""

    session: dict[str, Any]
    """Validated on its own; apply it with SessionSettings.merge."""
    event_id: EventId | None = None


class ItemDelete(msgspec.Struct, frozen=True):
    """Take an item out of the conversation; answered by `conversation.item.deleted`."""

    item_id: Id
    event_id: EventId | None = None


class ItemRetrieve(msgspec.Struct, frozen=True):
    """Ask for an item as it stands; answered by `conversation.item.retrieved`."""

    item_id: Id
    event_id: EventId | None = None


class ItemTruncate(msgspec.Struct, frozen=True):
    """Say how much of an answer was heard; answered by `conversation.item.truncated`."""

    item_id: Id
    audio_end_ms: Annotated[int, Meta(ge=0)]
    content_index: Annotated[int, Meta(ge=0)] = 0
    event_id: EventId | None = None


class ResponseOutput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The answer's sound."""

    format: AudioFormat | None = None
    voice: Name | dict[str, Any] | None = None


class ResponseAudio(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The sound of one response."""

    output: ResponseOutput | None = None


class ResponseOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What response.create may set for one response; null or absent keeps the session's.

    Who asks for one response wants it as asked: unknown members are refused here.
    """

    instructions: Annotated[str, Meta(max_length=MAX_INSTRUCTIONS_CHARS)] | None = None
    output_modalities: Annotated[tuple[Modality, ...], Meta(min_length=1, max_length=1)] | None = (
        None
    )
    conversation: Literal["auto", "none"] | None = None
    input: Annotated[list[dict[str, Any]], Meta(max_length=MAX_INPUT_ITEMS)] | None = None
    metadata: Metadata | None = None
    max_output_tokens: Annotated[int, Meta(ge=1, le=4096)] | Literal["inf"] | None = None
    audio: ResponseAudio | None = None
    tools: Annotated[list[dict[str, Any]], Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    prompt: dict[str, Any] | None = None
    reasoning: dict[str, Any] | None = None


class ResponseCreate(msgspec.Struct, frozen=True):
    """Ask for an answer; it begins with `response.created`."""

    response: ResponseOptions | None = None
    event_id: EventId | None = None


class ResponseCancel(msgspec.Struct, frozen=True):
    """End the answer under way, or the one that is named."""

    response_id: Id | None = None
    event_id: EventId | None = None


class InputBufferAppend(msgspec.Struct, frozen=True):
    """Send sound of the user. Over WebRTC it has a track instead."""

    audio: Annotated[str, Meta(max_length=MAX_APPEND_CHARS)]
    """Base64, in the session's input format; only where sound has no track."""
    event_id: EventId | None = None


class InputBufferCommit(msgspec.Struct, frozen=True):
    """End the user's turn by hand; answered by `input_audio_buffer.committed`."""

    event_id: EventId | None = None


class InputBufferClear(msgspec.Struct, frozen=True):
    """Forget what was heard since the last commit."""

    event_id: EventId | None = None


class OutputBufferClear(msgspec.Struct, frozen=True):
    """WebRTC only: cut what is being said."""

    event_id: EventId | None = None


class ForceListening(msgspec.Struct, frozen=True):
    """Our extension: hush. While on, the model only listens and what it says is cut; answered by
    `session.force_listen.updated`.
    """

    on: bool = True
    event_id: EventId | None = None


class MuteInput(msgspec.Struct, frozen=True):
    """Our extension: the model hears silence instead of the user, which after a while takes none
    of its memory; answered by `session.muted`.
    """

    on: bool = True
    event_id: EventId | None = None


class ReportStats(msgspec.Struct, frozen=True):
    """Our extension: how the call is on the client's side, a few times a minute; shown to who runs
    the server, not answered.
    """

    figures: ClientFigures
    event_id: EventId | None = None


class SessionPause(msgspec.Struct, frozen=True):
    """Our extension: take neither sound nor pictures; answered by `session.paused`."""

    event_id: EventId | None = None


class SessionResume(msgspec.Struct, frozen=True):
    """Our extension: go on after a pause. Answered by `session.resumed`, or by `session.queued`
    before it where the place was given away.
    """

    event_id: EventId | None = None


ClientEvent = (
    SessionUpdate
    | ItemCreate
    | ItemDelete
    | ItemRetrieve
    | ItemTruncate
    | ResponseCreate
    | ResponseCancel
    | InputBufferAppend
    | InputBufferCommit
    | InputBufferClear
    | OutputBufferClear
    | ForceListening
    | MuteInput
    | ReportStats
    | SessionPause
    | SessionResume
)

_PLAIN: dict[str, type[ClientEvent]] = {
    "session.update": SessionUpdate,
    "conversation.item.delete": ItemDelete,
    "conversation.item.retrieve": ItemRetrieve,
    "conversation.item.truncate": ItemTruncate,
    "response.create": ResponseCreate,
    "response.cancel": ResponseCancel,
    "input_audio_buffer.append": InputBufferAppend,
    "input_audio_buffer.commit": InputBufferCommit,
    "input_audio_buffer.clear": InputBufferClear,
    "output_audio_buffer.clear": OutputBufferClear,
    "session.force_listen": ForceListening,
    "session.mute": MuteInput,
    "session.stats": ReportStats,
    "session.pause": SessionPause,
    "session.resume": SessionResume,
}
CLIENT_EVENTS: dict[str, type[Any]] = {**_PLAIN, "conversation.item.create": RawItemCreate}
"""The structs in which they come, by their types."""
CLIENT_EVENT_TYPES = tuple(CLIENT_EVENTS)
OURS = frozenset(
    {
        *("session.force_listen", "session.mute", "session.pause", "session.resume"),
        "session.stats",
    }
)
"""Extensions of ours among them."""


def parse_client_event(text: str) -> ClientEvent:
    """Parse one message of a client.

    Raises ProtocolError carrying the client's event_id if it has one.
    """
    raw = read_object(text)
    with naming_event(raw):
        return _parse(raw)


def _parse(raw: dict[str, Any]) -> ClientEvent:
    name = raw.get("type")
    if name is None:
        raise ProtocolError(
            "type: this field is required.", code="missing_required_parameter", param="type"
        )
    if name == "conversation.item.create":
        return parse_item_create(raw)
    struct = _PLAIN.get(name) if isinstance(name, str) else None
    if struct is None:
        allowed = ", ".join(CLIENT_EVENT_TYPES)
        raise ProtocolError(
            f'type: "{str(name)[:80]}" is no event known here; allowed: {allowed}.',
            code="unknown_event",
            param="type",
        )
    event = convert(raw, struct)
    if isinstance(event, SessionUpdate):
        SessionSettings().merge(event.session)
    return event
