"""The calls of this server: those that are open, and what became of the others. Front."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

from server.control import CallEnded
from server.endings import Endings
from server.front.front_call import FrontCall
from server.front.past_calls import PastCall, PastCalls
from server.front.supervisor import Supervised
from signaling.errors import ProtocolError


class CallTable(Mapping[str, FrontCall]):
    """Owns the open calls, by id."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.placed_total = 0
        """Calls that a media worker has answered."""
        self.ended: dict[str, int] = {}
        """Calls that are over, by reason."""
        self.past = PastCalls()
        self._open: dict[str, FrontCall] = {}
        self._endings = Endings(clock)
        self._clock = clock

    def __getitem__(self, call_id: str) -> FrontCall:
        return self._open[call_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._open)

    def __len__(self) -> int:
        return len(self._open)

    def add(self, call: FrontCall) -> None:
        self._open[call.call_id] = call

    def find(self, call_id: str) -> FrontCall:
        """Return an open call; raises `ProtocolError` as `why_closed` makes it."""
        call = self._open.get(call_id)
        if call is None:
            raise self.why_closed(call_id)
        return call

    def of_worker(self, child: Supervised) -> list[FrontCall]:
        return [call for call in self._open.values() if call.worker is child]

    def why_closed(self, call_id: str) -> ProtocolError:
        """Return the error for a call that is not open (any more)."""
        return self._endings.why_closed(call_id)

    def end(self, call: FrontCall, told: CallEnded, engine: str | None) -> ProtocolError:
        """Move an open call to those that are over; return why, for whoever waits for it.

        `told` is what its media worker says of it, or who knows better; `engine` served it last.
        """
        del self._open[call.call_id]
        seconds = self._clock() - call.since
        self.past.add(
            PastCall(
                call_id=call.call_id,
                remote=call.remote,
                began_at=round(time.time() - seconds),
                seconds=round(seconds, 1),
                reason=told.reason,
                worker=call.worker.spec.name,
                engine=engine or "",
                mode=told.mode,
                turns=told.turns,
                latency_ms=told.latency_ms,
            )
        )
        self._endings.add(call.call_id, told.reason)
        self.ended[told.reason] = self.ended.get(told.reason, 0) + 1
        return self.why_closed(call.call_id)
