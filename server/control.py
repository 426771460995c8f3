"""The messages between the front and its media workers, over the supervisor's control link."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from engine.ipc.protocol import ItemPiece, Message, Ping
from engine.ipc.supervision import FromChild, Shutdown
from signaling.live.session_config import CalledConfig
from signaling.session.items import Item, MessageItem
from signaling.settings import SessionSettings


class EngineAddress(Struct, frozen=True):
    """A leased slot: which engine, and where it listens."""

    name: str
    endpoint: str


class ConversationKept(Struct, frozen=True):
    """A conversation as it can go on in another media worker."""

    settings: SessionSettings
    items: tuple[Item, ...]
    """The newest, oldest first, without files and sound."""


class PlaceCall(Message, frozen=True):
    """Answer this offer. The call gets an engine, or a place in the queue, once it is connected."""

    call_id: str
    sdp: str
    session: SessionSettings
    remote: str
    live: CalledConfig | None = None
    """It is a Live session, of this configuration."""
    is_resumable: bool = False
    """Its client can come back over another connection."""
    kept: ConversationKept | None = None
    """It goes on from here: its media worker died."""
    n: int = 0
    """Which of the front's questions about this call it is; what follows from it repeats it."""
    callers: tuple[str, ...] = ()
    owner: str | None = None
    """Both for `CallStands` only."""


class PlaceStream(Message, frozen=True):
    """Expect the WebSocket of a new session (`server.handover`); answered by `StreamPlaced`."""

    call_id: str
    session: SessionSettings
    remote: str
    door: str = "realtime"
    """The protocol that is spoken."""
    is_resumable: bool = False
    kept: ConversationKept | None = None
    n: int = 0
    callers: tuple[str, ...] = ()
    owner: str | None = None


class ResumeCall(Message, frozen=True):
    """The call's client has lost its connection and offers another one; answered as `PlaceCall`."""

    call_id: str
    sdp: str
    n: int = 0


class AssignEngine(Message, frozen=True):
    """The call's turn has come; only connected calls are told so."""

    call_id: str
    engine: EngineAddress


class QueuePosition(Message, frozen=True):
    call_id: str
    position: int
    eta_s: float | None


class SlotNeeded(Message, frozen=True):
    """Others wait for a slot, and the call's client is away."""

    call_id: str


class HangUp(Message, frozen=True):
    call_id: str
    reason: str


class PassPiece(Message, frozen=True):
    """For the call's engine: a piece of an item that an `AddItem` will complete."""

    call_id: str
    piece: ItemPiece


class AddItem(Message, frozen=True):
    """Put an item into the call's conversation; answered by `ItemAdded` or `ItemRefused`."""

    call_id: str
    item: MessageItem
    """Without the files."""
    last: ItemPiece
    """It makes the engine take the item."""
    previous_item_id: str | None = None


class UpdateIce(Message, frozen=True):
    """A client's ICE fragment (RFC 8840); answered by `IceUpdated` or `IceRefused`."""

    call_id: str
    n: int
    fragment: str


class EngineDown(Message, frozen=True):
    """This engine process is dead: end its sessions without waiting for a timeout."""

    endpoint: str
    reason: str


class GetStats(Message, frozen=True):
    n: int


class CallPlaced(Message, frozen=True):
    call_id: str
    sdp: str
    n: int = 0


class StreamPlaced(Message, frozen=True):
    """Its socket may be handed over."""

    call_id: str
    n: int = 0


class CallConnected(Message, frozen=True):
    """Its client is there: the call needs an engine from now on. Said once."""

    call_id: str
    n: int = 0
    """Of the placing, as in `CallEnded`."""


class SlotReleased(Message, frozen=True):
    """The call pauses for so long that its engine's slot is free for others."""

    call_id: str


class SlotWanted(Message, frozen=True):
    """The call goes on after that and needs a slot; answered as `CallConnected`."""

    call_id: str


