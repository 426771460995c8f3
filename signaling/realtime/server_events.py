"""Events of the server: OpenAI Realtime GA and our extensions. Media worker.

One frozen struct per event, with every field that the official SDKs require. Names and fields:
OpenAI API reference, "Realtime / Server events". Extensions, in the same style, are at the end.
"""

from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType, field

from signaling.errors import ProtocolError
from signaling.session.ids import new_id

Json = dict[str, Any]


def _event_id() -> str:
    return new_id("event")


class ServerEvent(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    event_id: str = field(default_factory=_event_id)


class WirePart(msgspec.Struct, frozen=True, kw_only=True):
    """A content part. In items: input_text, input_audio, input_image, input_video (ours),
    output_text, output_audio; in response.content_part.* text or audio.
    """

    type: Literal[
        "input_text",
        "input_audio",
        "input_image",
        "input_video",
        "output_text",
        "output_audio",
        "text",
        "audio",
    ]
    text: str | UnsetType = UNSET
    transcript: str | None | UnsetType = UNSET
    image_url: str | UnsetType = UNSET


class WireMessage(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="message"):
    id: str
    role: Literal["user", "assistant", "system"]
    status: Literal["in_progress", "completed", "incomplete"]
    content: tuple[WirePart, ...] = ()
    object: str = "realtime.item"


class WireFunctionCall(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="function_call"
):
    id: str
    call_id: str
    name: str
    arguments: str
    status: Literal["in_progress", "completed", "incomplete"]
    object: str = "realtime.item"


class WireFunctionOutput(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="function_call_output"
):
    id: str
    call_id: str
    output: str
    status: Literal["in_progress", "completed", "incomplete"] = "completed"
    object: str = "realtime.item"


Item = WireMessage | WireFunctionCall | WireFunctionOutput


class Response(msgspec.Struct, frozen=True, kw_only=True):
    """The response object; `status_details` has type and reason (turn_detected, ...)."""

    id: str
    status: Literal["in_progress", "completed", "cancelled", "incomplete", "failed"]
    object: str = "realtime.response"
    output: tuple[Item, ...] = ()
    output_modalities: tuple[str, ...] = ("audio",)
    audio: Json | None = None
    max_output_tokens: int | Literal["inf"] | None = None
    status_details: Json | None = None
    usage: Json | None = None
    metadata: Json | None = None
    conversation_id: str | None = None


class ErrorDetail(msgspec.Struct, frozen=True, kw_only=True):
    message: str
    type: str = "invalid_request_error"
    code: str | None = None
    param: str | None = None
    event_id: str | None = None
    """The client's event that caused it."""


class Error(ServerEvent, frozen=True, kw_only=True, tag="error"):
    error: ErrorDetail


class SessionCreated(ServerEvent, frozen=True, kw_only=True, tag="session.created"):
    session: Json


class SessionUpdated(ServerEvent, frozen=True, kw_only=True, tag="session.updated"):
    session: Json


class SpeechStartedEvent(
    ServerEvent, frozen=True, kw_only=True, tag="input_audio_buffer.speech_started"
):
    item_id: str
    audio_start_ms: int


class SpeechStoppedEvent(
    ServerEvent, frozen=True, kw_only=True, tag="input_audio_buffer.speech_stopped"
):
    item_id: str
    audio_end_ms: int


class InputTimedOut(
    ServerEvent, frozen=True, kw_only=True, tag="input_audio_buffer.timeout_triggered"
):
    item_id: str
    audio_start_ms: int
    audio_end_ms: int


class ConversationObject(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: str = "realtime.conversation"


class ConversationCreated(ServerEvent, frozen=True, kw_only=True, tag="conversation.created"):
    """Over WebSockets, behind session.created."""

    conversation: ConversationObject


class InputCommitted(ServerEvent, frozen=True, kw_only=True, tag="input_audio_buffer.committed"):
    item_id: str
    previous_item_id: str | None = None


class InputCleared(ServerEvent, frozen=True, kw_only=True, tag="input_audio_buffer.cleared"):
    pass


class ItemAddedEvent(ServerEvent, frozen=True, kw_only=True, tag="conversation.item.added"):
    item: Item
    previous_item_id: str | None = None


class ItemDone(ServerEvent, frozen=True, kw_only=True, tag="conversation.item.done"):
    item: Item
    previous_item_id: str | None = None


class ItemRetrieved(ServerEvent, frozen=True, kw_only=True, tag="conversation.item.retrieved"):
    item: Item


class ItemDeleted(ServerEvent, frozen=True, kw_only=True, tag="conversation.item.deleted"):
    item_id: str


class ItemTruncated(ServerEvent, frozen=True, kw_only=True, tag="conversation.item.truncated"):
    item_id: str
    audio_end_ms: int
    content_index: int = 0


class TranscriptionDelta(
    ServerEvent, frozen=True, kw_only=True, tag="conversation.item.input_audio_transcription.delta"
):
    item_id: str
    delta: str
    content_index: int = 0


class TranscriptionCompleted(
    ServerEvent,
    frozen=True,
    kw_only=True,
    tag="conversation.item.input_audio_transcription.completed",
):
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
    item_id: str
    error: Json
    content_index: int = 0


class ResponseCreated(ServerEvent, frozen=True, kw_only=True, tag="response.created"):
    response: Response


class ResponseDoneEvent(ServerEvent, frozen=True, kw_only=True, tag="response.done"):
    response: Response


class _OutputEvent(ServerEvent, frozen=True, kw_only=True):
    response_id: str
    output_index: int = 0


class OutputItemAdded(_OutputEvent, frozen=True, kw_only=True, tag="response.output_item.added"):
    item: Item


class OutputItemDone(_OutputEvent, frozen=True, kw_only=True, tag="response.output_item.done"):
    item: Item


class _ContentEvent(_OutputEvent, frozen=True, kw_only=True):
    item_id: str
    content_index: int = 0


class ContentPartAdded(_ContentEvent, frozen=True, kw_only=True, tag="response.content_part.added"):
    part: WirePart


class ContentPartDone(_ContentEvent, frozen=True, kw_only=True, tag="response.content_part.done"):
    part: WirePart


class AudioTranscriptDelta(
    _ContentEvent, frozen=True, kw_only=True, tag="response.output_audio_transcript.delta"
):
    delta: str


class AudioTranscriptDone(
    _ContentEvent, frozen=True, kw_only=True, tag="response.output_audio_transcript.done"
):
    transcript: str


class FunctionArgumentsDelta(
    _OutputEvent, frozen=True, kw_only=True, tag="response.function_call_arguments.delta"
):
    item_id: str
    call_id: str
    delta: str


class FunctionArgumentsDone(
    _OutputEvent, frozen=True, kw_only=True, tag="response.function_call_arguments.done"
):
    item_id: str
    call_id: str
    name: str
    arguments: str


class OutputAudioDelta(_ContentEvent, frozen=True, kw_only=True, tag="response.output_audio.delta"):
    """Not over WebRTC, where the sound has a track."""

    delta: str


class OutputAudioDone(_ContentEvent, frozen=True, kw_only=True, tag="response.output_audio.done"):
    pass


class OutputTextDelta(_ContentEvent, frozen=True, kw_only=True, tag="response.output_text.delta"):
    delta: str


class OutputTextDone(_ContentEvent, frozen=True, kw_only=True, tag="response.output_text.done"):
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
    response_id: str


# Extensions


class SessionQueued(ServerEvent, frozen=True, kw_only=True, tag="session.queued"):
    position: int
    """1 is next."""
    eta_s: float | None = None


class SessionWarningEvent(ServerEvent, frozen=True, kw_only=True, tag="session.warning"):
    code: str
    message: str


class SessionEndedEvent(ServerEvent, frozen=True, kw_only=True, tag="session.ended"):
    reason: str
    message: str


class Metrics(ServerEvent, frozen=True, kw_only=True, tag="metrics"):
    metrics: Json
    """Name with its unit -> number."""


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
    """The `error` event that tells a client about its mistake."""
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
