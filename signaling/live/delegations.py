"""Tasks of a Live session that the application answers, or a text model with its functions. Media
worker.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
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
from signaling.session.ids import new_id
from signaling.session.items import FunctionCallItem

MAX_SAID_CHARS = 1_000
UNAVAILABLE = "The model delegated a task, but no text model is there to take it."


class Delegations:
    """Owned by the door of one session. `config` may be replaced."""

    def __init__(
        self,
        core: SessionCore,
        config: LiveConfig,
        connections: LiveConnections,
        timeline_ms: Callable[[], int],
        when_said: Sequence[str] = (),
    ) -> None:
        """`when_said`: words that hand the client a task when a model says them that cannot
        delegate itself; once for each answer.
        """
        self.config = config
        self._core = core
        self._connections = connections
        self._timeline_ms = timeline_ms
        self._tasks = ClientTasks()
        self._backend = BackendStream()
        self._when_said = tuple(filter(None, map(_plain, when_said)))
        self._said = ""
        """By the answer under way, the newest of it."""
        self._is_handed_over = False
        """Nothing that this answer says hands anything over any more."""
        self._is_told_what_to_say = False

    @property
    def _has_backend(self) -> bool:
        return isinstance(self.config.delegation, ResponsesDelegation)

    @property
    def _delegates(self) -> bool:
        """The model can hand a task over itself."""
        abilities = self._core.abilities
        return abilities is not None and (
            abilities.delegates or settings.calls_functions(abilities)
        )

    # ------------------------------------------------------------------ from the clients

    def check(self, delegation_id: str | None) -> None:
        """Raise `ProtocolError` for a task that there is not."""
        self._tasks.check(delegation_id)

    def answered(self, *, is_said: bool) -> None:
        """Note that the client has something to say of its tasks; `is_said`: by the next answer."""
        self._tasks.answered()
        self._is_told_what_to_say = self._is_told_what_to_say or is_said

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
            item = self._backend.read(event.item)
            self._core.add_item(item)
            self._backend.taken(item)
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
        """Begin a task that the model hands over."""
        if self._has_backend:
            self._connections.inform("delegation_unavailable", UNAVAILABLE, once=True)
            return
        self._tasks.add(delegation_id)
        info = wire.DelegationInfo(id=delegation_id, target="client")
        self._connections.tell(wire.DelegationCreatedEvent(offset_ms=at_ms, delegation=info))

    def hear(self, event: ev.SessionEvent) -> None:
        """Tell of the text model's responses; notice words that hand a task over."""
        match event:
            case ev.ResponseBegan():
                # What the client has said is no wish of the model's.
                self._said, self._is_handed_over = "", self._is_told_what_to_say
                self._is_told_what_to_say = False
            case ev.WordsReleased() if self._when_said and not self._is_handed_over:
                self._said = (self._said + event.text)[-MAX_SAID_CHARS:]
                spoken = _plain(self._said)
                if not self._delegates and any(phrase in spoken for phrase in self._when_said):
                    self._is_handed_over = True
                    self.begin(new_id("item"), self._timeline_ms())
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


def _plain(words: str) -> str:
    """Normalise words for comparison: without capitals, one space between two."""
    return " ".join(words.lower().split())
