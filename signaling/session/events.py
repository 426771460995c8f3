"""What happens in a session, in no protocol's words: a door renders each in its own. Media worker.

Positions of the user's sound are in ms of the input timeline, those of an answer in samples at
24 kHz from the beginning of that answer.
"""

from typing import Literal

import msgspec

from signaling.errors import ProtocolError
from signaling.session.items import Item
from signaling.settings import Modality, SessionSettings

ResponseStatus = Literal["in_progress", "completed", "cancelled", "incomplete", "failed"]
CancelReason = Literal["turn_detected", "client_cancelled"]


class SessionEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all of them."""


# ------------------------------------------------------------------ the session


class SessionReady(SessionEvent, frozen=True, kw_only=True):
    """The session is served: sound and commands count from now on. Told to each newcomer."""

    session_id: str
    settings: SessionSettings
    expires_at: int | None
    """Unix seconds."""


class SessionGoesOn(SessionEvent, frozen=True, kw_only=True):
    """The client has come back over a new connection: what it may have missed."""

    items: tuple[Item, ...]
    """The newest of the conversation, as they stand; of answers what was heard."""
    responses: tuple[str, ...] = ()
    """Ids of the responses that are under way, of which is told next."""


class SettingsChanged(SessionEvent, frozen=True, kw_only=True):
    session_id: str
    settings: SessionSettings
    """All that are in force."""
    expires_at: int | None


class QueueMoved(SessionEvent, frozen=True, kw_only=True):
    position: int
    """1 is next."""
    eta_s: float | None


class Notice(SessionEvent, frozen=True, kw_only=True):
    """Something the user should know and the session survives."""

    code: str
    message: str


class PartDropped(SessionEvent, frozen=True, kw_only=True):
    """A part of an item cannot be used; the rest of the item counts all the same."""

    item_id: str
    part: int
    reason: str


class InputMuted(SessionEvent, frozen=True, kw_only=True):
    """The model hears silence from now on, or the user again."""

    is_muted: bool


class InputHushed(SessionEvent, frozen=True, kw_only=True):
    """The model only listens from now on, or may speak again."""

    is_on: bool


class CallPaused(SessionEvent, frozen=True, kw_only=True):
    """Neither sound nor pictures are taken until the session is resumed."""

    slot_kept_s: float
    """For how long nobody else gets its place."""


class CallResumed(SessionEvent, frozen=True, kw_only=True):
    """Sound and pictures are taken again."""

    kept: Literal["everything", "words"]
    """What the model remembers: words, if its place was given away meanwhile."""


class SessionOver(SessionEvent, frozen=True, kw_only=True):
    """The last event of a session."""

    reason: str
    message: str
    is_failure: bool


class Figures(SessionEvent, frozen=True, kw_only=True):
    """Of one unit of a native model or one turn: name with its unit -> number."""

    figures: dict[str, float | int]
    decision: Literal["listen", "speak"] = "listen"
    """What the model did in it."""


class OverlapDecided(SessionEvent, frozen=True, kw_only=True):
    """The caller sounded over an answer; after `interruption` and `word` it ends."""

    decision: Literal["interruption", "word", "acknowledgement", "noise"]
    start_ms: int
    took_ms: int


class Refusal(SessionEvent, frozen=True, kw_only=True):
    """A command came to nothing; told to who gave it."""

    error: ProtocolError


# ------------------------------------------------------------------ the user


class UserStartedSpeaking(SessionEvent, frozen=True, kw_only=True):
    item_id: str
    """Of the item that the utterance becomes."""
    start_ms: int


class UserStoppedSpeaking(SessionEvent, frozen=True, kw_only=True):
    item_id: str
    end_ms: int


class UserTimedOut(SessionEvent, frozen=True, kw_only=True):
    """Nothing was said for as long as the settings allow after an answer."""

    item_id: str
    start_ms: int
    end_ms: int


class TurnCommitted(SessionEvent, frozen=True, kw_only=True):
    """What was said becomes an item, which follows."""

    item_id: str
    after: str | None


class InputForgotten(SessionEvent, frozen=True, kw_only=True):
    """What was heard since the last commit is forgotten."""


class TranscriptGrew(SessionEvent, frozen=True, kw_only=True):
    item_id: str
    text: str
    """What is new."""
    start_ms: int


class TranscriptCompleted(SessionEvent, frozen=True, kw_only=True):
    item_id: str
    text: str
    """All of it."""
    grown: str
    """What of it was told as it grew; not always how it begins."""
    start_ms: int
    end_ms: int


class TranscriptFailed(SessionEvent, frozen=True, kw_only=True):
    item_id: str
    code: str
    message: str


# ------------------------------------------------------------------ items


class ItemPlaced(SessionEvent, frozen=True, kw_only=True):
    """A whole item stands in the conversation."""

    item: Item
    after: str | None
    """The item before it; None: it is the first."""


class ItemRemoved(SessionEvent, frozen=True, kw_only=True):
    item_id: str


class ItemCut(SessionEvent, frozen=True, kw_only=True):
    """What of an answer comes after `end_ms` counts as never said."""

    item_id: str
    end_ms: int


# ------------------------------------------------------------------ answers


class TokenShares(msgspec.Struct, frozen=True, kw_only=True):
    """What of a number of tokens is of which kind; None: it is not known."""

    text: int | None = None
    audio: int | None = None
    image: int | None = None
    cached: int | None = None
    """Of all kinds, how many were not read anew."""

    def counted(self) -> dict[str, int]:
        """The kinds that were counted, by OpenAI's names."""
        numbers = msgspec.structs.asdict(self)
        return {f"{kind}_tokens": n for kind, n in numbers.items() if n is not None}


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of one response."""

    input_tokens: int = 0
    output_tokens: int = 0
    input_shares: TokenShares = TokenShares()
    output_shares: TokenShares = TokenShares()


class ResponseInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A response as it stands."""

    id: str
    modality: Modality
    status: ResponseStatus
    output: tuple[Item, ...] = ()
    reason: str | None = None
    """Why it was cancelled or is incomplete, by name; why it failed, in words."""
    usage: Usage | None = None
    metadata: dict[str, str] | None = None
    max_output_tokens: int | None = None
    """None: no limit."""
    is_out_of_band: bool = False
    """It is not part of the conversation."""


