"""Who is given a slot for a chat, and who waits for one. Front.

Chats have slots of their own: they never wait behind calls, and calls never for them.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from server.config import ChatConfig
from server.control import EngineAddress
from server.front.broker import Broker
from signaling.errors import NoFreeSlot, ProtocolError

RECENT_CHATS = 20
UNKNOWN_WAIT_S = 2.0
"""Told while no chat has ended that could be measured."""


class TooManyChats(ProtocolError):
    """One caller has too many under way: 429 with Retry-After."""

    def __init__(self, most: int, retry_after_s: float) -> None:
        super().__init__(
            f"{most} requests of this caller are under way already; wait for one of them.",
            code="rate_limit_exceeded",
            status=429,
            type="rate_limit_error",
        )
        self.retry_after_s = retry_after_s


class ChatTurn:
    """One request, waiting or under way."""

    def __init__(self, callers: tuple[str, ...]) -> None:
        self.id = f"chat_{secrets.token_urlsafe(12)}"
        self.callers = callers
        self.granted: asyncio.Future[EngineAddress] = asyncio.get_running_loop().create_future()


class ChatQueue:
    """Owns the line of the requests; the slots are the broker's."""

    def __init__(
        self,
        broker: Broker,
        config: ChatConfig,
        on_free: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._broker = broker
        self._config = config
        self._on_free = on_free
        self._clock = clock
        self._waiting: deque[ChatTurn] = deque()
        self._turns: set[ChatTurn] = set()
        self._recent_s: deque[float] = deque(maxlen=RECENT_CHATS)

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @asynccontextmanager
    async def place(self, callers: tuple[str, ...]) -> AsyncIterator[tuple[str, EngineAddress]]:
        """Wait for a slot and hold it: the request's id, and whose slot it is.

        Raises `TooManyChats` of one caller, `NoFreeSlot` when there is no room or no slot in time.
        """
        for caller in callers:
            if sum(caller in turn.callers for turn in self._turns) >= self._config.max_per_remote:
                raise TooManyChats(self._config.max_per_remote, self._eta_s(0))
        if len(self._waiting) >= self._config.max_queue and not self._broker.has_chat_slot:
            raise NoFreeSlot(self._eta_s(len(self._waiting)), "Too many chats wait.")
        turn = ChatTurn(callers)
        self._turns.add(turn)
        self._waiting.append(turn)
        try:
            self.pump()
            address = await self._granted(turn)
            begun = self._clock()
            yield turn.id, address
            self._recent_s.append(self._clock() - begun)
        finally:
            self._leave(turn)

    def pump(self) -> None:
        """Hand out what is free, in the order in which the requests came."""
        while self._waiting:
            address = self._broker.lease_chat(self._waiting[0].id)
            if address is None:
                return
            turn = self._waiting.popleft()
            if turn.granted.done():
                self._broker.release_chat(turn.id)
            else:
                turn.granted.set_result(address)

    async def _granted(self, turn: ChatTurn) -> EngineAddress:
        try:
            async with asyncio.timeout(self._config.wait_s):
                return await turn.granted
        except TimeoutError:
            ahead = self._waiting.index(turn) if turn in self._waiting else 0
            raise NoFreeSlot(self._eta_s(ahead), "No slot for a chat became free.") from None

    def _leave(self, turn: ChatTurn) -> None:
        self._turns.discard(turn)
        if turn in self._waiting:
            self._waiting.remove(turn)
        self._broker.release_chat(turn.id)
        self.pump()
        self._on_free()

    def _eta_s(self, ahead: int) -> float:
        """When one that comes behind `ahead` others would be served, by the chats that ended."""
        if not self._recent_s:
            return UNKNOWN_WAIT_S
        mean_s = sum(self._recent_s) / len(self._recent_s)
        return math.ceil(max(1.0, mean_s * (ahead + 1) / max(1, self._broker.chat_slots)))
