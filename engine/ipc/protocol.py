"""The messages between media workers and engines.

Every message is a frozen msgspec struct, encoded as MessagePack with its name as the tag. PCM is
int16 little endian, mono: 16 kHz towards the engine, 24 kHz from it. `pts` counts samples of that
stream since the session opened, never wall-clock time. `epoch` numbers the engine's responses
within a session, from 1; cutting a response raises the floor below which audio is stale.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

VERSION = 1
"""Both sides of a link must speak exactly this version; anything else is refused by name."""

INPUT_HZ = 16_000
OUTPUT_HZ = 24_000

MAX_AUDIO_BYTES = 2 * INPUT_HZ
MAX_OUTPUT_BYTES = 4 * OUTPUT_HZ
MAX_IMAGE_BYTES = 8 * 1024 * 1024
MAX_CLIP_BYTES = 2 * OUTPUT_HZ * 60
MAX_VIDEO_BYTES = 28 * 1024 * 1024
MAX_TEXT_CHARS = 65_536
MAX_ITEM_PARTS = 32
MAX_ITEM_BYTES = 32 * 1024 * 1024
"""Of an encoded `ItemIn`."""
MAX_PIECE_BYTES = 256 * 1024
MIN_COMMIT_MS = 100
COMMIT_EMPTY = "input_audio_buffer_commit_empty"
"""The code of a `RequestRefused` for a commit of less sound."""
MAX_MESSAGE_BYTES = MAX_IMAGE_BYTES + 65_536

SessionId = Annotated[str, Meta(min_length=1, max_length=64)]
Count = Annotated[int, Meta(ge=0)]
Text = Annotated[str, Meta(max_length=MAX_TEXT_CHARS)]
RequestName = Annotated[str, Meta(max_length=64)]
"""By which the answer to a request names it."""
InputPcm = Annotated[bytes, Meta(max_length=MAX_AUDIO_BYTES)]
OutputPcm = Annotated[bytes, Meta(max_length=MAX_OUTPUT_BYTES)]

Mode = Literal["full_duplex", "half_duplex", "turn_based"]
Modality = Literal["audio", "text"]


class Message(Struct, frozen=True, tag=True):
    """Base of everything that crosses a link."""


class TurnDetection(Struct, frozen=True):
    """How the engine finds the ends of what the user says; a native duplex model ignores it."""

    threshold: Annotated[float, Meta(ge=0, le=1)] = 0.5
    """0 takes everything for speech, 1 only what is loud and clear."""
    prefix_padding_ms: Annotated[int, Meta(ge=0, le=2000)] = 300
    silence_duration_ms: Annotated[int, Meta(ge=100, le=5000)] = 320
    """Silence that ends an utterance."""
    create_response: bool = True
    interrupt_response: bool = True


class Sampling(Struct, frozen=True):
    """Generation parameters; None leaves the engine's own default."""

    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=0, le=1000)] | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=5)] | None = None
    length_penalty: Annotated[float, Meta(gt=0, le=5)] | None = None
    max_output_tokens: Annotated[int, Meta(ge=1, le=32_768)] | None = None
    greedy: bool = False
    seed: Annotated[int, Meta(ge=0)] | None = None


class SessionConfig(Struct, frozen=True):
    """Everything a session may set; `UpdateSession` replaces it whole, also during a call."""

    mode: Mode = "full_duplex"
    instructions: Text = ""
    voice: Annotated[str, Meta(max_length=256)] = ""
    """Empty: the engine's default voice."""
    speed: Annotated[float, Meta(ge=0.25, le=4)] = 1.0
    modalities: tuple[Modality, ...] = ("audio",)
    turn_detection: TurnDetection = TurnDetection()
    sampling: Sampling = Sampling()
    transcribe: bool = True
    max_image_slices: Annotated[int, Meta(ge=1, le=16)] = 1
    context_policy: Literal["slide", "end"] = "slide"
    """What happens at the model's context limit, after the warnings."""
    options: dict[str, str | int | float | bool] = {}
    """Settings of one kind of engine; unknown names are answered with a `SessionWarning`."""


# ------------------------------------------------------------------ media worker -> engine


class Hello(Message, frozen=True):
    """First on every link. Its fields never change, so that any version can refuse any other."""

    version: int
    name: Annotated[str, Meta(max_length=128)]


class OpenSession(Message, frozen=True):
    """Ask for a slot; answered by `SessionOpened` or `SessionRefused`."""

    session: SessionId
    config: SessionConfig


class UpdateSession(Message, frozen=True):
    """Replace the configuration, the mode included, without losing the conversation."""

    session: SessionId
    config: SessionConfig


