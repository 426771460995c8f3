"""Events of a Live server: one frozen struct each. Any process.

Names and fields: OpenAI API reference, "Live / Server events". There are no extensions: clients
take events that they do not know for others, so what is ours to say goes as `info`.
"""

from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType, field

from signaling.errors import ProtocolError
from signaling.session.ids import new_id

ClosedReason = Literal["close_requested", "expired", "remote_hangup", "connection_lost"]

_encoder = msgspec.json.Encoder()


class _Plain(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """An event without a name of its own, of which there are many a second."""


class _Named(_Plain, frozen=True, kw_only=True):
    event_id: str = field(default_factory=lambda: new_id("event"))
    client_event_id: str | UnsetType = UNSET
    """The client's name of the command that it answers."""


class Info(_Named, frozen=True, kw_only=True, tag="info"):
    code: str
    message: str


class LiveErrorDetail(msgspec.Struct, frozen=True, kw_only=True):
    type: str
    code: str
    message: str
    param: str | UnsetType = UNSET
    client_event_id: str | UnsetType = UNSET


class LiveError(_Named, frozen=True, kw_only=True, tag="error"):
    error: LiveErrorDetail


class LiveStarted(_Named, frozen=True, kw_only=True, tag="session.started"):
    session: dict[str, Any]


class LiveUpdated(_Named, frozen=True, kw_only=True, tag="session.updated"):
    session: dict[str, Any]


class LiveUsage(msgspec.Struct, frozen=True, kw_only=True):
    seconds: float
    active_seconds: int | UnsetType = UNSET
    paused_seconds: int | UnsetType = UNSET


class ContextWindow(msgspec.Struct, frozen=True, kw_only=True):
    usage_ratio: float


class UsageUpdated(_Named, frozen=True, kw_only=True, tag="session.usage.updated"):
    usage: LiveUsage
    context_window: ContextWindow | UnsetType = UNSET


class LiveClosed(_Named, frozen=True, kw_only=True, tag="session.closed"):
    reason: ClosedReason
    session: dict[str, Any]
    usage: LiveUsage


class LivePaused(_Named, frozen=True, kw_only=True, tag="session.paused"):
    pass


class LiveResumed(_Named, frozen=True, kw_only=True, tag="session.resumed"):
    pass


class OutputAudio(_Plain, frozen=True, kw_only=True, tag="session.output_audio.delta"):
    delta: str
    start_ms: int | UnsetType = UNSET
    end_ms: int | UnsetType = UNSET


class ReflectedInput(_Plain, frozen=True, kw_only=True, tag="session.input_audio.append"):
    """To sidebands: what the user says, before muting."""

    audio: str


class InputWords(_Named, frozen=True, kw_only=True, tag="session.input_transcript.delta"):
    delta: str
    start_ms: int
    end_ms: int


class OutputWords(_Named, frozen=True, kw_only=True, tag="session.output_transcript.delta"):
    delta: str
    start_ms: int
    end_ms: int


class InstructionsAppended(_Named, frozen=True, kw_only=True, tag="session.instructions.appended"):
    start_ms: int
    end_ms: int


class ThinkingAppended(_Named, frozen=True, kw_only=True, tag="session.thinking.appended"):
    start_ms: int
    end_ms: int


class CommentaryAppended(_Named, frozen=True, kw_only=True, tag="session.commentary.appended"):
    start_ms: int
    end_ms: int


class Muted(_Named, frozen=True, kw_only=True, tag="session.input_audio.muted"):
    pass


class Unmuted(_Named, frozen=True, kw_only=True, tag="session.input_audio.unmuted"):
    pass


class FixturePlaying(_Named, frozen=True, kw_only=True, tag="session.output_audio.fixture.playing"):
    pass


class FixturePlayed(_Named, frozen=True, kw_only=True, tag="session.output_audio.fixture.played"):
    pass


class DelegationInfo(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="delegation"):
    id: str
    target: Literal["client", "responses"]
    response_id: str | UnsetType = UNSET


class DelegationCreatedEvent(_Named, frozen=True, kw_only=True, tag="session.delegation.created"):
    offset_ms: int
    delegation: DelegationInfo


class BackendEvent(_Named, frozen=True, kw_only=True, tag="response.event"):
    event: dict[str, Any]
    """An event of OpenAI's Responses stream."""
    delegation_id: str | UnsetType = UNSET


LiveServerEvent = (
    Info
    | LiveError
    | LiveStarted
    | LiveUpdated
    | UsageUpdated
    | LiveClosed
    | LivePaused
    | LiveResumed
    | OutputAudio
    | ReflectedInput
    | InputWords
    | OutputWords
    | InstructionsAppended
    | ThinkingAppended
    | CommentaryAppended
    | Muted
    | Unmuted
    | FixturePlaying
    | FixturePlayed
    | DelegationCreatedEvent
    | BackendEvent
)

APPENDED = {
    "instructions": InstructionsAppended,
    "thinking": ThinkingAppended,
    "commentary": CommentaryAppended,
}


def encode(event: LiveServerEvent) -> str:
    """An event as the text of one message."""
    return _encoder.encode(event).decode()


def event_type(event: LiveServerEvent) -> str:
    """Its name on the wire."""
    return str(type(event).__struct_config__.tag)


def live_error(error: ProtocolError, client_event_id: str | None = None) -> LiveError:
    """The event that tells a client of its mistake, or of a failure of ours."""
    asked = client_event_id or error.event_id or UNSET
    detail = LiveErrorDetail(
        type=error.type,
        code=error.code,
        message=error.message,
        param=error.param or UNSET,
        client_event_id=asked,
    )
    return LiveError(error=detail, client_event_id=asked)
