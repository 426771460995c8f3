"""The messages between media workers and engines.

Every message is a frozen msgspec struct, encoded as MessagePack with its name as the tag. PCM is
int16 little endian, mono: 16 kHz towards the engine, 24 kHz from it. `pts` counts samples of that
stream since the session opened, never wall-clock time. `epoch` numbers the engine's responses
within a session, from 1; cutting a response raises the floor below which audio is stale.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from engine.ipc.session_config import (
    MAX_TEXT_CHARS as MAX_TEXT_CHARS,
)
from engine.ipc.session_config import (
    FunctionName as FunctionName,
)
from engine.ipc.session_config import (
    FunctionTool as FunctionTool,
)
from engine.ipc.session_config import (
    Modality as Modality,
)
from engine.ipc.session_config import (
    Mode as Mode,
)
from engine.ipc.session_config import (
    Retention as Retention,
)
from engine.ipc.session_config import (
    Sampling as Sampling,
)
from engine.ipc.session_config import (
    SessionConfig as SessionConfig,
)
from engine.ipc.session_config import (
    Text as Text,
)
from engine.ipc.session_config import (
    ToolChoice as ToolChoice,
)
from engine.ipc.session_config import (
    TurnDetection as TurnDetection,
)

VERSION = 2
"""Both sides of a link must speak exactly this version; anything else is refused by name."""

INPUT_HZ = 16_000
OUTPUT_HZ = 24_000

MAX_AUDIO_BYTES = 2 * INPUT_HZ
MAX_OUTPUT_BYTES = 4 * OUTPUT_HZ
MAX_IMAGE_BYTES = 8 * 1024 * 1024
MAX_SOUND_BYTES = 12 * 1024 * 1024
"""Of a sound file: a minute of stereo at 48 kHz, unpacked, is a little less."""
MAX_VIDEO_BYTES = 28 * 1024 * 1024
MAX_ITEM_PARTS = 32
MAX_ITEM_BYTES = 32 * 1024 * 1024
"""Of an encoded `ItemIn`."""
MAX_PIECE_BYTES = 256 * 1024
ROOT = "root"
MIN_COMMIT_MS = 100
COMMIT_EMPTY = "input_audio_buffer_commit_empty"
"""The code of a `RequestRefused` for a commit of less sound."""
MAX_MESSAGE_BYTES = MAX_IMAGE_BYTES + 65_536

SessionId = Annotated[str, Meta(min_length=1, max_length=64)]
Count = Annotated[int, Meta(ge=0)]
ItemId = Annotated[str, Meta(max_length=128)]
CallId = Annotated[str, Meta(min_length=1, max_length=128)]
RequestName = Annotated[str, Meta(max_length=64)]
"""By which the answer to a request names it."""
ContextKind = Literal["instructions", "thinking", "commentary"]
InputPcm = Annotated[bytes, Meta(max_length=MAX_AUDIO_BYTES)]
OutputPcm = Annotated[bytes, Meta(max_length=MAX_OUTPUT_BYTES)]


class Message(Struct, frozen=True, tag=True):
    """Base of everything that crosses a link."""


def utterance_item(number: int) -> str:
    """The name of what the user said."""
    return f"utterance-{number}"


def response_item(epoch: int) -> str:
    """The name of what a response says."""
    return f"response-{epoch}"


def call_item(call_id: str) -> str:
    """The name of a call that the engine made."""
    return f"call-{call_id}"


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
    pcm: Annotated[bytes, Meta(max_length=MAX_SOUND_BYTES)]
    """A recording: 24 kHz, as clients send it, not yet at the model's rate; or a sound file."""


class VideoPart(Struct, frozen=True, tag="video"):
    data: Annotated[bytes, Meta(max_length=MAX_VIDEO_BYTES)]
    """An encoded MP4, QuickTime, WebM or Matroska file."""


ItemPart = TextPart | ImagePart | AudioPart | VideoPart


class ItemIn(Message, frozen=True):
    """Add an item to the conversation; it is answered only when `CreateResponse` follows."""

    session: SessionId
    item: ItemId
    role: Literal["user", "assistant", "system"]
    parts: Annotated[tuple[ItemPart, ...], Meta(max_length=MAX_ITEM_PARTS)]
    after: ItemId = ""
    """The item before it; empty: the end of the conversation. `ROOT`: the beginning. What the
    engine itself put there has the names of `utterance_item`, `response_item` and `call_item`."""


