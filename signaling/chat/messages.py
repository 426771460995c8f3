"""The messages of a chat request: text, files, calls of functions and their results. Front."""

from collections.abc import Callable
from itertools import takewhile
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from signaling.data_urls import decode_base64, decode_data_url
from signaling.errors import ProtocolError
from signaling.fields import convert
from signaling.session.items import (
    FunctionCall,
    FunctionCallOutput,
    InputAudioPart,
    InputImagePart,
    InputItem,
    InputMessage,
    InputPart,
    InputTextPart,
    InputVideoPart,
)

MAX_TEXT_CHARS = 64 * 1024
MAX_PARTS = 32
MAX_IMAGE_BYTES = 8 * 1024 * 1024
MAX_SOUND_BYTES = 12 * 1024 * 1024
"""Of a file; a minute of stereo WAV at 48 kHz is a little less."""
MAX_VIDEO_BYTES = 28 * 1024 * 1024
_SOUND_STARTS = (b"RIFF", b"ID3", b"\xff", b"OggS", b"fLaC", b"FORM", b"caff", b"#!AMR")

T = TypeVar("T")
Written = Annotated[str, Meta(max_length=MAX_TEXT_CHARS)]


class OrderedItem(msgspec.Struct, frozen=True):
    """An item of the conversation, and where in the request it stands."""

    item: InputItem
    where: str
    """For messages to the client: messages.3."""


class _Url(msgspec.Struct, frozen=True):
    url: str
    detail: Literal["auto", "low", "high", "original"] | None = None


class _Sound(msgspec.Struct, frozen=True):
    data: str
    format: Literal["wav", "mp3"]


class _ContentPart(msgspec.Struct, frozen=True):
    type: str
    text: Written | None = None
    refusal: Written | None = None
    image_url: _Url | None = None
    input_audio: _Sound | None = None
    video_url: _Url | None = None
    audio_url: _Url | None = None
    prompt_cache_breakpoint: Any = None


class _CalledFunction(msgspec.Struct, frozen=True):
    name: Annotated[str, Meta(min_length=1, max_length=128)]
    arguments: Written


class _MadeCall(msgspec.Struct, frozen=True):
    id: Annotated[str, Meta(min_length=1, max_length=128)]
    type: str
    function: _CalledFunction | None = None


class _EarlierSpeech(msgspec.Struct, frozen=True):
    id: Annotated[str, Meta(min_length=1, max_length=128)]


class _ChatMessage(msgspec.Struct, frozen=True):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Written | list[dict[str, Any]] | None = None
    name: str | None = None
    refusal: Written | None = None
    audio: _EarlierSpeech | None = None
    tool_calls: Annotated[list[_MadeCall], Meta(max_length=128)] | None = None
    tool_call_id: Annotated[str, Meta(min_length=1, max_length=128)] | None = None
    function_call: Any = None


