"""The settings of a session in the shape of OpenAI's GA session object, and their updates.

Merged as the API does it: only the members given change, objects are merged, lists and the rest are
replaced. Modes: full duplex is turn_detection "semantic_vad", half duplex "server_vad", turn-based
null. Front and media worker.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from signaling.errors import ProtocolError
from signaling.fields import convert
from signaling.toolchecks import check_choice, check_tools, unsupported

MAX_INSTRUCTIONS_CHARS = 32 * 1024
MAX_TOOLS = 128
MAX_TOOLS_BYTES = 128 * 1024
MAX_ENGINE_OPTIONS = 32
MAX_UNKNOWN = 64

Name = Annotated[str, Meta(min_length=1, max_length=256)]
Modality = Literal["text", "audio"]
Option = (
    bool
    | Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
    | float
    | Annotated[str, Meta(max_length=256)]
)


class AudioFormat(msgspec.Struct, frozen=True, omit_defaults=True):
    """Of sound in messages; over WebRTC it is always Opus."""

    type: Literal["audio/pcm", "audio/pcmu", "audio/pcma"]
    rate: int | None = None
    """Of PCM only: the others have one rate."""


PCM = AudioFormat("audio/pcm", 24_000)
_RATES = {"audio/pcm": 24_000, "audio/pcmu": 8_000, "audio/pcma": 8_000}


class NoiseReduction(msgspec.Struct, frozen=True):
    type: Literal["near_field", "far_field"] | None = None


class Transcription(msgspec.Struct, frozen=True):
    model: Name | None = None
    language: Annotated[str, Meta(max_length=16)] | None = None
    prompt: Annotated[str, Meta(max_length=4096)] | None = None


Overlap = Literal["cut", "smart", "hold"]
CutWords = Annotated[
    tuple[Annotated[str, Meta(min_length=1, max_length=64)], ...], Meta(max_length=64)
]


class ServerVad(msgspec.Struct, frozen=True, tag_field="type", tag="server_vad"):
    """Half duplex: silence ends the user's turn."""

    threshold: Annotated[float, Meta(ge=0, le=1)] = 0.5
    prefix_padding_ms: Annotated[int, Meta(ge=0, le=5000)] = 300
    silence_duration_ms: Annotated[int, Meta(ge=50, le=10_000)] = 500
    idle_timeout_ms: Annotated[int, Meta(ge=5000, le=30_000)] | None = None
    create_response: bool = True
    interrupt_response: bool = True
    overlap: Overlap = "smart"
    """Ours: which sound over an answer ends it. `cut`: any speech; `smart`: what is neither a short
    acknowledgement nor somebody else's; `hold`: `cut_words` alone."""
    cut_words: CutWords | None = None
    """Ours: words that end an answer as soon as they are understood, where what is said is written
    down; null: those of the server, as "stop" and "wait"."""


class SemanticVad(msgspec.Struct, frozen=True, tag_field="type", tag="semantic_vad"):
    """Full duplex: the model decides each second whether to listen or to speak."""

    eagerness: Literal["low", "medium", "high", "auto"] = "auto"
    create_response: bool = True
    interrupt_response: bool = True
    overlap: Overlap = "smart"
    """Ours: which sound over an answer ends it. `cut`: any speech; `smart`: what is neither a short
    acknowledgement nor somebody else's; `hold`: `cut_words` alone."""
    cut_words: CutWords | None = None
    """Ours: words that end an answer as soon as they are understood, where what is said is written
    down; null: those of the server, as "stop" and "wait"."""


class AudioInputSettings(msgspec.Struct, frozen=True):
    format: AudioFormat = PCM
    noise_reduction: NoiseReduction | None = None
    transcription: Transcription | None = Transcription()
    """null: what the user says is not written down."""
    turn_detection: ServerVad | SemanticVad | None = SemanticVad()


