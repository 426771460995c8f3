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
    """Something the application should know and the session survives."""

    code: str
    message: str


class LiveErrorDetail(msgspec.Struct, frozen=True, kw_only=True):
    """What went wrong; `param` names the member of the event, in dotted form."""

    type: str
    code: str
    message: str
    param: str | UnsetType = UNSET
    client_event_id: str | UnsetType = UNSET


class LiveError(_Named, frozen=True, kw_only=True, tag="error"):
    """An event of the client was refused, or the session fails."""

    error: LiveErrorDetail


class LiveStarted(_Named, frozen=True, kw_only=True, tag="session.started"):
    """The session is served: sound counts from now on."""

    session: dict[str, Any]


class LiveUpdated(_Named, frozen=True, kw_only=True, tag="session.updated"):
    """The session as it is after a `session.update`."""

    session: dict[str, Any]


class LiveUsage(msgspec.Struct, frozen=True, kw_only=True):
    """How long the session has lasted, and how much of that it was paused."""

    seconds: float
    active_seconds: int | UnsetType = UNSET
    paused_seconds: int | UnsetType = UNSET


class ContextWindow(msgspec.Struct, frozen=True, kw_only=True):
    """How full the memory of the model is, from 0 to 1."""

    usage_ratio: float


class UsageUpdated(_Named, frozen=True, kw_only=True, tag="session.usage.updated"):
    """Usage of the session so far, every few seconds."""

    usage: LiveUsage
    context_window: ContextWindow | UnsetType = UNSET


class LiveClosed(_Named, frozen=True, kw_only=True, tag="session.closed"):
    """The last event of a session."""

    reason: ClosedReason
    session: dict[str, Any]
    usage: LiveUsage


class LivePaused(_Named, frozen=True, kw_only=True, tag="session.paused"):
    """Nobody spoke for `idle_timeout_s`: the model hears nothing until somebody does. Or a client
    asked for it, and says when to go on.
    """


class LiveResumed(_Named, frozen=True, kw_only=True, tag="session.resumed"):
    """The model hears the user again."""


class OutputAudio(_Plain, frozen=True, kw_only=True, tag="session.output_audio.delta"):
    """What the model says, in its time; silence in between. Not over WebRTC."""

    delta: str
    start_ms: int | UnsetType = UNSET
    end_ms: int | UnsetType = UNSET


class ReflectedInput(_Plain, frozen=True, kw_only=True, tag="session.input_audio.append"):
    """To sidebands: what the user says, before muting."""

    audio: str


class InputWords(_Named, frozen=True, kw_only=True, tag="session.input_transcript.delta"):
    """What the user said, written down."""

    delta: str
    start_ms: int
    end_ms: int


class OutputWords(_Named, frozen=True, kw_only=True, tag="session.output_transcript.delta"):
    """What the model says, in step with its sound."""

    delta: str
    start_ms: int
    end_ms: int


class InstructionsAppended(_Named, frozen=True, kw_only=True, tag="session.instructions.appended"):
    """The rule stands in the context of the model."""

    start_ms: int
    end_ms: int


class ThinkingAppended(_Named, frozen=True, kw_only=True, tag="session.thinking.appended"):
    """What the model is to know stands in its context."""

    start_ms: int
    end_ms: int


class CommentaryAppended(_Named, frozen=True, kw_only=True, tag="session.commentary.appended"):
    """What the model is to say stands in its context."""

    start_ms: int
    end_ms: int


class Muted(_Named, frozen=True, kw_only=True, tag="session.input_audio.muted"):
    """The model hears silence instead of the user."""


class Unmuted(_Named, frozen=True, kw_only=True, tag="session.input_audio.unmuted"):
    """The model hears the user again."""


class FixturePlaying(_Named, frozen=True, kw_only=True, tag="session.output_audio.fixture.playing"):
    """The recording is being played."""


class FixturePlayed(_Named, frozen=True, kw_only=True, tag="session.output_audio.fixture.played"):
    """The recording was played to its end."""


class DelegationInfo(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="delegation"):
    """A task that the model handed on."""

    id: str
    target: Literal["client", "responses"]
    response_id: str | UnsetType = UNSET


class DelegationCreatedEvent(_Named, frozen=True, kw_only=True, tag="session.delegation.created"):
    """The model hands a task on, told by what was said so far."""

    offset_ms: int
    delegation: DelegationInfo


class BackendEvent(_Named, frozen=True, kw_only=True, tag="response.event"):
    """What happens in the text model that answers delegated tasks."""

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
    """Encode an event as the text of one message."""
    return _encoder.encode(event).decode()


def event_type(event: LiveServerEvent) -> str:
    """Return an event's name on the wire."""
    return str(type(event).__struct_config__.tag)


def live_error(error: ProtocolError, client_event_id: str | None = None) -> LiveError:
    """Make the event that tells a client of its mistake, or of a failure of the server."""
    asked = client_event_id or error.event_id or UNSET
    detail = LiveErrorDetail(
        type=error.type,
        code=error.code,
        message=error.message,
        param=error.param or UNSET,
        client_event_id=asked,
    )
    return LiveError(error=detail, client_event_id=asked)
