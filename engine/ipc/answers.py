"""What an engine tells a media worker."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from engine.ipc.message import (
    CallId,
    ContextKind,
    Count,
    ItemId,
    Message,
    OutputPcm,
    RequestName,
    SessionId,
)
from engine.ipc.session_config import FunctionName, Modality, Mode, Text


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
    writes: tuple[str, ...] = ()
    """The languages in which it is; empty: in all of `languages`."""
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
    speech: Literal["", "basic", "neural"] = ""
    """What it hears and speaks with, where that depends on what is installed."""
    options: tuple[str, ...] = ()
    """The settings of this kind of engine alone, by their names in `SessionConfig.options`."""
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


class SpeechCommitted(Message, frozen=True):
    """What the client committed is a turn of the user; its transcript comes later."""

    session: SessionId
    utterance: Count


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
    says: RequestName = ""
    """In full duplex: the `AppendContext` whose words it says."""


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


def sum_of(split: TokenSplit) -> int:
    """Tokens of all kinds that are counted."""
    return (split.text or 0) + (split.audio or 0) + (split.image or 0)


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


Loudness = Literal["full", "ducked", "held"]
OverlapDecision = Literal["interruption", "word", "acknowledgement", "noise"]
"""`word`: one of `cut_words`. After the first two the answer ends (in `hold` only by a word), after
the others it goes on."""


class OverlapTold(Message, frozen=True):
    """The caller sounds while an answer is heard, or about to be: what becomes of it."""

    session: SessionId
    loudness: Loudness | Literal[""]
    """Of the answer from now on; empty: as it is."""
    decision: OverlapDecision | Literal[""] = ""
    """Empty: not yet known."""
    pts: Count = 0
    """Where the caller's sound began."""
    took_ms: Count = 0
    """How much of it was heard until the decision."""


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
