"""What the client asks for on the data channel, turned into changes and engine messages."""

from __future__ import annotations

from collections.abc import Callable

from engine.ipc import protocol as p
from server.worker.conversation import Asked, Conversation
from server.worker.item_mapping import as_message, as_shown, for_engine
from server.worker.items import Items
from server.worker.response_options import check as check_options
from server.worker.responses import Emit
from signaling import client_events as c
from signaling import server_events as ev
from signaling.client_events import parse_client_event
from signaling.client_items import ItemCreate
from signaling.errors import ProtocolError
from signaling.server_events import error_event


class Requests:
    """Handles client events for one conversation. Nothing a client sends raises out of here."""

    def __init__(
        self, conversation: Conversation, *, emit: Emit, to_engine: Callable[[p.Message], bool]
    ) -> None:
        self._conversation = conversation
        self._emit = emit
        self._to_engine = to_engine
        self._session = conversation.session_id

    def take(self, text: str) -> None:
        """One message of the data channel; a bad one is answered with an `error` event."""
        try:
            event = parse_client_event(text)
        except ProtocolError as error:
            self._emit(error_event(error))
            return
        try:
            self._handle(event)
        except ProtocolError as error:
            error.event_id = event.event_id
            self._emit(error_event(error))

    def _handle(self, event: c.ClientEvent) -> None:
        match event:
            case c.SessionUpdate():
                self._conversation.update(event.session)
            case ItemCreate():
                self._create_item(event)
            case c.ItemDelete() | c.ItemRetrieve() | c.ItemTruncate():
                self._about_item(event)
            case c.ResponseCreate():
                self._create_response(event)
            case c.ResponseCancel():
                self._cancel_response(event)
            case c.InputBufferCommit():
                asked = Asked(event_id=event.event_id)
                self._send(p.CommitAudio(self._session, self._conversation.asked_for(asked)))
            case c.InputBufferClear():
                self._send(p.ClearAudio(self._session))
                self._emit(ev.InputCleared())
            case c.OutputBufferClear():
                self._cut_active()

    def _send(self, message: p.Message) -> None:
        if not self._to_engine(message):
            raise ProtocolError(
                "No engine serves this session yet, or it does not keep up; try again.",
                code="engine_unavailable",
                type="server_error",
            )

    def _create_item(self, event: ItemCreate) -> None:
        message = as_message(event)
        item_id = message.id or ev.new_id("item")
        self.add_item(
            as_shown(item_id, message),
            event.previous_item_id,
            for_engine(self._session, item_id, message),
        )

    def add_item(
        self, shown: ev.MessageItem, previous_item_id: str | None, carrier: p.Message
    ) -> None:
        """Put an item into the conversation, in the engine by `carrier`; raises `ProtocolError`."""
        items = self._conversation.items
        if shown.id in items:
            raise ProtocolError(
                f"item.id: there is an item {shown.id!r} already.",
                code="duplicate",
                param="item.id",
            )
        _check_place(previous_item_id, items)
        previous = items.last_id
        self._send(carrier)
        self._conversation.add_item(shown, previous)

    def _about_item(self, event: c.ItemDelete | c.ItemRetrieve | c.ItemTruncate) -> None:
        items = self._conversation.items
        match event:
            case c.ItemDelete():
                items.get(event.item_id)
                self._send(p.DeleteItem(self._session, event.item_id))
                items.delete(event.item_id)
                self._emit(ev.ItemDeleted(item_id=event.item_id))
            case c.ItemRetrieve():
                self._emit(ev.ItemRetrieved(item=items.get(event.item_id)))
            case c.ItemTruncate():
                self._truncate(event)

    def _truncate(self, event: c.ItemTruncate) -> None:
        self._conversation.items.get(event.item_id)
        if event.content_index:
            raise ProtocolError(
                "content_index: items of the assistant have one part; allowed: 0.",
                param="content_index",
            )
        active = self._conversation.active
        if active is not None and active.item_id == event.item_id:
            # The cut tells how much was heard; the client's own figure is not better.
            self._cut_active()
        else:
            self._conversation.truncate(event.item_id, event.audio_end_ms)

    def _create_response(self, event: c.ResponseCreate) -> None:
        options = event.response or c.ResponseOptions()
        check_options(options, self._conversation.settings)
        active = self._conversation.active
        if active is not None:
            raise ProtocolError(
                f"Conversation already has an active response in progress: {active.id}. Wait "
                "until it is finished, or cancel it, before creating a new one.",
                code="conversation_already_has_active_response",
            )
        asked = Asked(options.metadata, event.event_id)
        self._send(
            p.CreateResponse(
                self._session,
                options.instructions or "",
                options.output_modalities or (),
                self._conversation.asked_for(asked),
            )
        )

    def _cancel_response(self, event: c.ResponseCancel) -> None:
        active = self._conversation.active
        if active is None or event.response_id not in (None, active.id):
            raise ProtocolError(
                "There is no response to cancel.",
                code="response_cancel_not_active",
                param="response_id" if event.response_id else None,
            )
        self._cut_active()

    def _cut_active(self) -> None:
        active = self._conversation.active
        if active is not None:
            self._to_engine(p.CancelResponse(self._session, active.epoch))
            self._conversation.cut(active.epoch, "client_cancelled")


def _check_place(previous_item_id: str | None, items: Items) -> None:
    """Engines add items at the end only: raise `ProtocolError` for any other place."""
    last = items.last_id
    if previous_item_id in (None, last) or (previous_item_id == "root" and last is None):
        return
    if previous_item_id != "root" and previous_item_id not in items:
        raise ProtocolError(
            f"previous_item_id: there is no item {previous_item_id[:80]!r}.",
            code="item_not_found",
            param="previous_item_id",
        )
    raise ProtocolError(
        f"previous_item_id: items are added at the end only, which is behind {last!r}.",
        code="unsupported_parameter",
        param="previous_item_id",
    )