class AudioIn(Message, frozen=True):
    """Consecutive 16 kHz PCM; a `pts` beyond the expected one tells that samples were dropped."""

    session: SessionId
    pts: Count
    pcm: InputPcm


class ImageIn(Message, frozen=True):
    """A camera picture at `pts` of the audio clock; the newest one wins."""

    session: SessionId
    pts: Count
    width: Annotated[int, Meta(ge=1, le=4096)]
    height: Annotated[int, Meta(ge=1, le=4096)]
    rgb: Annotated[bytes, Meta(max_length=MAX_IMAGE_BYTES)]
    """width * height * 3 bytes, rows from the top. Empty: the camera was switched off."""


class TextPart(Struct, frozen=True, tag="text"):
    text: Text


class ImagePart(Struct, frozen=True, tag="image"):
    data: Annotated[bytes, Meta(max_length=MAX_IMAGE_BYTES)]
    """An encoded picture file; which kinds are read, the engine says."""


class AudioPart(Struct, frozen=True, tag="audio"):
    pcm: Annotated[bytes, Meta(max_length=MAX_CLIP_BYTES)]
    """A recording: 24 kHz, as clients send it, not yet at the model's rate; or a sound file."""


class VideoPart(Struct, frozen=True, tag="video"):
    data: Annotated[bytes, Meta(max_length=MAX_VIDEO_BYTES)]
    """An encoded MP4, QuickTime, WebM or Matroska file."""


ItemPart = TextPart | ImagePart | AudioPart | VideoPart


class ItemIn(Message, frozen=True):
    """Add an item to the conversation; it is answered only when `CreateResponse` follows."""

    session: SessionId
    item: Annotated[str, Meta(max_length=128)]
    role: Literal["user", "assistant", "system"]
    parts: Annotated[tuple[ItemPart, ...], Meta(max_length=MAX_ITEM_PARTS)]


class ItemPiece(Message, frozen=True):
    """A part of an encoded `ItemIn` too large for one message, in order.

    A `first` one begins anew, so that an item that was never completed does no harm.
    """

    session: SessionId
    data: Annotated[bytes, Meta(max_length=MAX_PIECE_BYTES)]
    first: bool
    last: bool


class DeleteItem(Message, frozen=True):
    session: SessionId
    item: Annotated[str, Meta(max_length=128)]


class CommitAudio(Message, frozen=True):
    """Turn-based push to talk: what was heard since the last commit is the user's turn.

    Answered by one final `InputTranscript`, by which the client gets the item of that turn, or by
    `RequestRefused`: then there is no turn. Where turns are committed by hand, no utterances are
    told that the engine detects.
    """

    session: SessionId
    request: RequestName = ""


class ClearAudio(Message, frozen=True):
    """Forget what was heard since the last commit."""

    session: SessionId


class CreateResponse(Message, frozen=True):
    """Answer now, with what the conversation holds; a running response is cancelled first.

    Each is answered by one `ResponseStarted` or one `RequestRefused`.
    """

    session: SessionId
    instructions: Text = ""
    """For this response only, beside the session's."""
    modalities: tuple[Modality, ...] = ()
    """Of this response; empty: the session's."""
    request: RequestName = ""


class CancelResponse(Message, frozen=True):
    """Stop responding; every epoch up to `epoch` is stale."""

    session: SessionId
    epoch: Count


class ForceListen(Message, frozen=True):
    """While on, the engine only listens; a running response is cancelled."""

    session: SessionId
    on: bool


class Heard(Message, frozen=True):
    """How far playout got: about every 200 ms while playing, and once, `final`, at the end of an
    epoch or when it was cut. It is the flow control: an engine keeps at most `MAX_AHEAD_MS` of
    audio beyond the last report under way."""

    session: SessionId
    epoch: Count
    samples: Count
    final: bool = False
    interrupted: bool = False


MAX_AHEAD_MS = 4_000


class CloseSession(Message, frozen=True):
    """Free the slot; idempotent, answered by `SessionEnded` if the session was open."""

    session: SessionId


class Ping(Message, frozen=True):
    n: Count


# ------------------------------------------------------------------ engine -> media worker


class Welcome(Message, frozen=True):
    """Answer to a `Hello` of the right version: what this engine is and can do."""

    version: int
    kind: str
    label: str
    """A line for people, e.g. on the call page."""
    description: str
    slots: int
    modes: tuple[Mode, ...]
    languages: tuple[str, ...]
    voices: tuple[str, ...]
    video: bool
    unit_ms: int = 0
    """The input quantum of a native model; 0: audio is consumed as it comes."""


