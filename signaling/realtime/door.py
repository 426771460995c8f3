"""The OpenAI Realtime door: what one connection's client sends becomes commands of the session,
what happens there its events. Media worker.
"""

from collections.abc import Callable, Iterator
from typing import Any

from signaling.errors import ProtocolError
from signaling.realtime import client_events as c
from signaling.realtime import rendering
from signaling.realtime import server_events as wire
from signaling.realtime.client_events import parse_client_event
from signaling.realtime.client_items import ItemCreate, decoded, unused_members
from signaling.realtime.extension_events import EXTENSIONS
from signaling.realtime.fitting import fitted
from signaling.realtime.response_options import wish_of
from signaling.session import events as ev
from signaling.session.core import Asker, SessionCore, SoundPort
from signaling.texts import MAX_NAMES


class RealtimeDoor:
    """Nothing a client sends raises out of here. `send` gets each event as JSON text."""

    def __init__(
        self,
        core: SessionCore,
        send: Callable[[str], object],
        *,
        max_message_bytes: Callable[[], int] = lambda: 0,
        port: SoundPort | None = None,
        has_track: bool = True,
        tells_extensions: bool = True,
    ) -> None:
        """`max_message_bytes`: what the client takes in one message; 0: any size. `port`: the sound
        goes with the messages. `has_track`: the client hears the answers over a track, so that
        events tell of its buffer.
        """
        self._core = core
        self._send = send
        self._max_message_bytes = max_message_bytes
        self._port = port
        self._has_track = has_track
        self._tells_extensions = tells_extensions
        self._told_unused: set[str] = set()
        """Members of items, by their names."""

    # ------------------------------------------------------------------ from the client

    @property
    def is_started(self) -> bool:
        """A session of this protocol is one at once."""
        return True

    def receive(self, text: str) -> None:
        """Take one message; a bad one is answered with an `error` event."""
        try:
            event = parse_client_event(text)
        except ProtocolError as error:
            self.refuse(error)
            return
        try:
            self._handle(event)
        except ProtocolError as error:
            error.event_id = event.event_id
            self.refuse(error)

    def refuse(self, error: ProtocolError) -> None:
        """Tell this client alone what it did wrong."""
        self._tell(wire.error_event(error))

    def _handle(self, event: c.ClientEvent) -> None:
        core, by = self._core, Asker(self, event.event_id)
        match event:
            case c.SessionUpdate():
                core.update(event.session, by)
            case c.ResponseCreate():
                options = event.response or c.ResponseOptions()
                core.create_response(wish_of(options, core.settings, core.abilities), by)
                for index, item in enumerate(options.input or ()):
                    self._tell_unused(unused_members(item, f"response.input.{index}"))
            case c.ResponseCancel():
                core.cancel_response(event.response_id)
            case c.InputBufferAppend() | c.InputBufferCommit() | c.InputBufferClear():
                self._handle_input(event, by)
            case c.ForceListening() | c.MuteInput() | c.SessionPause() | c.SessionResume():
                self._handle_rest(event, by)
            case c.ReportStats():
                core.report(event.figures)
            case c.OutputBufferClear():
                if not self._has_track:
                    raise _not_here("output_audio_buffer.clear", "the client has the sound")
                core.clear_output()
            case _:
                self._handle_items(event)

    def _handle_input(
        self, event: c.InputBufferAppend | c.InputBufferCommit | c.InputBufferClear, by: Asker
    ) -> None:
        match event:
            case c.InputBufferAppend():
                if self._port is None:
                    raise _not_here(
                        "input_audio_buffer.append",
                        "audio comes on the microphone track or the connection of the session",
                    )
                self._port.append(decoded(event.audio, "audio"))
            case c.InputBufferCommit():
                if self._port is not None:
                    self._port.flush()
                self._core.commit_input(by)
            case c.InputBufferClear():
                if self._port is not None:
                    self._port.drop()
                self._core.clear_input()

    def _handle_rest(
        self, event: c.ForceListening | c.MuteInput | c.SessionPause | c.SessionResume, by: Asker
    ) -> None:
        match event:
            case c.ForceListening():
                self._core.force_listen(event.on, by)
            case c.MuteInput():
                self._core.mute(event.on, by)
            case c.SessionPause():
                self._core.pause(by)
            case c.SessionResume():
                self._core.resume(by)

    def _handle_items(
        self, event: ItemCreate | c.ItemDelete | c.ItemRetrieve | c.ItemTruncate
    ) -> None:
        match event:
            case ItemCreate():
                self._core.add_item(event.item, event.previous_item_id)
                self._tell_unused(event.unused)
            case c.ItemDelete():
                self._core.delete_item(event.item_id)
            case c.ItemRetrieve():
                self._retrieve(event)
            case c.ItemTruncate():
                self._truncate(event)

    def _tell_unused(self, names: tuple[str, ...]) -> None:
        """Tell of members that change nothing, of each but once."""
        for name in names:
            member = name.rpartition(".")[2]
            if member not in self._told_unused and len(self._told_unused) < MAX_NAMES:
                self._told_unused.add(member)
                told = f"{name}: this member changes nothing here."
                self.tell(ev.Notice(code="unused_member", message=told))

    def _retrieve(self, event: c.ItemRetrieve) -> None:
        try:
            item = self._core.item(event.item_id)
        except ProtocolError as error:
            # Clients know this one by name, and end the session at others.
            error.code = "item_retrieve_invalid_item_id"
            raise
        self._tell(wire.ItemRetrieved(item=rendering.rendered_item(item)))

    def _truncate(self, event: c.ItemTruncate) -> None:
        self._core.item(event.item_id)
        if event.content_index:
            raise ProtocolError(
                "content_index: items of the assistant have one part; allowed: 0.",
                param="content_index",
            )
        self._core.truncate_item(event.item_id, event.audio_end_ms)

    # ------------------------------------------------------------------ from the session

    def tell(self, event: ev.SessionEvent, asked_as: str | None = None) -> None:
        """Render one event; Realtime names the client's event in errors only."""
        for told in self._rendered(event):
            self._tell(told)

    def _rendered(self, event: ev.SessionEvent) -> Iterator[wire.ServerEvent]:
        match event:
            case ev.SessionReady():
                yield wire.SessionCreated(session=_session(event))
                if not self._has_track and event.settings.type == "realtime":
                    name = rendering.conversation_id(event.session_id)
                    told = wire.ConversationObject(id=name)
                    yield wire.ConversationCreated(conversation=told)
            case ev.SettingsChanged():
                yield wire.SessionUpdated(session=_session(event))
            case ev.SpeechReleased():
                if self._port is not None and (sound := self._port.encode(event.pcm)):
                    yield rendering.audio_delta(event, sound)
            case ev.ResponseAudible() | ev.PlayoutEnded():
                if self._has_track:
                    yield from rendering.buffer_events(event)
            case _:
                yield from rendering.session_events(event)
                yield from rendering.rest_events(event)
                yield from rendering.speech_events(event)
                yield from rendering.item_events(event)
                yield from rendering.response_events(event, self._core)

    def _tell(self, event: wire.ServerEvent) -> None:
        if isinstance(event, EXTENSIONS) and not self._tells_extensions:
            return
        for text in fitted(event, self._max_message_bytes()):
            self._send(text)


def _not_here(name: str, why: str) -> ProtocolError:
    return ProtocolError(
        f"{name} is not for this connection: {why}.", code="unsupported_event", param="type"
    )


def _session(event: ev.SessionReady | ev.SettingsChanged) -> dict[str, Any]:
    """Return the session as its client sees it."""
    return event.settings.to_session(event.session_id, event.expires_at)
