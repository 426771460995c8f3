"""Tasks of a Live session that the application answers, or a text model with its functions. Media
worker.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial

from signaling.errors import ProtocolError
from signaling.live import client_events as c
from signaling.live import server_events as wire
from signaling.live import settings
from signaling.live.backend import BackendStream
from signaling.live.connections import LiveConnections
from signaling.live.session_config import LiveConfig, ResponsesDelegation
from signaling.live.tasks import NAME as DELEGATE
from signaling.live.tasks import ClientTasks
from signaling.session import events as ev
from signaling.session.core import ResponseWish, SessionCore
from signaling.session.items import FunctionCallItem

UNAVAILABLE = "The model delegated a task, but no text model is there to take it."


class Delegations:
    """Owned by the door of one session. `config` may be replaced."""

    def __init__(
        self,
        core: SessionCore,
        config: LiveConfig,
        connections: LiveConnections,
        timeline_ms: Callable[[], int],
    ) -> None:
        self.config = config
        self._core = core
        self._connections = connections
        self._timeline_ms = timeline_ms
        self._tasks = ClientTasks()
        self._backend = BackendStream()

    @property
    def _has_backend(self) -> bool:
        return isinstance(self.config.delegation, ResponsesDelegation)

    # ------------------------------------------------------------------ from the clients

    def check(self, delegation_id: str | None) -> None:
        """Raise `ProtocolError` for a task that there is not."""
        self._tasks.check(delegation_id)

    def answered(self) -> None:
        """The client has something to say of its tasks."""
        self._tasks.answered()

    def use_backend(self, event: c.BackendItem | c.BackendContinue) -> None:
        """Take what a function gave back, or go on; raises `ProtocolError`."""
        if not self._has_backend:
            raise ProtocolError(
                f"type: {event.type} needs delegation of type responses; this session's tasks go "
                "to the client.",
                code="invalid_value",
                param="type",
            )
        if isinstance(event, c.BackendItem):
            output = self._backend.output(event.item)
            self._core.add_item(output)
            self._backend.answered(output.call_id)
        else:
            task = self._backend.answered_task()
            self._core.create_response(ResponseWish())
            self._backend.go_on(task)

    # ------------------------------------------------------------------ from the session

    def offer_tools(self) -> None:
        """Tell the engine of the functions of the text model, or of the one that delegates."""
        changes = settings.tool_changes(self.config, self._core.abilities)
        if changes:
            self.attempt(partial(self._core.update, changes))

    def attempt(self, command: Callable[[], object]) -> None:
        """Do what nobody asked for; that it cannot be done is told all the same."""
        try:
            command()
        except ProtocolError as error:
            self._connections.inform(error.code, error.message)

    def take_call(self, event: ev.SessionEvent, now: float) -> bool:
        """Take the model's call of `delegate`; return whether this was one, whole or not."""
        match event:
            case ev.OutputEnded(item=FunctionCallItem(name=name) as item) if (
                name == DELEGATE and not self._has_backend
            ):
                if item.status == "completed":
                    self._called(item, now)
                return True
        return False

    def begin(self, delegation_id: str, at_ms: int) -> None:
        """The model hands a task over."""
        if self._has_backend:
            self._connections.inform("delegation_unavailable", UNAVAILABLE, once=True)
            return
        self._tasks.add(delegation_id)
        info = wire.DelegationInfo(id=delegation_id, target="client")
        self._connections.tell(wire.DelegationCreatedEvent(offset_ms=at_ms, delegation=info))

    def hear(self, event: ev.SessionEvent) -> None:
        """Tell of the text model's responses."""
        delegation = self.config.delegation
        if isinstance(delegation, ResponsesDelegation):
            model, offset_ms = delegation.responses.model, self._timeline_ms()
            for told in self._backend.told(event, model=model, offset_ms=offset_ms):
                self._connections.tell(told)

    def tick(self, now: float) -> None:
        """Have a task acknowledged aloud that the client has not answered yet."""
        if self._tasks.owes_acknowledgement(now):
            # While the answer that called is still spoken, the next one waits.
            with contextlib.suppress(ProtocolError):
                self._core.create_response(ResponseWish(tool_choice="none"))
                self._tasks.answered()

    def _called(self, item: FunctionCallItem, now: float) -> None:
        delay_ms = settings.acknowledgement_delay_ms(self.config)
        output = self._tasks.call(item, delay_ms, now)
        self.begin(item.id, self._timeline_ms())
        self.attempt(partial(self._core.add_item, output))
