"""Events of the server: OpenAI Realtime GA. Media worker.

One frozen struct per event, with every field that the official SDKs require. Names and fields:
OpenAI API reference, "Realtime / Server events". Ours, in the same style: `extension_events`.
"""

import msgspec
from msgspec import field

from signaling.errors import ProtocolError
from signaling.realtime.wire_objects import ConversationObject as ConversationObject
from signaling.realtime.wire_objects import ErrorDetail as ErrorDetail
from signaling.realtime.wire_objects import Item as Item
from signaling.realtime.wire_objects import Json as Json
from signaling.realtime.wire_objects import Response as Response
from signaling.realtime.wire_objects import WireFunctionCall as WireFunctionCall
from signaling.realtime.wire_objects import WireFunctionOutput as WireFunctionOutput
from signaling.realtime.wire_objects import WireMessage as WireMessage
from signaling.realtime.wire_objects import WirePart as WirePart
from signaling.session.ids import new_id


def _event_id() -> str:
    return new_id("event")


class ServerEvent(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    event_id: str = field(default_factory=_event_id)


class Error(ServerEvent, frozen=True, kw_only=True, tag="error"):
    """An event of the client was refused or has failed; the session goes on."""

    error: ErrorDetail


class SessionCreated(ServerEvent, frozen=True, kw_only=True, tag="session.created"):
    """The session is served: sound and events count from now on."""

    session: Json


class SessionUpdated(ServerEvent, frozen=True, kw_only=True, tag="session.updated"):
    """The settings that are in force, after a change."""

    session: Json


class SpeechStartedEvent(
    ServerEvent, frozen=True, kw_only=True, tag="input_audio_buffer.speech_started"
):
    """The user began to speak; the item that it becomes follows."""

    item_id: str
    audio_start_ms: int


class SpeechStoppedEvent(
    ServerEvent, frozen=True, kw_only=True, tag="input_audio_buffer.speech_stopped"
):
    """The user stopped speaking."""

    item_id: str
    audio_end_ms: int


class InputTimedOut(
    ServerEvent, frozen=True, kw_only=True, tag="input_audio_buffer.timeout_triggered"
):
    """The user was silent for `idle_timeout_ms`; the assistant speaks by itself."""

    item_id: str
    audio_start_ms: int
    audio_end_ms: int


class ConversationCreated(ServerEvent, frozen=True, kw_only=True, tag="conversation.created"):
    """Over WebSockets, behind session.created."""

    conversation: ConversationObject


class InputCommitted(ServerEvent, frozen=True, kw_only=True, tag="input_audio_buffer.committed"):
    """What was said is an item of the conversation."""

    item_id: str
    previous_item_id: str | None = None


class InputCleared(ServerEvent, frozen=True, kw_only=True, tag="input_audio_buffer.cleared"):
    """What was heard since the last commit is forgotten."""


class ItemAddedEvent(ServerEvent, frozen=True, kw_only=True, tag="conversation.item.added"):
    """An item stands in the conversation; it may still grow."""

    item: Item
    previous_item_id: str | None = None


class ItemDone(ServerEvent, frozen=True, kw_only=True, tag="conversation.item.done"):
    """An item is as it stays."""

    item: Item
    previous_item_id: str | None = None


class ItemRetrieved(ServerEvent, frozen=True, kw_only=True, tag="conversation.item.retrieved"):
    """The item that was asked for, without its files and sound."""

    item: Item


class ItemDeleted(ServerEvent, frozen=True, kw_only=True, tag="conversation.item.deleted"):
    """The item is no longer part of the conversation."""

    item_id: str


class ItemTruncated(ServerEvent, frozen=True, kw_only=True, tag="conversation.item.truncated"):
    """What of an answer comes after this time counts as never said."""

    item_id: str
    audio_end_ms: int
    content_index: int = 0


class TranscriptionDelta(
    ServerEvent, frozen=True, kw_only=True, tag="conversation.item.input_audio_transcription.delta"
):
    """More of what the user said, written down."""

    item_id: str
    delta: str
    content_index: int = 0


class TranscriptionCompleted(
    ServerEvent,
    frozen=True,
    kw_only=True,
    tag="conversation.item.input_audio_transcription.completed",
):
    """What the user said, written down."""

    item_id: str
    transcript: str
    usage: Json
    """Required by the SDKs; see duration_usage."""
    content_index: int = 0


class TranscriptionFailed(
    ServerEvent,
    frozen=True,
    kw_only=True,
    tag="conversation.item.input_audio_transcription.failed",
):
    """What the user said is not written down."""

    item_id: str
    error: Json
    content_index: int = 0


class ResponseCreated(ServerEvent, frozen=True, kw_only=True, tag="response.created"):
    """An answer begins."""

    response: Response


class RateLimitsUpdated(ServerEvent, frozen=True, kw_only=True, tag="rate_limits.updated"):
    """Which limits of requests and tokens hold for the client as a response begins: none."""

    rate_limits: tuple[Json, ...] = ()
    """Always empty: neither responses nor tokens are counted against a limit here."""


class ResponseDoneEvent(ServerEvent, frozen=True, kw_only=True, tag="response.done"):
    """An answer is over; its status says how."""

    response: Response


class _OutputEvent(ServerEvent, frozen=True, kw_only=True):
    response_id: str
    output_index: int = 0


class OutputItemAdded(_OutputEvent, frozen=True, kw_only=True, tag="response.output_item.added"):
    """An answer has an item: its message, or a call of a function."""

    item: Item


class OutputItemDone(_OutputEvent, frozen=True, kw_only=True, tag="response.output_item.done"):
    """An item of an answer is as it stays; a completed call is to be run."""

    item: Item


class _ContentEvent(_OutputEvent, frozen=True, kw_only=True):
    item_id: str
    content_index: int = 0


class ContentPartAdded(_ContentEvent, frozen=True, kw_only=True, tag="response.content_part.added"):
    """The message of an answer has a part: sound with its words, or text."""

    part: WirePart


class ContentPartDone(_ContentEvent, frozen=True, kw_only=True, tag="response.content_part.done"):
    """A part of the message of an answer is as it stays."""

    part: WirePart


class AudioTranscriptDelta(
    _ContentEvent, frozen=True, kw_only=True, tag="response.output_audio_transcript.delta"
):
    """Words of a spoken answer, in step with its sound."""

    delta: str


class AudioTranscriptDone(
    _ContentEvent, frozen=True, kw_only=True, tag="response.output_audio_transcript.done"
):
    """All words of a spoken answer that were heard."""

    transcript: str


class FunctionArgumentsDelta(
    _OutputEvent, frozen=True, kw_only=True, tag="response.function_call_arguments.delta"
):
    """More of the arguments of a call, as JSON text."""

    item_id: str
    call_id: str
    delta: str


class FunctionArgumentsDone(
    _OutputEvent, frozen=True, kw_only=True, tag="response.function_call_arguments.done"
):
    """All arguments of a call, as JSON text."""

    item_id: str
    call_id: str
    name: str
    arguments: str


class OutputAudioDelta(_ContentEvent, frozen=True, kw_only=True, tag="response.output_audio.delta"):
    """Not over WebRTC, where the sound has a track."""

    delta: str


class OutputAudioDone(_ContentEvent, frozen=True, kw_only=True, tag="response.output_audio.done"):
    """All sound of an answer was sent. Not over WebRTC."""


class OutputTextDelta(_ContentEvent, frozen=True, kw_only=True, tag="response.output_text.delta"):
    """More of a written answer."""

    delta: str


class OutputTextDone(_ContentEvent, frozen=True, kw_only=True, tag="response.output_text.done"):
    """All of a written answer."""

    text: str


class OutputBufferStarted(
    ServerEvent, frozen=True, kw_only=True, tag="output_audio_buffer.started"
):
    """WebRTC only: the first sample of the response is on the wire."""

    response_id: str


class OutputBufferStopped(
    ServerEvent, frozen=True, kw_only=True, tag="output_audio_buffer.stopped"
):
    """The response's sound was played to its end; comes after response.done."""

    response_id: str


class OutputBufferCleared(
    ServerEvent, frozen=True, kw_only=True, tag="output_audio_buffer.cleared"
):
    """WebRTC only: the sound of the response was cut before its end."""

    response_id: str


_encoder = msgspec.json.Encoder()


def encode(event: ServerEvent) -> str:
    """Return the event as JSON text."""
    return _encoder.encode(event).decode()


def error(
    message: str,
    *,
    code: str | None = None,
    param: str | None = None,
    event_id: str | None = None,
    type: str = "invalid_request_error",
) -> Error:
    """Return an error event; `event_id` is the client's."""
    return Error(
        error=ErrorDetail(message=message, type=type, code=code, param=param, event_id=event_id)
    )


def error_event(error: ProtocolError) -> Error:
    """Make the `error` event that tells a client about its mistake."""
    return Error(
        error=ErrorDetail(
            message=error.message,
            type=error.type,
            code=error.code,
            param=error.param,
            event_id=error.event_id,
        )
    )


def duration_usage(seconds: float) -> Json:
    """Return the usage of a transcription billed by time."""
    return {"type": "duration", "seconds": seconds}
