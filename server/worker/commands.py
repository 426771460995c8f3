"""What connections ask of a session, turned into changes and engine messages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from engine.ipc import protocol as p
from server.item_mapping import for_engine
from server.worker.call_quality import CallQuality
from server.worker.conversation import Conversation
from server.worker.engine_settings import choice_of, function_tools, mode_of
from server.worker.pause import Pause
from server.worker.responses import ActiveResponse, Asked
from signaling.errors import ProtocolError
from signaling.session import events as ev
from signaling.session.core import Abilities, Asker, ClientFigures, ContextKind, ResponseWish
from signaling.session.ids import new_id
from signaling.session.items import (
    ROOT,
    FunctionCallOutput,
    InputItem,
    Item,
    MessageItem,
    shown,
)
from signaling.settings import SessionSettings
from signaling.toolchecks import check_choice, check_tools


class SessionCommands:
    """The `SessionCore` of one conversation."""

    def __init__(
        self,
        conversation: Conversation,
        *,
        to_engine: Callable[[p.Message], bool],
        end: Callable[[str], None] = lambda reason: None,
        pause: Pause | None = None,
    ) -> None:
        """`pause`: what makes the session rest; None: it never does."""
        self.is_muted = False
        self.quality = CallQuality()
        self.is_hushed = False
        """The user wants no answers for now."""
        self._pause = pause
        self._conversation = conversation
        self._audience = conversation.audience
        self._to_engine = to_engine
        self._end = end

    @property
    def session_id(self) -> str:
        return self._conversation.session_id

    @property
    def settings(self) -> SessionSettings:
        return self._conversation.settings

    @property
    def abilities(self) -> Abilities | None:
        return self._conversation.abilities

    def update(self, changes: Mapping[str, Any], by: Asker | None = None) -> None:
        self._conversation.update(changes, by)

    # ------------------------------------------------------------------ items

    def add_item(self, item: InputItem, after: str | None = None) -> str:
        item_id = item.id or new_id("item")
        if isinstance(item, FunctionCallOutput):
            self._check_output(item)
        place = self._place(item_id, after)
        named = self._conversation.items.engine_name(place)
        carrier = for_engine(self.session_id, item_id, item, named)
        self._add(shown(item_id, item), place, carrier)
        return item_id

    def place_item(self, item: Item, after: str | None, carrier: p.Message) -> None:
        """Add an item that goes to the engine by `carrier`; raises `ProtocolError`.

        The carrier says the end of the conversation: no other place can be asked for.
        """
        if self._place(item.id, after):
            raise _only_at_the_end(self._conversation.items.last_id)
        self._add(item, "", carrier)

    def _add(self, item: Item, place: str, carrier: p.Message) -> None:
        items = self._conversation.items
        self._send(carrier)
        items.put(item, place or None)
        self._audience.emit(ev.ItemPlaced(item=item, after=items.before(item.id)))

    def _place(self, item_id: str, after: str | None) -> str:
        """Behind which item to put a new one: empty for the end."""
        items = self._conversation.items
        if item_id in items:
            raise ProtocolError(
                f"item.id: there is an item {item_id!r} already.",
                code="item_create_duplicate_item_id",
                param="item.id",
            )
        last = items.last_id
        if after in (None, last) or (after == ROOT and last is None):
            return ""
        assert after is not None
        if after != ROOT and after not in items:
            raise ProtocolError(
                f"previous_item_id: there is no item {after[:80]!r}.",
                code="item_not_found",
                param="previous_item_id",
            )
        if self.abilities is None or "after" not in self.abilities.honours:
            raise _only_at_the_end(last)
        return after

    def _check_output(self, item: FunctionCallOutput) -> None:
        """Of several connections that answer a call, the first one counts."""
        items = self._conversation.items
        if item.call_id in items.answered_calls():
            told = f"item.call_id: {item.call_id[:80]!r} has its output already."
        elif item.call_id not in items.calls():
            told = f"item.call_id: there is no function call {item.call_id[:80]!r}."
        else:
            return
        raise ProtocolError(told, code="invalid_function_call_output", param="item.call_id")

    def item(self, item_id: str) -> Item:
        return self._conversation.items.get(item_id)

    def delete_item(self, item_id: str) -> None:
        items = self._conversation.items
        items.get(item_id)
        self._send(p.DeleteItem(self.session_id, items.engine_name(item_id)))
        items.delete(item_id)
        self._audience.emit(ev.ItemRemoved(item_id=item_id))

    def truncate_item(self, item_id: str, end_ms: int) -> None:
        conversation = self._conversation
        conversation.items.get(item_id)
        running = conversation.responses.of_item(item_id)
        if running is not None:
            self._cut(running)
        if running is None or conversation.responses.is_sent_ahead:
            conversation.responses.truncate(item_id, end_ms)
        # Else the cut tells how much was heard; the client's own figure is not better.

    # ------------------------------------------------------------------ responses

    def create_response(self, wish: ResponseWish, by: Asker | None = None) -> None:
        if self.settings.type == "transcription":
            raise ProtocolError(
                "type: a session that transcribes gives no answers.",
                code="unsupported_event",
                param="type",
            )
        active = self._conversation.responses.active
        if active is not None and not wish.is_out_of_band and not self._may_follow(active):
            raise ProtocolError(
                f"Conversation already has an active response in progress: {active.id}. Wait "
                "until it is finished, or cancel it, before creating a new one.",
                code="conversation_already_has_active_response",
            )
        session_limit = self.settings.max_output_tokens
        limit = wish.max_output_tokens
        tools = self.settings.tools if wish.tools is None else wish.tools
        self._check_tools(wish, tools)
        choice, name = choice_of(wish.tool_choice)
        asked = Asked(
            by=by,
            metadata=wish.metadata,
            max_output_tokens=limit or (session_limit if isinstance(session_limit, int) else None),
            is_out_of_band=wish.is_out_of_band,
            has_tools=bool(tools),
        )
        self._send(
            p.CreateResponse(
                self.session_id,
                wish.instructions or "",
                wish.modalities or (),
                self._conversation.requests.note(asked),
                limit,
                None if wish.tools is None else function_tools(wish.tools),
                None if wish.tool_choice is None else choice,
                name,
                wish.is_out_of_band,
                self._input(wish),
            )
        )

    def _may_follow(self, active: ActiveResponse) -> bool:
        """Whether a response may be asked for that comes behind this one.

        Such a one goes on with what functions gave back. In full duplex a model that hears in units
        begins to speak by itself, which no client can know beforehand: what is asked for meanwhile
        comes behind that.
        """
        if active.has_calls and active.outcome is not None:
            return True
        hears_in_units = self.abilities is not None and self.abilities.hears_in_units
        return hears_in_units and mode_of(self.settings) == "full_duplex"

    def _check_tools(self, wish: ResponseWish, tools: tuple[dict[str, Any], ...]) -> None:
        check_tools(wish.tools or (), "response.tools")
        if wish.tool_choice is not None:
            check_choice(wish.tool_choice, tools, "response.tool_choice")

    def _input(self, wish: ResponseWish) -> tuple[p.ItemIn, ...] | None:
        if wish.input is None:
            return None
        found = []
        for index, given in enumerate(wish.input):
            if isinstance(given, str):
                found.append(self._referred(given, f"response.input.{index}"))
                continue
            item = for_engine(self.session_id, given.id or new_id("item"), given)
            if not isinstance(item, p.ItemIn):
                raise ProtocolError(
                    f"response.input.{index}.type: only messages are taken here.",
                    code="unsupported_parameter",
                    param=f"response.input.{index}.type",
                )
            found.append(item)
        return tuple(found)

    def _referred(self, item_id: str, where: str) -> p.ItemIn:
        """The words of an item of the conversation; its files are not kept here."""
        item = self._conversation.items.get(item_id)
        words = [] if not isinstance(item, MessageItem) else item.parts
        if not isinstance(item, MessageItem) or not all(part.text for part in words):
            raise ProtocolError(
                f"{where}: only messages of words can be referred to.",
                code="unsupported_parameter",
                param=where,
            )
        parts = tuple(p.TextPart(part.text or "") for part in words)
        return p.ItemIn(self.session_id, new_id("item"), item.role, parts)

    def cancel_response(self, response_id: str | None = None) -> None:
        response = self._conversation.responses.get(response_id)
        if response is None:
            # Some clients know this error by how it begins.
            raise ProtocolError(
                "Cancellation failed: no active response found.",
                code="response_cancel_not_active",
                param="response_id" if response_id else None,
            )
        self._cut(response)

    def clear_output(self) -> None:
        self._cut_active()

    def _cut_active(self) -> None:
        active = self._conversation.responses.active
        if active is not None:
            self._cut(active)

    def _cut(self, response: ActiveResponse) -> None:
        self._to_engine(p.CancelResponse(self.session_id, response.epoch))
        self._conversation.responses.cut(response.epoch, "client_cancelled")

    # ------------------------------------------------------------------ the input

    def commit_input(self, by: Asker | None = None) -> None:
        self._send(p.CommitAudio(self.session_id, self._conversation.requests.note(Asked(by=by))))

    def clear_input(self) -> None:
        self._send(p.ClearAudio(self.session_id))
        self._audience.emit(ev.InputForgotten())

    def force_listen(self, is_on: bool, by: Asker | None = None) -> None:
        self._send(p.ForceListen(self.session_id, is_on))
        self.is_hushed = is_on
        self._audience.emit(ev.InputHushed(is_on=is_on), by)

    def pause(self, by: Asker | None = None) -> None:
        if self._pause is None or self.abilities is None:
            raise engine_unavailable()
        if not self._pause.is_on:
            self._cut_active()
        self._pause.begin(by)

    def resume(self, by: Asker | None = None) -> None:
        if self._pause is None:
            raise engine_unavailable()
        self._pause.end(by)

    def mute(self, is_muted: bool, by: Asker | None = None) -> None:
        self.is_muted = is_muted
        self._audience.emit(ev.InputMuted(is_muted=is_muted), by)

    def append_context(
        self,
        kind: ContextKind,
        text: str,
        delegation: str | None = None,
        by: Asker | None = None,
    ) -> None:
        name = self._conversation.requests.note_append(kind, by)
        self._send(p.AppendContext(self.session_id, kind, text, name, delegation))

    def report(self, figures: ClientFigures) -> None:
        self.quality.tell(figures)

    def hang_up(self, reason: str = "hangup") -> None:
        self._end(reason)

    def _send(self, message: p.Message) -> None:
        if not self._to_engine(message):
            raise engine_unavailable()


def engine_unavailable() -> ProtocolError:
    """The error for what no engine can be told."""
    return ProtocolError(
        "The model does not serve this session yet, or is overloaded; try again.",
        code="engine_unavailable",
        status=503,
        type="server_error",
    )


def _only_at_the_end(last: str | None) -> ProtocolError:
    return ProtocolError(
        f"previous_item_id: items are added at the end only, which is behind {last!r}.",
        code="unsupported_parameter",
        param="previous_item_id",
    )
