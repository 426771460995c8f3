"""A session's slot at an engine: the wait for one, the open line, and what follows when it goes.

The front assigns slots. One is given away in a long pause and lost with its engine; the session may
then take another one.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Literal

from engine.ipc import protocol as p
from engine.ipc.engine_client import EngineClient, EngineFull, EngineGone, EngineSessionLink
from server.control import EngineAddress, SlotReleased, SlotWanted
from server.engine_links import EngineLinks
from server.worker.conversation import Conversation
from server.worker.engine_settings import abilities_of
from server.worker.engine_way import EngineWay
from signaling.session import events as ev

log = logging.getLogger(__name__)

OPEN_TRIES = 50
OPEN_RETRY_S = 0.2
MAX_TRIES = 20
RETRY_S = 1.0
"""Between two tries to be served by an engine, after the one that was assigned died."""
MAX_LOST_ENGINES = 3
LOST_WITHIN_S = 600.0
"""A call that has lost so many engines in this time may be what ends them, and goes no further."""
SILENCE_WORDS = {
    "engine_silent": "No answer comes at the moment. Please stay, the call goes on if it can.",
    "engine_back": "The assistant is back.",
}
ENGINE_REASONS = {
    "goodbye": "goodbye",
    "context_limit": "context_limit",
    "shutdown": "server_shutdown",
    "closed": "hangup",
    "failed": "engine_failed",
}


class EngineSlot:
    """Owns the place in the queue, and the line to the engine that serves the session."""

    def __init__(
        self,
        conversation: Conversation,
        way: EngineWay,
        links: EngineLinks,
        tell_front: Callable[[p.Message], object],
        *,
        on_gone: Callable[[], None],
        on_again: Callable[[], None],
        end: Callable[[str], None],
    ) -> None:
        """`on_gone`: the engine is, and `lost` is to be called; `on_again`: there is a slot again.

        `end` is told why the session is over, or gets no slot.
        """
        self._conversation = conversation
        self._way = way
        self._links = links
        self._tell_front = tell_front
        self._on_gone = on_gone
        self._on_again = on_again
        self._end = end
        self._call_id = conversation.session_id
        self._assigned: asyncio.Future[EngineAddress] = asyncio.get_running_loop().create_future()
        self._place: ev.QueueMoved | None = None
        self._line: EngineSessionLink | None = None
        self._wishes: asyncio.Queue[Literal["leave", "take"]] = asyncio.Queue(2)
        """One that is being followed at most, and what is wished behind it."""
        self._is_obtaining = False
        self._losses: deque[float] = deque(maxlen=MAX_LOST_ENGINES)
        """When engines were lost."""

    @property
    def is_open(self) -> bool:
        """Whether an engine serves the session."""
        return self._line is not None

    @property
    def is_assigned(self) -> bool:
        """Whether the session waits in the queue no more."""
        return self._assigned.done()

    @property
    def engine(self) -> EngineAddress | None:
        """The engine that the session has a slot of."""
        is_given = self.is_assigned and not self._assigned.cancelled()
        return self._assigned.result() if is_given else None

    @property
    def is_wanted(self) -> bool:
        """Whether the session waits for a slot."""
        return self._is_obtaining and not self.is_assigned

    @property
    def place(self) -> ev.QueueMoved | None:
        """Where in the queue the session waits, if it does."""
        return None if self.is_assigned else self._place

    # ------------------------------------------------------------------ from the front

    def assign(self, engine: EngineAddress) -> None:
        if not self._assigned.done():
            self._assigned.set_result(engine)

    def queued(self, position: int, eta_s: float | None) -> None:
        self._place = ev.QueueMoved(position=position, eta_s=eta_s)
        self._conversation.audience.emit(self._place)

    # ------------------------------------------------------------------ from the session

    async def obtain(self) -> bool:
        """Wait for a slot and open the line; False where the session ends because it gets none.

        An engine that dies meanwhile costs the caller a wait for another one, as later on.
        """
        self._is_obtaining = True
        try:
            return await self._obtain()
        finally:
            self._is_obtaining = False

    async def _obtain(self) -> bool:
        for attempt in itertools.count(1):
            try:
                await self._open()
                return True
            except (EngineGone, EngineFull, ValueError) as error:
                if attempt == MAX_TRIES or not isinstance(error, EngineGone):
                    log.warning("call %s gets no engine: %s", self._call_id, error)
                    self._end("engine_full" if isinstance(error, EngineFull) else "engine_gone")
                    return False
                log.warning("call %s gets no engine yet: %s", self._call_id, error)
            # The front may not know yet that this one is gone.
            await asyncio.sleep(RETRY_S)
            self._wait_anew()
            self._tell_front(SlotWanted(self._call_id))
        raise AssertionError("unreachable")

    def leave(self) -> None:
        """Give the slot away, soon; see `follow`."""
        self._conversation.responses.strand()
        self._wishes.put_nowait("leave")

    def take(self) -> None:
        """Have a slot again, behind who waits; `on_again` is called then."""
        self._wishes.put_nowait("take")

    async def follow(self) -> None:
        """Leave and take the slot as it is wished; runs as long as the session is served."""
        while True:
            if await self._wishes.get() == "leave":
                await self.close()
                self._wait_anew()
                self._tell_front(SlotReleased(self._call_id))
            else:
                self._tell_front(SlotWanted(self._call_id))
                self._conversation.recall()
                if await self.obtain():
                    self._on_again()

    def lost(self) -> bool:
        """Forget an engine that is gone; False if the session has lost too many in a short time."""
        self._losses.append(time.monotonic())
        is_often = self._losses[-1] - self._losses[0] < LOST_WITHIN_S
        self._line = None
        self._way.close()
        self._wait_anew()
        return not (is_often and len(self._losses) == MAX_LOST_ENGINES)

    async def close(self) -> None:
        """Free the slot. Idempotent."""
        line, self._line = self._line, None
        self._way.close()
        if line is not None:
            await line.close()

    # ------------------------------------------------------------------ opening

    def _wait_anew(self) -> None:
        self._assigned = asyncio.get_running_loop().create_future()
        self._place = None

    async def _open(self) -> None:
        """Raises as `EngineClient.open`."""
        address = await self._assigned
        client = await self._links.get(address)
        self._line = await self._open_line(client)
        self._conversation.abilities = abilities_of(client.welcome)

    async def _open_line(self, client: EngineClient) -> EngineSessionLink:
        """The slot may still be held by a call that the engine is just ending: ask again."""
        for attempt in itertools.count(1):
            asked = self._conversation.engine_config()
            try:
                line = await client.open(
                    self._call_id,
                    asked,
                    on_message=self._hear,
                    on_gone=self._gone,
                    on_silence=self._silent,
                )
            except EngineFull:
                if attempt == OPEN_TRIES:
                    raise
                await asyncio.sleep(OPEN_RETRY_S)
                continue
            self._way.open(line)
            # What was set meanwhile had no way to the engine.
            wanted = self._conversation.engine_config()
            if wanted != asked:
                self._way.send(p.UpdateSession(self._call_id, wanted))
            return line
        raise AssertionError("unreachable")

    # ------------------------------------------------------------------ from the engine

    def _hear(self, message: p.FromEngine) -> None:
        if isinstance(message, p.SessionEnded):
            self._end(ENGINE_REASONS[message.reason])
            return
        try:
            self._conversation.hear(self._way.numbered(message))
        except Exception:  # noqa: BLE001 - the boundary: a bug ends this call only
            log.exception("call %s failed", self._call_id)
            self._end("internal_error")

    def _silent(self, is_silent: bool) -> None:
        code = "engine_silent" if is_silent else "engine_back"
        self._conversation.audience.emit(ev.Notice(code=code, message=SILENCE_WORDS[code]))

    def _gone(self, reason: str) -> None:
        log.warning("call %s lost its engine: %s", self._call_id, reason)
        self._on_gone()