class ResponseBegan(SessionEvent, frozen=True, kw_only=True):
    response: ResponseInfo


class OutputStarted(SessionEvent, frozen=True, kw_only=True):
    """An item of a response begins: its message, or a call of a function."""

    response: ResponseInfo
    index: int
    item: Item
    after: str | None


class WordsReleased(SessionEvent, frozen=True, kw_only=True):
    """Words of the answer are heard now or, on a connection that is sent sound ahead, sent."""

    response_id: str
    item_id: str
    index: int
    modality: Modality
    text: str
    start: int
    end: int
    """Where in the answer's sound they lie, as far as that is known."""


class SpeechReleased(SessionEvent, frozen=True, kw_only=True):
    """Sound of the answer, for connections without a track."""

    response_id: str
    item_id: str
    index: int
    start: int
    pcm: bytes
    """24 kHz."""


class ResponseAudible(SessionEvent, frozen=True, kw_only=True):
    """The first sample of the answer is on its way."""

    response_id: str


class ArgumentsGrew(SessionEvent, frozen=True, kw_only=True):
    """More of the arguments of a function that is being called."""

    response_id: str
    item_id: str
    index: int
    call_id: str
    text: str


class OutputEnded(SessionEvent, frozen=True, kw_only=True):
    """An item of a response is as it stays; a function whose status is `completed` is to run."""

    response: ResponseInfo
    index: int
    item: Item
    after: str | None


class ResponseEnded(SessionEvent, frozen=True, kw_only=True):
    response: ResponseInfo


class PlayoutEnded(SessionEvent, frozen=True, kw_only=True):
    """The sound of an answer is over: played to its end, or cut."""

    response_id: str
    is_cut: bool


# ------------------------------------------------------------------ full duplex


class ContextPlaced(SessionEvent, frozen=True, kw_only=True):
    """What was appended stands in the model's context."""

    kind: Literal["instructions", "thinking", "commentary"]
    start_ms: int
    end_ms: int


class TaskDelegated(SessionEvent, frozen=True, kw_only=True):
    """The model hands the client a task, told by what was said so far."""

    delegation_id: str
    at_ms: int
