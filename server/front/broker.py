"""Engine slots: who holds a lease, and who waits for one, in the order of their offers."""

from __future__ import annotations

import math
import time
from bisect import insort
from collections import deque
from collections.abc import Callable
from itertools import count
from typing import NamedTuple

from server.control import EngineAddress
from signaling.errors import NoFreeSlot

RECENT_CALLS = 20


class Waiting(NamedTuple):
    """A place in the queue; `position` starts at 1. `eta_s` is None while nothing is known."""

    call_id: str
    position: int
    eta_s: float | None


class _Engine:
    def __init__(self, address: EngineAddress, slots: int, chat_slots: int) -> None:
        self.address = address
        self.slots = slots - chat_slots
        """Of calls; those of chats are beside them."""
        self.chat_slots = chat_slots
        self.pace = slots
        """Sessions of both kinds that it can serve as it goes now."""
        self.leases: set[str] = set()
        self.chats: set[str] = set()

    @property
    def capacity(self) -> int:
        """Calls that it can serve at its present pace; never more than its slots."""
        return max(0, min(self.slots, self.pace - len(self.chats)))

    @property
    def free(self) -> int:
        """Calls that it may be given; negative when it has more than it can serve."""
        return self.capacity - len(self.leases)

    @property
    def free_for_chats(self) -> int:
        """Chats that it may be given: none while its sessions are as many as it keeps up with."""
        paced = self.pace - len(self.leases) - len(self.chats)
        return min(self.chat_slots - len(self.chats), paced)


