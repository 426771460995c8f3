"""Events of a Live client, parsed and validated. Any process.

As with the session's configuration unknown members are refused, by their paths.
"""

import base64
import binascii
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from signaling.errors import ProtocolError
from signaling.fields import convert
from signaling.live.tokens import estimate_tokens
from signaling.texts import naming_event, read_object

MAX_EVENT_BYTES = 2 * 1024 * 1024
"""30 s of a fixture, in base64."""
MAX_CONTENT_TOKENS = 500
MAX_ITEM_BYTES = 32_768
MAX_FIXTURE_S = 30
FIXTURE_HZ = 24_000

ClientEventId = Annotated[str, Meta(max_length=512)]
MaybeId = Annotated[str, Meta(min_length=1, max_length=128)] | None


class _LiveEvent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    type: str
    event_id: ClientEventId | None = None


class SessionStart(_LiveEvent, frozen=True, kw_only=True):
    """Begin the session; the first event over a WebSocket. Answered by `session.started`."""

    session: dict[str, Any]
    """Validated on its own, by `session_config.read_config`."""


class DelegationUpdate(_LiveEvent, frozen=True, kw_only=True):
    """Change who answers delegated tasks; answered by `session.updated`."""

    session: dict[str, Any]
    """Validated on its own, by `session_config.read_update`."""


class InputAppend(_LiveEvent, frozen=True, kw_only=True):
    """Send sound of the user in real time. Over WebRTC it has a track instead."""

    audio: str
    """Base64 of raw sound in the session's format."""


class InputMute(_LiveEvent, frozen=True, kw_only=True):
    """Let the model hear silence; answered by `session.input_audio.muted`."""


class InputUnmute(_LiveEvent, frozen=True, kw_only=True):
    """Let the model hear the user again; answered by `session.input_audio.unmuted`."""


class LiveForceListening(_LiveEvent, frozen=True, kw_only=True):
    """Our extension: while on, the model only listens and what it says is cut; told by a
    `session.info` with the code `force_listen_on` or `force_listen_off`.
    """

    on: bool = True


class LivePause(_LiveEvent, frozen=True, kw_only=True):
    """Our extension: take neither sound nor pictures; answered by `session.paused`."""


class LiveResume(_LiveEvent, frozen=True, kw_only=True):
    """Our extension: go on after a pause; answered by `session.resumed`."""


class _Append(_LiveEvent, frozen=True, kw_only=True):
    content: Annotated[str, Meta(min_length=1)]
    delegation_id: MaybeId


class InstructionsAppend(_Append, frozen=True, kw_only=True):
    """Give the model a rule; answered by `session.instructions.appended`."""


class ThinkingAppend(_Append, frozen=True, kw_only=True):
    """Tell the model something; answered by `session.thinking.appended`."""


class CommentaryAppend(_Append, frozen=True, kw_only=True):
    """Have the model say something; answered by `session.commentary.appended`."""


ContextAppend = InstructionsAppend | ThinkingAppend | CommentaryAppend
KINDS: dict[type[ContextAppend], Literal["instructions", "thinking", "commentary"]] = {
    InstructionsAppend: "instructions",
    ThinkingAppend: "thinking",
    CommentaryAppend: "commentary",
}


class FixturePlay(_LiveEvent, frozen=True, kw_only=True):
    """Play a recording instead of the model, which hears nothing meanwhile."""

    audio: str
    """Base64 of mono PCM16 at 24 kHz."""


class BackendItem(_LiveEvent, frozen=True, kw_only=True):
    """Give the text model the output of a function, or add a typed message."""

    item: dict[str, Any]


class BackendContinue(_LiveEvent, frozen=True, kw_only=True):
    """Let the text model go on with the outputs that it got, or the model answer a message."""


class SessionClose(_LiveEvent, frozen=True, kw_only=True):
    """End the session; answered by `session.closed`."""


LiveClientEvent = (
    SessionStart
    | DelegationUpdate
    | InputAppend
    | InputMute
    | InputUnmute
    | LiveForceListening
    | LivePause
    | LiveResume
    | InstructionsAppend
    | ThinkingAppend
    | CommentaryAppend
    | FixturePlay
    | BackendItem
    | BackendContinue
    | SessionClose
)

CLIENT_EVENTS: dict[str, type[LiveClientEvent]] = {
    "session.start": SessionStart,
    "session.update": DelegationUpdate,
    "session.input_audio.append": InputAppend,
    "session.input_audio.mute": InputMute,
    "session.input_audio.unmute": InputUnmute,
    "session.force_listen": LiveForceListening,
    "session.pause": LivePause,
    "session.resume": LiveResume,
    "session.instructions.append": InstructionsAppend,
    "session.thinking.append": ThinkingAppend,
    "session.commentary.append": CommentaryAppend,
    "session.output_audio.fixture.play": FixturePlay,
    "response.item.create": BackendItem,
    "response.create": BackendContinue,
    "session.close": SessionClose,
}
OURS = frozenset({"session.force_listen", "session.pause", "session.resume"})
"""Extensions of ours among them."""
UNSERVED = {
    "decision.create": "decisions are not served here",
    "decision.item.create": "decisions are not served here",
    "decision.item.delete": "decisions are not served here",
    "transport.dtmf.send": "calls come by WebRTC and WebSocket, not by SIP",
}
"""Events that Live knows and this server does not do, and why."""


def parse_live_event(text: str) -> LiveClientEvent:
    """Parse one message. Raises `ProtocolError` with the client's event_id if it has one."""
    if len(text) > MAX_EVENT_BYTES:
        raise ProtocolError(f"An event has at most {MAX_EVENT_BYTES} bytes.", code="too_large")
    raw = read_object(text)
    with naming_event(raw):
        return _read(raw)


def _read(raw: dict[str, Any]) -> LiveClientEvent:
    name = raw.get("type")
    if not isinstance(name, str):
        raise ProtocolError(
            "type: this field is required.", code="missing_required_parameter", param="type"
        )
    if name in UNSERVED:
        raise ProtocolError(f"{name}: {UNSERVED[name]}.", code="not_supported", param="type")
    struct = CLIENT_EVENTS.get(name)
    if struct is None:
        allowed = ", ".join(CLIENT_EVENTS)
        raise ProtocolError(
            f'type: "{name[:80]}" is no event known here; allowed: {allowed}.',
            code="unknown_event",
            param="type",
        )
    event: LiveClientEvent = convert(raw, struct)
    if isinstance(event, ContextAppend) and estimate_tokens(event.content) > MAX_CONTENT_TOKENS:
        raise ProtocolError(
            f"content: at most {MAX_CONTENT_TOKENS} tokens are allowed.",
            code="content_too_long",
            param="content",
        )
    return event


def decode_audio(text: str, *, max_bytes: int, sample_bytes: int = 2) -> bytes:
    """Decode sound from base64; raises `ProtocolError` that names `audio`."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise _invalid_audio("this is not base64") from None
    if not data:
        raise _invalid_audio("there is no sound in it")
    if len(data) % sample_bytes:
        raise _invalid_audio(f"{len(data)} bytes are no whole number of samples")
    if len(data) > max_bytes:
        raise _invalid_audio(f"at most {max_bytes} bytes are taken at once")
    return data


def fixture_pcm(event: FixturePlay) -> bytes:
    """Decode the sound of a fixture, PCM16 at 24 kHz; raises `ProtocolError`."""
    return decode_audio(event.audio, max_bytes=MAX_FIXTURE_S * FIXTURE_HZ * 2)


def _invalid_audio(why: str) -> ProtocolError:
    return ProtocolError(f"audio: {why}.", code="invalid_audio", param="audio")
