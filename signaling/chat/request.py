"""The body of POST /v1/chat/completions: checked, every member of it. Front.

OpenAI API reference, "Chat / Create chat completion". Each member is served, told to be ignored, or
refused by name; `top_k`, `repetition_penalty`, `length_penalty` are extensions that other servers
of open models know, too.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from signaling.chat.messages import OrderedItem, Reader, instructions_of
from signaling.chat.tools import ToolWish, read_tools
from signaling.errors import ProtocolError
from signaling.fields import convert
from signaling.texts import decode_json, plain_names

MAX_COMMAS = 100_000
"""Bounds what a body may unpack to: 40 MB of `{},` would be gigabytes of objects."""
MAX_TOKENS = 32_768
MAX_STOPS = 4

SpokenFormat = Literal["wav", "pcm16", "mp3", "opus", "flac", "aac"]
Share = Annotated[float, Meta(gt=0, le=1)]
Penalty = Annotated[float, Meta(gt=0, le=5)]
StopText = Annotated[str, Meta(min_length=1, max_length=256)]
TokenLimit = Annotated[int, Meta(ge=1, le=MAX_TOKENS)]

REFUSED: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "n": (None, 1),
    "logprobs": (None, False),
    "top_logprobs": (None, 0),
    "logit_bias": (None, {}),
    "prediction": (None,),
    "web_search_options": (None,),
    "functions": (None, []),
    "function_call": (None, "none"),
    "reasoning_effort": (None, "none"),
    "moderation": (None,),
    "store": (None, False),
    "response_format": (None, {"type": "text"}),
}
"""Members of which only these values can be served."""

IGNORED = frozenset(
    (
        *("metadata", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention"),
        *("safety_identifier", "service_tier", "user", "verbosity"),
    )
)
"""Members that change nothing here; the answer's headers name those that were given."""


class SpokenAnswer(msgspec.Struct, frozen=True):
    """The `audio` member."""

    voice: str | dict[str, Any]
    format: SpokenFormat


class StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class ChatRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The members that are served, as they come; `REFUSED` and `IGNORED` name the others."""

    model: Annotated[str, Meta(min_length=1, max_length=256)]
    messages: Annotated[list[dict[str, Any]], Meta(min_length=1, max_length=1024)]
    modalities: list[Literal["text", "audio"]] | None = None
    audio: SpokenAnswer | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_completion_tokens: TokenLimit | None = None
    max_tokens: TokenLimit | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Share | None = None
    seed: Annotated[int, Meta(ge=0)] | None = None
    stop: StopText | Annotated[list[StopText], Meta(max_length=MAX_STOPS)] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    top_k: Annotated[int, Meta(ge=0, le=1000)] | None = None
    repetition_penalty: Penalty | None = None
    length_penalty: Penalty | None = None


class SamplingWish(msgspec.Struct, frozen=True, kw_only=True):
    """How tokens are chosen; None leaves the engine's own way. The names are the engine's."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    length_penalty: float | None = None
    max_output_tokens: int | None = None
    seed: int | None = None


class ChatOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What a request asks, checked and decoded."""

    model: str
    items: tuple[OrderedItem, ...]
    instructions: str = ""
    voice: str = ""
    """Empty: the default one."""
    spoken_as: SpokenFormat | None = None
    """None: the answer is written."""
    sampling: SamplingWish = SamplingWish()
    stop: tuple[str, ...] = ()
    tools: ToolWish = ToolWish()
    is_streamed: bool = False
    tells_usage: bool = False
    """Of an answer that is streamed."""
    ignored: tuple[str, ...] = ()
    """Members that were given and change nothing."""


def parse_chat(body: bytes, recall: Callable[[str], str | None]) -> ChatOrder:
    """Check and decode a body; `recall` gives the words of an earlier spoken answer by its id.

    Raises ProtocolError. Megabytes take a tenth of a second: not for an event loop.
    """
    if body.count(b",") > MAX_COMMAS:
        raise ProtocolError(
            f"JSON with more than {MAX_COMMAS} commas is not accepted.",
            code="too_large",
            status=413,
        )
    try:
        raw = decode_json(body)
    except ValueError as error:
        raise ProtocolError(f"The body is not JSON: {error}.", code="invalid_json") from None
    if not isinstance(raw, dict):
        raise ProtocolError("The body is to be a JSON object.")
    for name, allowed in REFUSED.items():
        if raw.get(name) not in allowed:
            raise _unsupported(name, allowed)
    request = convert(raw, ChatRequest)
    reader = Reader(recall)
    messages = reader.read(request.messages)
    instructions, items = instructions_of(messages)
    tools = read_tools(request.tools, request.tool_choice, request.parallel_tool_calls)
    return ChatOrder(
        model=request.model,
        items=items,
        instructions=instructions,
        voice=_voice(request),
        spoken_as=_spoken_as(request),
        sampling=_sampling(request),
        stop=_stops(request),
        tools=tools,
        is_streamed=bool(request.stream),
        tells_usage=_tells_usage(request),
        ignored=_ignored(raw, request, tools, reader.ignored),
    )


def _unsupported(name: str, allowed: tuple[Any, ...]) -> ProtocolError:
    values = [msgspec.json.encode(value).decode() for value in allowed if value is not None]
    served = f"only {values[0]} is" if values else "it cannot be"
    return ProtocolError(f"{name}: {served} served here.", code="unsupported_value", param=name)


def _spoken_as(request: ChatRequest) -> SpokenFormat | None:
    modalities = request.modalities or ["text"]
    if "audio" not in modalities:
        return None
    if "text" not in modalities:
        raise ProtocolError(
            'modalities: ["audio"] alone is not served: ask for ["text", "audio"].',
            code="unsupported_value",
            param="modalities",
        )
    if request.audio is None:
        raise ProtocolError(
            'audio: this field is required with modalities ["text", "audio"].',
            code="missing_required_parameter",
            param="audio",
        )
    if request.stream and request.audio.format not in ("wav", "pcm16"):
        raise ProtocolError(
            f'audio.format: "{request.audio.format}" is not streamed; "wav" and "pcm16" are.',
            code="unsupported_value",
            param="audio.format",
        )
    return request.audio.format


def _voice(request: ChatRequest) -> str:
    if request.audio is None or "audio" not in (request.modalities or ()):
        return ""
    return voice_name(request.audio.voice, "audio.voice")


def voice_name(voice: str | dict[str, Any], where: str) -> str:
    """The name of a voice that is given as a string or as `{id}`; raises ProtocolError."""
    name = voice.get("id") if isinstance(voice, dict) else voice
    if not isinstance(name, str) or not 1 <= len(name) <= 256:
        raise ProtocolError(f"{where}: the name of a voice, or its id, is expected.", param=where)
    return name


def _stops(request: ChatRequest) -> tuple[str, ...]:
    stops = (request.stop,) if isinstance(request.stop, str) else tuple(request.stop or ())
    if stops and "audio" in (request.modalities or ()):
        raise ProtocolError(
            "stop: not together with sound, which cannot be cut where words can.",
            code="unsupported_value",
            param="stop",
        )
    return stops


def _sampling(request: ChatRequest) -> SamplingWish:
    return SamplingWish(
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        repetition_penalty=request.repetition_penalty,
        length_penalty=request.length_penalty,
        max_output_tokens=request.max_completion_tokens or request.max_tokens,
        seed=request.seed,
    )


def _tells_usage(request: ChatRequest) -> bool:
    if request.stream_options is None:
        return False
    if not request.stream:
        raise ProtocolError("stream_options: only with stream: true.", param="stream_options")
    return bool(request.stream_options.include_usage)


def _ignored(
    raw: dict[str, Any], request: ChatRequest, tools: ToolWish, inner: frozenset[str]
) -> tuple[str, ...]:
    names = set(inner)
    if request.stream_options is not None and request.stream_options.include_obfuscation:
        names.add("stream_options.include_obfuscation")
    if tools.has_strict:
        names.add("tools.function.strict")
    if request.audio is not None and "audio" not in (request.modalities or ()):
        names.add("audio")
    unserved = unserved_names(raw, (*ChatRequest.__struct_fields__, *REFUSED))
    return tuple(sorted((*unserved, *names)))


def unserved_names(raw: dict[str, Any], served: tuple[str, ...]) -> tuple[str, ...]:
    """The members that were given and change nothing, fit for a header."""
    names = (name for name, value in raw.items() if name not in served and value is not None)
    return plain_names(sorted(names))
