"""The body of POST /v1/audio/speech. Front.

OpenAI API reference, "Audio / Create speech".
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from signaling.chat.request import unserved_names, voice_name
from signaling.errors import ProtocolError
from signaling.fields import convert
from signaling.texts import decode_json

FileKind = Literal["mp3", "opus", "aac", "flac", "wav", "pcm"]
MEDIA_TYPES: dict[FileKind, str] = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}


class ReadingRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The members that are served; the others change nothing."""

    model: Annotated[str, Meta(min_length=1, max_length=256)]
    input: Annotated[str, Meta(min_length=1, max_length=4096)]
    voice: str | dict[str, Any]
    response_format: FileKind = "mp3"
    speed: Annotated[float, Meta(ge=0.25, le=4)] = 1.0
    stream_format: Literal["audio", "sse"] = "audio"


class ReadingOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be said, checked."""

    model: str
    text: str
    voice: str
    speed: float
    kind: FileKind
    is_events: bool
    ignored: tuple[str, ...]


def parse_speech(body: bytes) -> ReadingOrder:
    """Raise ProtocolError for what cannot be said."""
    try:
        raw = decode_json(body)
    except ValueError as error:
        raise ProtocolError(f"The body is not JSON: {error}.", code="invalid_json") from None
    if not isinstance(raw, dict):
        raise ProtocolError("The body is to be a JSON object.")
    request = convert(raw, ReadingRequest)
    if not request.input.strip():
        raise ProtocolError("input: there is nothing to say.", param="input")
    return ReadingOrder(
        model=request.model,
        text=request.input,
        voice=voice_name(request.voice, "voice"),
        speed=request.speed,
        kind=request.response_format,
        is_events=request.stream_format == "sse",
        ignored=unserved_names(raw, ReadingRequest.__struct_fields__),
    )