class Broker:
    """Owns the leases and the queue. Every method is a plain step; nothing waits in here.

    An offer holds nothing but its turn: a client that never connects takes no slot and no place.
    """

    def __init__(self, max_queue: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._start_s: float | None = None
        """Duration of the last start of an engine."""
        self._none_since = clock()
        """When the last engine went."""
        self._engines: dict[str, _Engine] = {}
        self._turns: dict[str, float] = {}
        """Of every call from its offer to its end."""
        self._count = count()
        self._queue: list[str] = []
        self._max_queue = max_queue
        self._recent_s: deque[float] = deque(maxlen=RECENT_CALLS)
        self._away: dict[str, float] = {}
        """Calls whose client is away, and when they let go of their slot."""
        self._absent: dict[str, set[str]] = {}
        """By endpoint: the leases, given by the front before, of engines that are not up yet."""
        self.is_held = False
        """No slot is given away for now: not all who hold one are known."""

    @property
    def slots(self) -> int:
        return sum(engine.slots for engine in self._engines.values())

    @property
    def capacity(self) -> int:
        """Calls that all engines together can serve at their present pace."""
        return sum(engine.capacity for engine in self._engines.values())

    @property
    def used(self) -> int:
        return sum(len(engine.leases) for engine in self._engines.values())

    @property
    def chat_slots(self) -> int:
        return sum(engine.chat_slots for engine in self._engines.values())

    @property
    def has_chat_slot(self) -> bool:
        """Return whether `lease_chat` would give one now."""
        return any(engine.free_for_chats > 0 for engine in self._engines.values())

    @property
    def chats(self) -> int:
        """Chats that hold a slot."""
        return sum(len(engine.chats) for engine in self._engines.values())

    @property
    def max_queue(self) -> int:
        return self._max_queue

    def offer(self, call_id: str) -> None:
        """Note the call's turn; `NoFreeSlot` if it could not even wait were it connected now."""
        is_free = not self._queue and any(e.free > 0 for e in self._engines.values())
        if not is_free and len(self._queue) >= self._max_queue:
            raise self._full()
        self._turns[call_id] = next(self._count)

    def request(self, call_id: str) -> EngineAddress | Waiting:
        """For a call that is connected: a lease on the least loaded engine, else a place in the
        queue, else `NoFreeSlot`.
        """
        self._turns.setdefault(call_id, next(self._count))
        address = None if self._queue else self._lease(call_id)
        if address is not None:
            return address
        if len(self._queue) >= self._max_queue and not self.is_held:
            raise self._full()
        insort(self._queue, call_id, key=self._turns.__getitem__)
        return self._waiting(self._queue.index(call_id) + 1)

    def request_again(self, call_id: str) -> EngineAddress | Waiting:
        """For a call that was served before: as `request`, in its old turn, however many wait."""
        self._turns.setdefault(call_id, next(self._count))
        self._give_back(call_id)
        address = None if self._queue else self._lease(call_id)
        if address is not None:
            return address
        if call_id not in self._queue:
            insort(self._queue, call_id, key=self._turns.__getitem__)
        return self._waiting(self._queue.index(call_id) + 1)

    def adopt(self, call_id: str, since: float, engine: EngineAddress | None) -> None:
        """A call of the front before, which began at `since` and may have a slot: its turn is
        before all new ones."""
        self._turns[call_id] = since - self._clock() - 1
        if engine is None:
            return
        there = self._engines.get(engine.name)
        if there is not None and there.address == engine:
            there.leases.add(call_id)
        else:
            self._absent.setdefault(engine.endpoint, set()).add(call_id)

    def away(self, call_id: str, lets_go_in_s: float) -> None:
        """The call's client is away: its slot is free then, if not before."""
        self._away[call_id] = self._clock() + lets_go_in_s

    def back(self, call_id: str) -> None:
        self._away.pop(call_id, None)

    def holds(self, call_id: str) -> bool:
        """Return whether the call has a slot."""
        return self.engine_of(call_id) is not None

    def _give_back(self, call_id: str) -> None:
        for leases in self._leases():
            leases.discard(call_id)

    def _leases(self) -> list[set[str]]:
        return [*(engine.leases for engine in self._engines.values()), *self._absent.values()]

    def release(self, call_id: str, lasted_s: float | None = None) -> bool:
        """Give up a lease or a place in the queue; whether the call had either."""
        self._turns.pop(call_id, None)
        self._away.pop(call_id, None)
        if call_id in self._queue:
            self._queue.remove(call_id)
            return True
        for leases in self._leases():
            if call_id in leases:
                leases.remove(call_id)
                if lasted_s is not None:
                    self._recent_s.append(lasted_s)
                return True
        return False

    def assignments(self) -> list[tuple[str, EngineAddress]]:
        """Hand free slots to the head of the queue; who got which."""
        assigned = []
        while self._queue:
            address = self._lease(self._queue[0])
            if address is None:
                break
            assigned.append((self._queue.pop(0), address))
        return assigned

    def waiting(self) -> list[Waiting]:
        """The queue, in order."""
        return [self._waiting(position) for position in range(1, len(self._queue) + 1)]

    def lease_chat(self, chat_id: str) -> EngineAddress | None:
        """A slot of those that calls never get; None while there is none."""
        engine = max(self._engines.values(), key=lambda e: e.free_for_chats, default=None)
        if engine is None or engine.free_for_chats <= 0 or self.is_held:
            return None
        engine.chats.add(chat_id)
        return engine.address

    def release_chat(self, chat_id: str) -> None:
        for engine in self._engines.values():
            engine.chats.discard(chat_id)

    def engine_up(
        self,
        address: EngineAddress,
        slots: int,
        start_s: float | None = None,
        chat_slots: int = 0,
    ) -> None:
        """An engine is ready, after a start of `start_s`; `chat_slots` of its slots are kept for
        chats.
        """
        self._start_s = start_s
        engine = self._engines[address.name] = _Engine(address, slots, chat_slots)
        engine.leases |= self._absent.pop(address.endpoint, set())

    def set_capacity(self, name: str, capacity: int) -> bool:
        """An engine tells how many it can serve now; whether calls that wait can be given slots.

        Whoever has a slot keeps it.
        """
        engine = self._engines.get(name)
        if engine is None:
            return False
        engine.pace = capacity
        return bool(self._queue) and engine.free > 0

    def engine_down(self, name: str) -> list[str]:
        """Forget an engine; the calls that held its slots."""
        engine = self._engines.pop(name, None)
        if engine is not None and not self._engines:
            self._none_since = self._clock()
        return [] if engine is None else sorted(engine.leases)

    def engine_of(self, call_id: str) -> str | None:
        for engine in self._engines.values():
            if call_id in engine.leases:
                return engine.address.name
        return None

    def _lease(self, call_id: str) -> EngineAddress | None:
        engine = max(self._engines.values(), key=lambda e: e.free, default=None)
        if engine is None or engine.free <= 0 or self.is_held:
            return None
        engine.leases.add(call_id)
        return engine.address

    def _full(self) -> NoFreeSlot:
        eta_s = self._eta_s(1)
        return NoFreeSlot(None if eta_s is None else max(1.0, eta_s))

    def _waiting(self, position: int) -> Waiting:
        return Waiting(self._queue[position - 1], position, self._eta_s(position))

    def _eta_s(self, position: int) -> float | None:
        """By the calls and the start that were seen last, and by slots whose callers are away;
        None where there were none."""
        if not self._engines:
            return self._start_eta_s()
        let_go = sorted(at for name, at in self._away.items() if self.holds(name))
        known_s = None
        if position <= len(let_go):
            known_s = math.ceil(max(0.0, let_go[position - 1] - self._clock()))
        if not self._recent_s:
            return known_s
        mean_s = sum(self._recent_s) / len(self._recent_s)
        likely_s = math.ceil(mean_s * position / max(1, self.capacity))
        return likely_s if known_s is None else min(likely_s, known_s)

    def _start_eta_s(self) -> float | None:
        """Return what is left of a start like the last one; None when this one takes longer."""
        if self._start_s is None:
            return None
        left_s = self._start_s - (self._clock() - self._none_since)
        return math.ceil(left_s) if left_s > 0 else None
