"""What the front before has left: its media workers' calls and its engines' slots, learnt anew."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from engine.ipc.patience import patiently
from server.control import CallStands
from server.front.broker import Broker
from server.front.call_table import CallTable
from server.front.front_call import FrontCall
from server.front.supervisor import Supervised
from signaling.settings import SessionSettings

LONGEST_S = 10.0
"""For so long the children of a front that died are awaited before anything is asked of calls."""


class Takeover:
    """Owns which children have not told yet what they have. Until all did, no slot is given away:
    one that is held by a call would be given twice.
    """

    def __init__(self, broker: Broker, calls: CallTable) -> None:
        self._broker = broker
        self._calls = calls
        self._awaited: set[str] = set()
        self._is_whole = asyncio.Event()

    def expect(self, children: list[Supervised]) -> None:
        """Begin, with the children of the front before."""
        self._awaited = {child.spec.name for child in children}
        self._broker.is_held = bool(self._awaited)
        if not self._awaited:
            self._is_whole.set()

    def told(self, name: str) -> None:
        """A child has told all that it has, or has died."""
        self._awaited.discard(name)
        if not self._awaited:
            self._is_whole.set()

    async def run(self, assign: Callable[[], None]) -> None:
        """Return when calls may be asked for; `assign` hands out what is free then."""
        whole = asyncio.ensure_future(self._is_whole.wait())
        try:
            await patiently(whole, LONGEST_S)
        except TimeoutError:
            # One that hangs.
            self._awaited.clear()
        finally:
            whole.cancel()
        self._broker.is_held = False
        assign()

    def adopt(self, child: Supervised, told: CallStands) -> FrontCall:
        """Enter a call of a media worker into the table and, with its slot, the broker's books."""
        settings = SessionSettings() if told.kept is None else told.kept.settings
        call = FrontCall(
            *(told.call_id, child, told.remote, told.callers, told.since, told.owner, settings)
        )
        call.is_setting_up = not told.is_connected
        call.was_served = told.was_served or told.engine is not None
        call.is_stream = told.is_stream
        call.asked, call.placing = told.asked, told.n
        if told.kept is not None:
            call.kept = told.kept
        # Who asked for it has lost the connection to the front.
        call.placed.set_result("")
        self._calls.add(call)
        self._broker.adopt(told.call_id, told.since, told.engine)
        return call