class AudioOutputSettings(msgspec.Struct, frozen=True):
    format: AudioFormat = PCM
    voice: Name | dict[str, Any] = "default"
    speed: Annotated[float, Meta(ge=0.25, le=1.5)] = 1.0

    @property
    def voice_name(self) -> str:
        """The voice's name or id; `default` for the engine's choice."""
        if isinstance(self.voice, str):
            return self.voice
        named = self.voice.get("id")
        return named if isinstance(named, str) and named else "default"


class Audio(msgspec.Struct, frozen=True):
    input: AudioInputSettings = AudioInputSettings()
    output: AudioOutputSettings = AudioOutputSettings()


class Video(msgspec.Struct, frozen=True):
    """Our extension: what is seen of the camera."""

    enabled: bool = True
    fps: Annotated[float, Meta(ge=0.1, le=10)] = 1.0
    """Pictures per second that reach the model, at most."""
    detail: Literal["low", "auto", "high"] = "auto"


class TokenLimits(msgspec.Struct, frozen=True):
    post_instructions: Annotated[int, Meta(ge=0, le=2**31)] | None = None
    """Of the conversation, without the instructions; null: as many as the engine has room for."""


class RetentionRatio(msgspec.Struct, frozen=True, tag_field="type", tag="retention_ratio"):
    """A conversation that is too long forgets its oldest part, much at once and seldom."""

    retention_ratio: Annotated[float, Meta(ge=0, le=1)]
    """The part of the limit down to which it forgets."""
    token_limits: TokenLimits | None = None


class SessionSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The effective settings of a session."""

    type: Literal["realtime", "transcription"] = "realtime"
    """transcription: what the user says is written down, and nothing is answered."""
    model: Name = "omnicall"
    instructions: Annotated[str, Meta(max_length=MAX_INSTRUCTIONS_CHARS)] = ""
    output_modalities: Annotated[tuple[Modality, ...], Meta(min_length=1, max_length=1)] = (
        "audio",
    )
    """One: who speaks writes down the words as well."""
    audio: Audio = Audio()
    include: Annotated[tuple[str, ...], Meta(max_length=16)] | None = None
    tools: Annotated[tuple[dict[str, Any], ...], Meta(max_length=MAX_TOOLS)] = ()
    tool_choice: Name | dict[str, Any] = "auto"
    max_output_tokens: Annotated[int, Meta(ge=1, le=4096)] | Literal["inf"] = "inf"
    response_length: Literal["short", "balanced", "long"] | None = None
    """Our extension: how much is said, in a word; `engine.length_penalty` says it as a number."""
    truncation: Literal["auto", "disabled"] | RetentionRatio = "auto"
    tracing: Literal["auto"] | dict[str, Any] | None = None
    video: Video = Video()
    engine: Annotated[dict[Name, Option], Meta(max_length=MAX_ENGINE_OPTIONS)] = {}
    """Our extension: options of the engine, which says itself which it knows."""
    unknown: tuple[str, ...] = ()
    """Members that were given and that no setting has, by their dotted names."""

    def merge(self, update: Mapping[str, Any]) -> "SessionSettings":
        """Return these settings with a partial session object applied.

        null resets a member to its default where it is not a value of its own. Raises
        ProtocolError with param "session.…" for the first invalid member.
        """
        known = msgspec.to_builtins(self)
        if update.get("type") == "transcription" != self.type:
            known["audio"]["input"]["turn_detection"] = msgspec.to_builtins(ServerVad())
        merged = _merge(known, update)
        merged["unknown"] = self.unknown
        for direction in ("input", "output"):
            _settle_format(merged.get("audio"), direction)
        settings = convert(merged, SessionSettings, prefix="session")
        if len(json.dumps(settings.tools)) > MAX_TOOLS_BYTES:
            raise ProtocolError(
                f"session.tools: at most {MAX_TOOLS_BYTES} bytes of JSON are allowed.",
                param="session.tools",
            )
        if update.get("prompt") is not None:
            raise unsupported("session.prompt", "there are no stored prompts here")
        if settings.type == "transcription":
            _check_transcribing(update)
        check_tools(settings.tools, "session.tools")
        check_choice(settings.tool_choice, settings.tools, "session.tool_choice")
        found = _unknown(update, settings.to_session(""))
        names = tuple(dict.fromkeys([*self.unknown, *found]))
        return msgspec.structs.replace(settings, unknown=names[:MAX_UNKNOWN])

    def to_session(self, session_id: str, expires_at: int | None = None) -> dict[str, Any]:
        """Return the full GA session object; `expires_at` in Unix seconds."""
        shown: dict[str, Any] = {
            "id": session_id,
            "object": "realtime.session",
            "expires_at": expires_at,
            **msgspec.to_builtins(self),
        }
        del shown["unknown"]
        written = shown["audio"]["input"]["transcription"]
        if written is not None and written["model"] is None:
            # pipecat takes no null for it, and reads nothing more once it met one.
            written["model"] = "default"
        if self.type == "transcription":
            hears = {"input": shown["audio"]["input"]}
            shown |= {"object": "realtime.transcription_session", "audio": hears}
            return {name: shown[name] for name in _TRANSCRIBING}
        return shown


_TRANSCRIBING = ("id", "object", "type", "expires_at", "audio", "include")
"""The members of a session that only transcribes."""


def _check_transcribing(update: Mapping[str, Any]) -> None:
    """Raise ProtocolError for what a session has that answers."""
    speaks = {f"audio.{name}": given for name, given in (update.get("audio") or {}).items()}
    for name, given in (speaks | dict(update)).items():
        is_its_own = name in (*_TRANSCRIBING, "model", "audio.input")
        is_known = name == "audio.output" or name in SessionSettings.__struct_fields__
        if given is not None and is_known and not is_its_own:
            raise unsupported(f"session.{name}", "a session that transcribes gives no answers")


def _settle_format(audio: Any, direction: str) -> None:
    """Give a format the one rate that its type has, as OpenAI's types want it told."""
    half = audio.get(direction) if isinstance(audio, dict) else None
    given = half.get("format") if isinstance(half, dict) else None
    if not isinstance(half, dict) or not isinstance(given, Mapping):
        return
    rate = _RATES.get(str(given.get("type", "audio/pcm")))
    where = f"session.audio.{direction}.format.rate"
    if rate is not None and given.get("rate") not in (None, rate):
        told = f"{where}: {given.get('type', 'audio/pcm')} has {rate} Hz here; allowed: {rate}."
        raise ProtocolError(told, param=where)
    settled = {"type": "audio/pcm"} | dict(given)
    settled["rate"] = rate if settled["type"] == "audio/pcm" else None
    half["format"] = settled


_MERGED_OBJECTS = ("audio", "input", "output", "video", "engine")
_NULLABLE = ("turn_detection", "noise_reduction", "transcription", "idle_timeout_ms")


_RATE = "rate"
"""Checked, and not told where a format has only one."""


def _unknown(
    given: Mapping[str, Any], known: Mapping[str, Any], where: str = "session"
) -> Iterator[str]:
    for name, value in given.items():
        if value is None or name == _RATE:
            continue
        at = f"{where}.{name[:64]}"
        if name not in known:
            yield at
        elif isinstance(value, Mapping) and isinstance(known[name], Mapping):
            yield from _unknown(value, known[name], at)


def _merge(current: dict[str, Any], update: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(current)
    for name, value in update.items():
        old: Any = merged.get(name)
        is_object = isinstance(value, Mapping) and isinstance(old, dict)
        if value is None and name not in _NULLABLE:
            merged.pop(name, None)
        elif is_object and name in _MERGED_OBJECTS:
            merged[name] = _merge(old, value)
        elif is_object and name == "turn_detection":
            keeps = value.get("type", old.get("type")) == old.get("type")
            merged[name] = _merge(old, value) if keeps else value
        else:
            merged[name] = value
    return merged
