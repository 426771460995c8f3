"""Messages of clients of `openbmb-realtime` 0.1.6, parsed and validated. Media worker.

Its wire protocol: `openbmb_realtime/protocol.py`. The older names of the MiniCPM-o demo's branch
`realtime-protocol` are taken beside them. Unknown members are ignored.
"""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from signaling.errors import ProtocolError
from signaling.fields import convert
from signaling.settings import MAX_INSTRUCTIONS_CHARS
from signaling.texts import read_object

MAX_VOICE_CHARS = 4 * 1024 * 1024
MAX_FRAMES = 16
MAX_FRAME_CHARS = 4 * 1024 * 1024
MAX_APPEND_S = 10
HZ = 16_000
SAMPLE_BYTES = 4
MAX_AUDIO_CHARS = -(-MAX_APPEND_S * HZ * SAMPLE_BYTES // 3) * 4

Prompt = Annotated[str, Meta(max_length=MAX_INSTRUCTIONS_CHARS)]
Slices = Annotated[int, Meta(ge=1, le=9)]
LengthPenalty = Annotated[float, Meta(gt=0, le=5)]
VoiceFile = Annotated[str, Meta(max_length=MAX_VOICE_CHARS)]
SoundText = Annotated[str, Meta(min_length=1, max_length=MAX_AUDIO_CHARS)]
Frames = Annotated[
    tuple[Annotated[str, Meta(max_length=MAX_FRAME_CHARS)], ...], Meta(max_length=MAX_FRAMES)
]


class DuplexConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How the model decides; what is absent keeps the server's own setting."""

    length_penalty: LengthPenalty | None = None
    """Above 1: longer answers."""
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    """Of a unit; the engine's own bound counts here."""
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    max_kv_tokens: Annotated[int, Meta(ge=1)] | None = None
    """The engine's own bound counts here."""
    tts_enabled: bool | None = None
    """False: answers are words only."""
    vision_hd: bool | None = None
    """Two slices of each picture instead of one."""


class ReferenceVoice(msgspec.Struct, frozen=True, kw_only=True):
    """Recordings of a voice; this server speaks with its own voices."""

    ref_audio_base64: VoiceFile | None = None
    tts_ref_audio_base64: VoiceFile | None = None


class InitPayload(msgspec.Struct, frozen=True, kw_only=True):
    """What a session is to be."""

    system_prompt: Prompt | None = None
    config: DuplexConfig = DuplexConfig()
    voice: ReferenceVoice = ReferenceVoice()
    max_slice_nums: Slices | None = None
    """Of each picture; more than two count as two."""


class SessionInit(msgspec.Struct, frozen=True, kw_only=True):
    """Begin the conversation, once `session.queue_done` has come; answered by `session.created`."""

    payload: InitPayload = InitPayload()


class DuplexInput(msgspec.Struct, frozen=True, kw_only=True):
    """What is heard, and what is seen meanwhile."""

    audio: SoundText
    """Base64 of float32, little endian, 16 kHz, mono; any length up to 10 s."""
    video_frames: Frames = ()
    """Base64 of JPEG files, no data URLs; the last one counts."""
    force_listen: bool = False
    """Cut the answer, and only listen in the next unit."""


class UnitAppend(msgspec.Struct, frozen=True, kw_only=True):
    """Sound of the user, in real time; none while the client pauses."""

    input: DuplexInput


class ClientClose(msgspec.Struct, frozen=True, kw_only=True):
    """End the session; answered by `session.closed`."""

    reason: Annotated[str, Meta(max_length=256)] = "user_stop"


class DemoVoiceConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What the demo's page sets of `DuplexConfig`."""

    length_penalty: LengthPenalty | None = None


class DemoSession(msgspec.Struct, frozen=True, kw_only=True):
    """What a session is to be, in the demo's names."""

    instructions: Prompt | None = None
    ref_audio: VoiceFile | None = None
    tts_ref_audio: VoiceFile | None = None
    max_slice_nums: Slices | None = None
    voice_config: DemoVoiceConfig = DemoVoiceConfig()


class DemoUpdate(msgspec.Struct, frozen=True, kw_only=True):
    """Begin the conversation, in the demo's names."""

    session: DemoSession


class DemoAppend(DuplexInput, frozen=True, kw_only=True):
    """Sound and pictures of the user, in the demo's names."""


CLIENT_MESSAGES: dict[str, type[Any]] = {
    "session.init": SessionInit,
    "input.append": UnitAppend,
    "session.close": ClientClose,
    "session.update": DemoUpdate,
    "input_audio_buffer.append": DemoAppend,
}
OpenBmbMessage = InitPayload | DuplexInput | ClientClose


def parse_message(text: str) -> OpenBmbMessage:
    """Parse one message of a client, in either set of names; raises `ProtocolError`."""
    raw = read_object(text, "message")
    name = raw.get("type")
    struct = CLIENT_MESSAGES.get(name) if isinstance(name, str) else None
    if struct is None:
        allowed = ", ".join(CLIENT_MESSAGES)
        raise ProtocolError(
            f'type: "{str(name)[:80]}" is no message known here; allowed: {allowed}.',
            code="unknown_event",
            param="type",
        )
    match convert(raw, struct):
        case SessionInit(payload=payload):
            return payload
        case UnitAppend(input=unit):
            return unit
        case DemoUpdate(session=session):
            return _newer(session)
        case message:
            assert isinstance(message, DuplexInput | ClientClose)
            return message


def _newer(session: DemoSession) -> InitPayload:
    return InitPayload(
        system_prompt=session.instructions,
        config=DuplexConfig(length_penalty=session.voice_config.length_penalty),
        voice=ReferenceVoice(
            ref_audio_base64=session.ref_audio, tts_ref_audio_base64=session.tts_ref_audio
        ),
        max_slice_nums=session.max_slice_nums,
    )