class FunctionCallIn(Message, frozen=True):
    """Put a call that the assistant once made into the conversation, as a client replays it."""

    session: SessionId
    item: ItemId
    call_id: CallId
    name: FunctionName
    arguments: Text
    after: ItemId = ""


class FunctionOutputIn(Message, frozen=True):
    """What a function gave back; it is answered only when `CreateResponse` follows."""

    session: SessionId
    item: ItemId
    call_id: CallId
    output: Text
    after: ItemId = ""


class ItemPiece(Message, frozen=True):
    """A part of an encoded `ItemIn` too large for one message, in order.

    A `first` one begins anew, so that an item that was never completed does no harm.
    """

    session: SessionId
    data: Annotated[bytes, Meta(max_length=MAX_PIECE_BYTES)]
    first: bool
    last: bool


class DeleteItem(Message, frozen=True):
    """Take an item out, whoever made it: the names are those of `ItemIn.after`."""

    session: SessionId
    item: ItemId


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
    transcribes: bool = False
    """Whether what the user says is written down."""
    tool_modes: tuple[Mode, ...] = ()
    """The modes in which functions are called."""
    appends: tuple[ContextKind, ...] = ()
    delegates: bool = False
    """Whether it hands tasks to the client by `DelegationCreated`."""
    answers_out_of_band: bool = False
    transcribes_files: bool = False
    """Recordings in items are written down, too: `PartTranscript`."""
    says_texts: bool = False
    """A `commentary` is said word for word, and in every mode."""
    context_tokens: Count = 0
    """How much the model remembers of a session; 0: nothing that is counted."""
    takes_voices: bool = False
    """It speaks with voices that are uploaded (`KeepVoice`), by their ids."""
    voices_lack: str = ""
    """Why it does not, and what would change that; for people."""
    honours: tuple[str, ...] = ()
    """The settings that have an effect here, by their names in `SessionConfig` and `Sampling`; and
    `after`, where an item goes. Of others that are set an engine warns once (`unused_setting`)."""


class SpokenSegment(Struct, frozen=True):
    """Something said in a recording; positions are in ms from its beginning."""

    start_ms: Count
    end_ms: Count
    text: Text


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


class FunctionCallOut(Message, frozen=True):
    """The assistant calls a function; the arguments come in order, in one or more pieces."""

    session: SessionId
    epoch: Count
    call_id: CallId
    name: FunctionName
    arguments: Text
    """JSON, what of it is new."""
    last: bool = True


class ContextAppended(Message, frozen=True):
    """An `AppendContext` stands in the model's context, from `pts` to `end_pts` of the input."""

    session: SessionId
    request: RequestName
    pts: Count
    end_pts: Count


class DelegationCreated(Message, frozen=True):
    """The model hands the client a task, told by what was said; answers come as `AppendContext`."""

    session: SessionId
    delegation: CallId
    pts: Count


class TokenSplit(Struct, frozen=True):
    """What of a number of tokens is of which kind; None: the engine cannot tell."""

    text: Count | None = None
    audio: Count | None = None
    image: Count | None = None
    cached: Count | None = None
    """Of all kinds, how many were not read anew."""


class ResponseDone(Message, frozen=True):
    """All of the epoch is generated (it may still be playing), or generation ended early."""

    session: SessionId
    epoch: Count
    status: Literal["completed", "cancelled", "failed", "incomplete"]
    reason: str = ""
    """For people, when not completed."""
    input_tokens: Count = 0
    output_tokens: Count = 0
    """Both 0: nothing is counted."""
    input_split: TokenSplit = TokenSplit()
    output_split: TokenSplit = TokenSplit()


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
    item: ItemId
    part: Count
    """Its place among the item's parts."""
    reason: str
    """For people."""


class PartTranscript(Message, frozen=True):
    """What is said in a recording of an item; for engines that write down what they hear."""

    session: SessionId
    item: ItemId
    part: Count
    """Its place among the item's parts."""
    segments: tuple[SpokenSegment, ...]
    duration_ms: Count


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
    | UnitDone
    | SessionWarning
    | PartLeftOut
    | PartTranscript
    | SessionEnded
    | Pong
)