class Reader:
    """Reads the messages of one request and notes what of them changes nothing."""

    def __init__(self, recall: Callable[[str], str | None]) -> None:
        self._recall = recall
        self._ignored: set[str] = set()

    @property
    def ignored(self) -> frozenset[str]:
        return frozenset(self._ignored)

    def read(self, messages: list[dict[str, Any]]) -> tuple[OrderedItem, ...]:
        """Raise ProtocolError for the first fault."""
        items: list[OrderedItem] = []
        for index, raw in enumerate(messages):
            where = f"messages.{index}"
            message = convert(raw, _ChatMessage, prefix=where)
            if message.name is not None:
                self._ignored.add("messages.name")
            items += [OrderedItem(item, where) for item in self._items(message, where)]
        asked = [i.item for i in items if not isinstance(i.item, FunctionCall)]
        if not any(not isinstance(i, InputMessage) or i.role == "user" for i in asked):
            raise ProtocolError("messages: there is no message of the user.", param="messages")
        return tuple(items)

    def _items(self, message: _ChatMessage, where: str) -> list[InputItem]:
        if message.function_call is not None:
            raise ProtocolError(
                f"{where}.function_call: not served; use tool_calls.",
                code="unsupported_value",
                param=f"{where}.function_call",
            )
        match message.role:
            case "tool":
                if message.tool_call_id is None:
                    raise _missing(f"{where}.tool_call_id")
                output = self._text(message, where)
                return [FunctionCallOutput(message.tool_call_id, output)]
            case "assistant":
                return self._answered(message, where)
            case "user":
                return [InputMessage("user", self._parts(message, where))]
        return [InputMessage("system", (InputTextPart(self._text(message, where)),))]

    def _answered(self, message: _ChatMessage, where: str) -> list[InputItem]:
        text = message.refusal or ""
        if message.content is not None:
            text = self._text(message, where)
        elif message.audio is not None:
            text = self._spoken(message.audio.id, f"{where}.audio.id")
        elif message.refusal is None and not message.tool_calls:
            raise _missing(f"{where}.content")
        calls: list[InputItem] = []
        if text:
            calls.append(InputMessage("assistant", (InputTextPart(text),)))
        for index, call in enumerate(message.tool_calls or ()):
            if call.type != "function" or call.function is None:
                raise ProtocolError(
                    f'{where}.tool_calls.{index}: only "function" is served.',
                    code="unsupported_value",
                    param=f"{where}.tool_calls.{index}.type",
                )
            calls.append(FunctionCall(call.id, call.function.name, call.function.arguments))
        return calls

    def _spoken(self, audio_id: str, where: str) -> str:
        text = self._recall(audio_id)
        if text is None:
            raise ProtocolError(
                f"{where}: there is no spoken answer of this id, or it has expired.",
                code="unknown_audio",
                param=where,
            )
        return text

    def _text(self, message: _ChatMessage, where: str) -> str:
        parts = self._parts(message, where, ("text", "refusal"))
        return "\n".join(part.text for part in parts if isinstance(part, InputTextPart))

    def _parts(
        self, message: _ChatMessage, where: str, allowed: tuple[str, ...] = ()
    ) -> tuple[InputPart, ...]:
        content, where = message.content, f"{where}.content"
        if content is None:
            raise _missing(where)
        if isinstance(content, str):
            return (InputTextPart(content),)
        if not 1 <= len(content) <= MAX_PARTS:
            raise ProtocolError(f"{where}: 1 to {MAX_PARTS} parts are taken.", param=where)
        return tuple(
            self._part(raw, f"{where}.{index}", allowed) for index, raw in enumerate(content)
        )

    def _part(self, raw: dict[str, Any], where: str, allowed: tuple[str, ...]) -> InputPart:
        part = convert(raw, _ContentPart, prefix=where)
        if part.prompt_cache_breakpoint is not None:
            self._ignored.add("messages.content.prompt_cache_breakpoint")
        if allowed and part.type not in allowed:
            raise ProtocolError(
                f'{where}.type: "{part.type[:64]}" is not for this role; text is.',
                param=f"{where}.type",
            )
        match part.type:
            case "text":
                return InputTextPart(_given(part.text, f"{where}.text"))
            case "refusal" if allowed:
                return InputTextPart(_given(part.refusal, f"{where}.refusal"))
            case "image_url":
                return self._picture(_given(part.image_url, f"{where}.image_url"), where)
            case "input_audio":
                return _recording(_given(part.input_audio, f"{where}.input_audio"), where)
            case "audio_url":
                at = f"{where}.audio_url.url"
                url = _given(part.audio_url, f"{where}.audio_url").url
                return InputAudioPart(check_sound_file(decode_data_url(url, "audio", at)[1], at))
            case "video_url":
                at = f"{where}.video_url.url"
                url = _given(part.video_url, f"{where}.video_url").url
                media_type, data = decode_data_url(url, "video", at)
                return InputVideoPart(media_type, _bounded(data, MAX_VIDEO_BYTES, at))
        raise ProtocolError(
            f'{where}.type: "{part.type[:64]}" is not served; allowed: "text", "image_url", '
            '"input_audio", "audio_url", "video_url".',
            code="unsupported_value",
            param=f"{where}.type",
        )

    def _picture(self, picture: _Url, where: str) -> InputImagePart:
        at = f"{where}.image_url.url"
        media_type, data = decode_data_url(picture.url, "image", at)
        detail = picture.detail or "auto"
        return InputImagePart(media_type, _bounded(data, MAX_IMAGE_BYTES, at), detail)


def instructions_of(items: tuple[OrderedItem, ...]) -> tuple[str, tuple[OrderedItem, ...]]:
    """The text of the system's messages at the beginning, and what follows them."""
    texts = list(takewhile(lambda text: text is not None, map(_systems_text, items)))
    text = "\n\n".join(filter(None, texts))
    if len(text) > MAX_TEXT_CHARS:
        raise ProtocolError(
            f"messages: the system's messages at the beginning have more than {MAX_TEXT_CHARS} "
            "characters together.",
            param="messages",
        )
    return text, items[len(texts) :]


def _systems_text(ordered: OrderedItem) -> str | None:
    """None for an item of anybody else."""
    item = ordered.item
    if not isinstance(item, InputMessage) or item.role != "system":
        return None
    return "\n".join(part.text for part in item.parts if isinstance(part, InputTextPart))


def _recording(sound: _Sound, where: str) -> InputAudioPart:
    at = f"{where}.input_audio.data"
    data = check_sound_file(decode_base64(sound.data, at), at)
    if data.startswith(b"RIFF") != (sound.format == "wav"):
        raise ProtocolError(
            f"{at}: this is no {sound.format} file.", code="invalid_audio", param=at
        )
    return InputAudioPart(data)


def check_sound_file(data: bytes, where: str) -> bytes:
    """`data`, if it begins like a file of sound and is no larger than is taken."""
    # What does not begin like a file would be taken for samples.
    if not data.startswith(_SOUND_STARTS) and data[4:8] != b"ftyp":
        raise ProtocolError(
            f"{where}: this is no sound file of a kind that is read here.",
            code="invalid_audio",
            param=where,
        )
    return _bounded(data, MAX_SOUND_BYTES, where)


def _bounded(data: bytes, limit: int, where: str) -> bytes:
    if len(data) > limit:
        raise ProtocolError(
            f"{where}: a file of {len(data)} bytes; at most {limit} are taken.",
            code="too_large",
            param=where,
        )
    return data


def _given(value: T | None, where: str) -> T:
    if value is None:
        raise _missing(where)
    return value


def _missing(where: str) -> ProtocolError:
    return ProtocolError(
        f"{where}: this field is required.", code="missing_required_parameter", param=where
    )
