"""Slots of engines for calls: asked for, given and given away, as media workers are told. Front."""

from __future__ import annotations

from server.control import (
    AssignEngine,
    ClientAway,
    ClientBack,
    EngineAddress,
    KeepConversation,
    QueuePosition,
    SlotNeeded,
    SlotReleased,
    SlotWanted,
)
from server.front.broker import Broker
from server.front.call_table import CallTable
from server.front.front_call import FrontCall
from server.front.media_workers import MediaWorkers
from signaling.errors import NoFreeSlot


class CallSlots:
    """Tells media workers what the broker decides; the broker owns the leases and the queue."""

    def __init__(
        self, broker: Broker, calls: CallTable, workers: MediaWorkers, hurried_grace_s: float
    ) -> None:
        """`hurried_grace_s`: after so long a call whose client is away gives its slot to others."""
        self._broker = broker
        self._calls = calls
        self._workers = workers
        self._hurried_grace_s = hurried_grace_s

    def changed(
        self,
        message: SlotReleased | SlotWanted | ClientAway | ClientBack | KeepConversation,
    ) -> None:
        """A call gives its slot away, or needs one; its client is gone, or back."""
        call = self._calls.get(message.call_id)
        if call is None:
            return
        match message:
            case SlotWanted():
                self.request(call)
            case SlotReleased():
                self.release(call)
            case ClientAway():
                call.is_away, call.is_hurried = True, False
                lets_go_in_s = min(message.ends_in_s, self._hurried_grace_s)
                self._broker.away(call.call_id, lets_go_in_s)
                self.assign()
            case ClientBack():
                call.is_away = False
                self._broker.back(call.call_id)
            case KeepConversation():
                call.kept = message.kept

    def release(self, call: FrontCall, lasted_s: float | None = None) -> None:
        """Let the next have a call's slot, or its place in the queue; see `Broker.release`."""
        if self._broker.release(call.call_id, lasted_s):
            self.assign()

    def request(self, call: FrontCall) -> None:
        """Have a call that is connected served, now or when it is its turn."""
        call_id = call.call_id
        try:
            if call.was_served:
                place = self._broker.request_again(call_id)
            else:
                place = self._broker.request(call_id)
        except NoFreeSlot:
            self._workers.hang_up(call, "engine_full")
            return
        if isinstance(place, EngineAddress):
            self._give(call, place)
        else:
            self.assign()

    def _give(self, call: FrontCall, engine: EngineAddress) -> None:
        call.was_served, call.place = True, None
        self._workers.tell(call, AssignEngine(call.call_id, engine))

    def assign(self) -> None:
        """Hand out what is free, and tell who waits where they stand."""
        assigned = self._broker.assignments()
        for call_id, address in assigned:
            call = self._calls.get(call_id)
            if call is not None:
                self._give(call, address)
        queue = self._broker.waiting()
        for waiting in queue:
            call = self._calls.get(waiting.call_id)
            if call is not None and call.place != waiting:
                call.place = waiting
                self._workers.tell(call, QueuePosition(*waiting))
        if queue:
            self._hurry()

    def _hurry(self) -> None:
        """Have the calls whose clients are away know that others wait for their slots."""
        for call in self._calls.values():
            if call.is_away and not call.is_hurried:
                call.is_hurried = True
                self._workers.tell(call, SlotNeeded(call.call_id))
