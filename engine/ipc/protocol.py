"""The messages between media workers and engines.

Every message is a frozen msgspec struct, encoded as MessagePack with its name as the tag. PCM is
int16 little endian, mono: 16 kHz towards the engine, 24 kHz from it. `pts` counts samples of that
stream since the session opened, never wall-clock time. `epoch` numbers the engine's responses
within a session, from 1; cutting a response raises the floor below which audio is stale.

Everything is imported from here; what the engine says lies in `answers`, items in `items`.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from engine.ipc.answers import (
    AudioOut,
    ContextAppended,
    DelegationCreated,
    FunctionCallOut,
    InputTranscript,
    Interrupt,
    Loudness,
    OverlapDecision,
    OverlapTold,
    PartLeftOut,
    PartTranscript,
    Pong,
    Refused,
    RequestRefused,
    ResponseDone,
    ResponseStarted,
    SessionEnded,
    SessionOpened,
    SessionRefused,
    SessionWarning,
    SpeechCommitted,
    SpeechStarted,
    SpeechStopped,
    SpokenSegment,
    TextOut,
    TokenSplit,
    UnitDone,
    Welcome,
    sum_of,
)
from engine.ipc.items import (
    AudioPart,
    DeleteItem,
    FunctionCallIn,
    FunctionOutputIn,
    ImagePart,
    ItemIn,
    ItemPart,
    ItemPiece,
    TextPart,
    VideoPart,
)
from engine.ipc.message import (
    COMMIT_EMPTY,
    INPUT_HZ,
    MAX_AUDIO_BYTES,
    MAX_IMAGE_BYTES,
    MAX_ITEM_BYTES,
    MAX_ITEM_PARTS,
    MAX_MESSAGE_BYTES,
    MAX_OUTPUT_BYTES,
    MAX_PIECE_BYTES,
    MAX_SOUND_BYTES,
    MAX_VIDEO_BYTES,
    MIN_COMMIT_MS,
    OUTPUT_HZ,
    ROOT,
    CallId,
    ContextKind,
    Count,
    InputPcm,
    ItemId,
    Message,
    OutputPcm,
    RequestName,
    SessionId,
    call_item,
    response_item,
    utterance_item,
)
from engine.ipc.session_config import (
    CUT_WORDS,
    MAX_TEXT_CHARS,
    FunctionName,
    FunctionTool,
    Modality,
    Mode,
    Retention,
    Sampling,
    SessionConfig,
    Text,
    ToolChoice,
    TurnDetection,
)

VERSION = 4
"""Both sides of a link must speak exactly this version; anything else is refused by name."""


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
    played: OutputPcm = b""
    """What was sent to the caller since the message before: packets of 20 ms. Empty where nothing
    was, or where it is not known when it plays."""


class ImageIn(Message, frozen=True):
    """A camera picture at `pts` of the audio clock; the newest one wins."""

    session: SessionId
    pts: Count
    width: Annotated[int, Meta(ge=1, le=4096)]
    height: Annotated[int, Meta(ge=1, le=4096)]
    rgb: Annotated[bytes, Meta(max_length=MAX_IMAGE_BYTES)]
    """width * height * 3 bytes, rows from the top. Empty: the camera was switched off."""


class CommitAudio(Message, frozen=True):
    """Turn-based push to talk: what was heard since the last commit is the user's turn.

    Answered by one final `InputTranscript`, by which the client gets the item of that turn (where
    that takes longer, by `SpeechCommitted` before it), or by `RequestRefused`: then there is no
    turn. Where turns are committed by hand, no utterances are
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
    max_output_tokens: Annotated[int, Meta(ge=1, le=32_768)] | None = None
    """None: the session's."""
    tools: Annotated[tuple[FunctionTool, ...], Meta(max_length=128)] | None = None
    tool_choice: ToolChoice | None = None
    tool_name: str = ""
    is_out_of_band: bool = False
    """Neither the response nor `input` enters the conversation, and a running one goes on."""
    input: Annotated[tuple[ItemIn, ...], Meta(max_length=64)] | None = None
    """Out of band: what is answered instead of the conversation; None: the conversation."""


class AppendContext(Message, frozen=True):
    """Tell the model something while a full-duplex session runs, without making a turn of it.

    instructions: a rule from now on. thinking: known, not said. commentary: to be said soon, in the
    model's words. Answered by one `ContextAppended` or one `RequestRefused`.
    """

    session: SessionId
    kind: ContextKind
    text: Text
    request: RequestName = ""
    delegation: CallId | None = None
    """The task that it answers."""


class CancelResponse(Message, frozen=True):
    """Stop responding; every epoch up to `epoch` is stale.

    With the epoch of a response out of band: that one alone; others never end one of these.
    """

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


PlainMessage = (
    UpdateSession
    | AudioIn
    | ImageIn
    | DeleteItem
    | CommitAudio
    | ClearAudio
    | CreateResponse
    | AppendContext
    | FunctionCallIn
    | FunctionOutputIn
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
    | SpeechCommitted
    | InputTranscript
    | ResponseStarted
    | RequestRefused
    | AudioOut
    | TextOut
    | FunctionCallOut
    | ContextAppended
    | DelegationCreated
    | ResponseDone
    | Interrupt
    | OverlapTold
    | UnitDone
    | SessionWarning
    | PartLeftOut
    | PartTranscript
    | SessionEnded
    | Pong
)