class ClientAway(Message, frozen=True):
    """The call's client cannot be reached; without it the session ends in `ends_in_s`."""

    call_id: str
    ends_in_s: float


class ClientBack(Message, frozen=True):
    call_id: str


class KeepConversation(Message, frozen=True):
    """How the conversation of a resumable call stands, for the case that this process dies."""

    call_id: str
    kept: ConversationKept


class CallRefused(Message, frozen=True):
    """The offer cannot be served; the fields are those of `signaling.errors.ProtocolError`."""

    call_id: str
    status: int
    code: str
    message: str
    param: str | None = None
    n: int = 0


class ItemAdded(Message, frozen=True):
    call_id: str
    item_id: str


class ItemRefused(Message, frozen=True):
    """The fields are those of `signaling.errors.ProtocolError`."""

    call_id: str
    item_id: str
    status: int
    code: str
    message: str
    param: str | None = None


class IceUpdated(Message, frozen=True):
    call_id: str
    n: int
    fragment: str
    """Our side after a restart; empty for candidates only."""


class IceRefused(Message, frozen=True):
    """The fields are those of `signaling.errors.ProtocolError`."""

    call_id: str
    n: int
    status: int
    code: str
    message: str


class CallEnded(Message, frozen=True):
    """The peer connection is closed and the engine's slot is free again."""

    call_id: str
    reason: str
    turns: int
    mode: str = ""
    """Of its end; empty: it had not begun, or its media worker died."""
    latency_ms: dict[str, float] = {}
    """Of its last turn."""
    n: int = 0


class CallStands(Message, frozen=True, kw_only=True):
    """A call that was placed by a front that died, for the one that took its place."""

    call_id: str
    remote: str
    callers: tuple[str, ...]
    owner: str | None
    since: float
    """By the monotonic clock, which is the machine's."""
    n: int
    """Of the placing."""
    asked: int
    """The latest question that was asked about it."""
    is_stream: bool
    is_connected: bool
    was_served: bool
    engine: EngineAddress | None
    """That it has a slot of."""
    wants_slot: bool
    """It waits for one."""
    away_s: float | None
    """Its client is away, and awaited for so long."""
    kept: ConversationKept | None
    """None: its client cannot come back."""


class CallsTold(Message, frozen=True):
    """Behind the last `CallStands`."""


class CallStats(Struct, frozen=True):
    call_id: str
    state: str
    since_s: float
    mode: str
    turns: int
    stats: list[dict[str, Any]]
    """webrtc-stats objects."""
    latency_ms: dict[str, float]
    """Of the newest turn, for example `first_audio` after the end of speech."""
    kv_tokens: int = 0
    """What the model remembers of this call."""


class WorkerStats(Message, frozen=True):
    """Answer to `GetStats`."""

    n: int
    cpu_s: float
    rss_bytes: int
    loop_lag_ms: float
    tasks: int
    calls: list[CallStats]


ToWorker = (
    PlaceCall
    | PlaceStream
    | ResumeCall
    | SlotNeeded
    | AssignEngine
    | QueuePosition
    | PassPiece
    | AddItem
    | UpdateIce
    | HangUp
    | EngineDown
    | GetStats
    | Ping
    | Shutdown
)
FromWorker = (
    CallPlaced
    | StreamPlaced
    | CallRefused
    | CallConnected
    | SlotReleased
    | SlotWanted
    | ClientAway
    | ClientBack
    | KeepConversation
    | ItemAdded
    | ItemRefused
    | IceUpdated
    | IceRefused
    | CallEnded
    | CallStands
    | CallsTold
    | WorkerStats
)
Inbound = FromChild | FromWorker


class WorkerConfig(Struct, frozen=True):
    """The configuration that a media worker gets on stdin."""

    name: str
    control: str
    config: bytes
    """The whole `server.config.Config`, as JSON."""
    secret: str = ""
    """Proves to the supervisor that this process is the child it started."""


def encode_worker(config: WorkerConfig) -> bytes:
    return msgspec.json.encode(config)