class Refused(Message, frozen=True):
    """The link is not accepted (wrong version, no `Hello`) or a message could not be read."""

    code: Literal["version", "hello_expected", "malformed"]
    reason: str


class SessionOpened(Message, frozen=True):
    session: SessionId
    slot: Count


class SessionRefused(Message, frozen=True):
    session: SessionId
    code: Literal["no_free_slot", "duplicate", "unsupported", "failed"]
    reason: str


class SpeechStarted(Message, frozen=True):
    """The user began to speak at `pts`; utterances are numbered from 1."""

    session: SessionId
    utterance: Count
    pts: Count


class SpeechStopped(Message, frozen=True):
    session: SessionId
    utterance: Count
    pts: Count


class InputTranscript(Message, frozen=True):
    """What the user said; partial until `final`. A partial replaces the one before it."""

    session: SessionId
    utterance: Count
    text: Text
    final: bool
    error: str = ""
    """Why there is no transcript; the text is then empty."""
    code: Literal["failed", "not_transcribed"] = "failed"
    """With an error: whether writing it down failed, or is not something this engine does."""


class ResponseStarted(Message, frozen=True):
    """The engine begins to answer; nothing of `epoch` comes before this."""

    session: SessionId
    epoch: Count
    trigger: Literal["speech", "request", "proactive"]
    utterance: Count = 0
    """The utterance answered, 0 if none."""
    modality: Modality = "audio"
    """`text`: words only, no `AudioOut` follows."""
    request: RequestName = ""
    """The `CreateResponse` that it answers."""


class RequestRefused(Message, frozen=True):
    """A `CreateResponse` or `CommitAudio` comes to nothing; the session goes on."""

    session: SessionId
    request: RequestName
    code: str
    reason: str
    """For people."""


class AudioOut(Message, frozen=True):
    """24 kHz PCM of a response, in order; `pts` counts from the start of the epoch."""

    session: SessionId
    epoch: Count
    pts: Count
    pcm: OutputPcm
    last: bool = False


class TextOut(Message, frozen=True):
    """Words of a response, to be shown when playout reaches `pts` of the epoch's audio."""

    session: SessionId
    epoch: Count
    pts: Count
    text: Text
    last: bool = False


class ResponseDone(Message, frozen=True):
    """All of the epoch is generated (it may still be playing), or generation ended early."""

    session: SessionId
    epoch: Count
    status: Literal["completed", "cancelled", "failed", "incomplete"]
    reason: str = ""
    """For people, when not completed."""
    input_tokens: Count = 0
    output_tokens: Count = 0


class Interrupt(Message, frozen=True):
    """Barge-in: cut playback of every epoch up to `epoch` now."""

    session: SessionId
    epoch: Count


class UnitDone(Message, frozen=True):
    """Figures of one unit (native model) or one turn (cascade)."""

    session: SessionId
    unit: Count
    decision: Literal["listen", "speak"]
    stages_ms: dict[str, float]
    """For example encode, prefill, decode, tts, vocoder; or endpoint, asr, respond, tts."""
    kv_tokens: Count = 0
    dropped_ms: Count = 0


class SessionWarning(Message, frozen=True):
    """Something the user should know and survives, e.g. `context_near_limit`."""

    session: SessionId
    code: str
    message: str
    used: Count = 0
    limit: Count = 0


class PartLeftOut(Message, frozen=True):
    """A part of an item cannot be used; the words and the other parts count all the same."""

    session: SessionId
    item: Annotated[str, Meta(max_length=128)]
    part: Count
    """Its place among the item's parts."""
    reason: str
    """For people."""


class SessionEnded(Message, frozen=True):
    session: SessionId
    reason: Literal["closed", "goodbye", "context_limit", "failed", "shutdown"]
    message: str = ""


class Pong(Message, frozen=True):
    n: Count


PlainMessage = (
    UpdateSession
    | AudioIn
    | ImageIn
    | DeleteItem
    | CommitAudio
    | ClearAudio
    | CreateResponse
    | CancelResponse
    | ForceListen
    | Heard
)
"""A message of a session that holds no files."""

SessionMessage = PlainMessage | ItemIn
"""A message to an open session."""

ToEngine = Hello | OpenSession | ItemPiece | CloseSession | Ping | SessionMessage

FromEngine = (
    Welcome
    | Refused
    | SessionOpened
    | SessionRefused
    | SpeechStarted
    | SpeechStopped
    | InputTranscript
    | ResponseStarted
    | RequestRefused
    | AudioOut
    | TextOut
    | ResponseDone
    | Interrupt
    | UnitDone
    | SessionWarning
    | PartLeftOut
    | SessionEnded
    | Pong
)
