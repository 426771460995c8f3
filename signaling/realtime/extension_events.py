"""Server events that OpenAI's protocol does not have, told to clients that want extensions."""

from typing import Literal

from signaling.realtime.server_events import Item, Json, ServerEvent


class SessionQueued(ServerEvent, frozen=True, kw_only=True, tag="session.queued"):
    """All slots are taken; the session waits for its turn."""

    position: int
    """1 is next."""
    eta_s: float | None = None


class SessionWarningEvent(ServerEvent, frozen=True, kw_only=True, tag="session.warning"):
    """Something the user or developer should know and the session survives."""

    code: str
    message: str


class ForceListenUpdated(
    ServerEvent, frozen=True, kw_only=True, tag="session.force_listen.updated"
):
    """Whether the model only listens."""

    on: bool


class MutedEvent(ServerEvent, frozen=True, kw_only=True, tag="session.muted"):
    """Whether the model hears silence instead of the user."""

    on: bool


class PausedEvent(ServerEvent, frozen=True, kw_only=True, tag="session.paused"):
    """Neither sound nor pictures are taken until `session.resume`."""

    slot_kept_s: float
    """For how long the engine's place is kept; a `session.warning` tells 15 s before its end."""


class ResumedEvent(ServerEvent, frozen=True, kw_only=True, tag="session.resumed"):
    """Sound and pictures are taken again."""

    kept: Literal["everything", "words"]
    """What the model remembers: only words, if its place was given away meanwhile."""


class SessionContinued(ServerEvent, frozen=True, kw_only=True, tag="session.continued"):
    """The session goes on over this connection; told behind `session.created`."""

    items: tuple[Item, ...]
    """The newest of the conversation as they stand, oldest first; of answers what was heard."""
    responses: tuple[str, ...] = ()
    """Ids of the responses that are under way; `response.created` of each follows."""


class SessionEndedEvent(ServerEvent, frozen=True, kw_only=True, tag="session.ended"):
    """The last event of a session; the connection closes."""

    reason: str
    message: str


class Metrics(ServerEvent, frozen=True, kw_only=True, tag="metrics"):
    """Figures of one unit of the native model, of one turn, or of a sound over an answer."""

    metrics: Json
    """Name with its unit -> number. `overlap`: what the sound was taken for, which is
    `interruption` or `word` (a cut word was understood: the answer ends), `acknowledgement`,
    `noise` or `echo` (it goes on); `overlap_start_ms` is where it began in the input, and
    `overlap_decided_ms` how much of it was heard until then."""


EXTENSIONS = (
    SessionQueued,
    SessionWarningEvent,
    SessionEndedEvent,
    Metrics,
    ForceListenUpdated,
    MutedEvent,
    PausedEvent,
    ResumedEvent,
    SessionContinued,
)
