"""What a door needs of a session: its commands, what it is, and who is told of it. Media worker.

A door is an object made for each connection. It calls the commands of `SessionCore` for what its
client sends, and is a `Watcher`: it renders each event of `signaling.session.events`. The core is
in `server.worker`, which knows no protocol.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple, Protocol

import msgspec
from msgspec import Meta

from signaling.errors import ProtocolError
from signaling.session.events import SessionEvent
from signaling.session.items import InputItem, Item
from signaling.settings import Modality, SessionSettings

UPLOADED_VOICE = "voice_"
"""How the ids of uploaded voices begin."""
ContextKind = Literal["instructions", "thinking", "commentary"]


class Watcher(Protocol):
    """A connection to a session, which is told of everything that happens there."""

    def tell(self, event: SessionEvent, asked_as: str | None = None) -> None:
        """Pass an event on; `asked_as`: the client's name of the command that it answers, if this
        connection gave it.
        """


class Door(Watcher, Protocol):
    """What stands between a connection and the session: one protocol's words."""

    def receive(self, text: str) -> None:
        """Take one message of the client; raises nothing."""

    def refuse(self, error: ProtocolError) -> None:
        """Tell this client alone what it did wrong."""


class StreamDoor(Door, Protocol):
    """The door of a WebSocket that has a session of its own."""

    @property
    def is_started(self) -> bool:
        """Whether the client has said what its protocol wants to begin with, if anything."""


class SoundPort(Protocol):
    """The way of sound that goes with a connection's messages, in the formats that are set."""

    def append(self, data: bytes) -> None:
        """Take sound of the user; raises ValueError, with the reason, if it is none."""

    def flush(self) -> None:
        """What was appended is whole: the engine is to have all of it now."""

    def drop(self) -> None:
        """Forget what was appended and the engine does not have."""

    def see(self, file: bytes) -> None:
        """Take a picture of the user's camera, a JPEG file."""

    def encode(self, pcm: bytes) -> bytes:
        """Return 24 kHz PCM of an answer as it is sent."""


class Asker(NamedTuple):
    """Who gave a command: answers go to this connection alone, or name its command there."""

    watcher: Watcher
    event_id: str | None = None


class Abilities(msgspec.Struct, frozen=True, kw_only=True):
    """What the engine of a session can do."""

    tool_modes: tuple[str, ...] = ()
    appends: tuple[ContextKind, ...] = ()
    delegates: bool = False
    answers_out_of_band: bool = False
    transcribes: bool = False
    sees: bool = False
    """Pictures of a camera."""
    hears_in_units: bool = False
    """It takes sound in units of real time, and skips what comes faster."""
    voices: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    context_tokens: int = 0
    """How much its model remembers of a session; 0: unknown."""
    takes_voices: bool = False
    """It speaks with uploaded voices, too, by their ids."""
    honours: frozenset[str] = frozenset()
    """Settings that have an effect, by their names in the engine's configuration."""

    def may_speak_with(self, voice: str) -> bool:
        """Whether this is one of its voices, or can be an uploaded one: it knows itself."""
        return voice in self.voices or (self.takes_voices and voice.startswith(UPLOADED_VOICE))


Percent = Annotated[float, Meta(ge=0, le=100)]
Milliseconds = Annotated[float, Meta(ge=0, le=600_000)]


class ClientFigures(msgspec.Struct, frozen=True, kw_only=True):
    """How a call is on the client's side; what it does not know it leaves out."""

    rtt_ms: Milliseconds | None = None
    in_loss_pct: Percent | None = None
    in_jitter_ms: Milliseconds | None = None
    in_buffer_ms: Milliseconds | None = None
    """What its jitter buffer adds."""
    concealed_pct: Percent | None = None
    """Of the sound played, what was made up because packets were missing."""
    out_loss_pct: Percent | None = None


class ResponseWish(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of one response; None keeps the session's setting."""

    instructions: str | None = None
    modalities: tuple[Modality, ...] | None = None
    metadata: dict[str, str] | None = None
    max_output_tokens: int | None = None
    tools: tuple[dict[str, Any], ...] | None = None
    """Function tools, as settings hold them."""
    tool_choice: str | dict[str, Any] | None = None
    is_out_of_band: bool = False
    input: tuple[InputItem | str, ...] | None = None
    """Out of band: items, or the ids of some of the conversation, instead of the conversation."""


class SessionCore(Protocol):
    """The commands of a session. Each raises `ProtocolError` for what cannot be done.

    State events that follow go to all connections; a refusal that comes later goes to `by`.
    """

    @property
    def session_id(self) -> str: ...

    @property
    def settings(self) -> SessionSettings: ...

    @property
    def abilities(self) -> Abilities | None:
        """None until an engine serves the session."""

    def update(self, changes: Mapping[str, Any], by: Asker | None = None) -> None:
        """Apply a partial session object as `SessionSettings.merge` does."""

    def add_item(self, item: InputItem, after: str | None = None) -> str:
        """Put an item behind `after`, `items.ROOT` for the beginning, None for the end; its id."""

    def item(self, item_id: str) -> Item:
        """Return an item as it stands."""

    def delete_item(self, item_id: str) -> None: ...

    def truncate_item(self, item_id: str, end_ms: int) -> None:
        """Let what of an answer comes later count as never said."""

    def create_response(self, wish: ResponseWish, by: Asker | None = None) -> None: ...

    def cancel_response(self, response_id: str | None = None) -> None:
        """Cut the running response; it must be the one named."""

    def clear_output(self) -> None:
        """Cut what is being said, if anything is."""

    def commit_input(self, by: Asker | None = None) -> None:
        """End the user's turn by hand."""

    def clear_input(self) -> None: ...

    def append_context(
        self,
        kind: ContextKind,
        text: str,
        delegation: str | None = None,
        by: Asker | None = None,
    ) -> None:
        """Tell the model something while it listens or speaks."""

    def force_listen(self, is_on: bool, by: Asker | None = None) -> None:
        """While on, the model only listens; what it is saying is cut."""

    def pause(self, by: Asker | None = None) -> None:
        """Take neither sound nor pictures; the engine's place is kept for a while."""

    def resume(self, by: Asker | None = None) -> None:
        """Go on after a pause, if need be behind others who wait for a place."""

    def mute(self, is_muted: bool, by: Asker | None = None) -> None:
        """Let the model hear silence instead of the user, or the user again."""

    def report(self, figures: ClientFigures) -> None:
        """The client tells how the call is on its side."""

    def hang_up(self, reason: str = "hangup") -> None:
        """End the session soon."""
