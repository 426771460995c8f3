"""Speech to text: utterances shared out among recogniser processes, each hearing one at a time."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

from engine.base import EngineError, Progress
from engine.builtin.interfaces import Transcript
from engine.builtin.recogniser_forkserver import RecogniserForkserver
from engine.builtin.recogniser_link import Failed, FromRecogniser, Partial, Result, Taken, Up
from engine.builtin.recogniser_process import RecogniserProcess, cpu_seconds
from engine.builtin.utterance import OVERLOADED, OnSettled, SpeakerTraits, SpokenUtterance, Waits

MAX_PER_CORE = 2
"""Recognisers are forked on demand up to this, and as many as are kept; beyond, utterances wait.
Following live speech takes about half a core."""
WHOLE_PER_CORE = 1
"""The same where utterances are looked at as a whole: that takes all of a core, for a moment."""
WAITING_PER_RUNNING = 2
EXTRA_IDLE_S = 30.0
"""How long one that was forked on demand is kept without work; a fork takes up to 100 ms."""
SHORT_LIFE_S = 1.0
FIRST_BACKOFF_S = 0.1
MAX_BACKOFF_S = 5.0
CHECK_S = 1.0

logger = logging.getLogger(__name__)


class Forker(Protocol):
    """Starts recogniser processes: `recogniser_forkserver.RecogniserForkserver`."""

    def spawn(self) -> socket.socket: ...

    def kill(self) -> None: ...

    async def wait(self) -> int: ...

    async def close(self) -> None: ...


class SessionRecogniser:
    """One session's ear: implements `parts.Recogniser` and remembers how its user sounds."""

    def __init__(self, pool: RecogniserPool, *, commands: bool) -> None:
        self._pool = pool
        self.commands = commands
        self.cepstral_mean = ""
        self.language = ""

    def listen(self, on_partial: Callable[[str], None], language: str = "") -> SpokenUtterance:
        """English is all that is heard, whatever the `language`."""
        return self._pool.listen(self, on_partial)


class RecogniserPool:
    """Owns the fork server, the recognisers and the utterances that wait for one.

    Under overload its work is bounded: so many recognisers run, so many utterances wait, each for
    so long; of more the oldest fails at once, and nothing of it is left when the load is gone.
    """

    def __init__(
        self,
        kept: int,
        *,
        per_core: int = MAX_PER_CORE,
        waits: Waits | None = None,
        cores: int | None = None,
        start_forkserver: Callable[[], Awaitable[Forker]] = RecogniserForkserver.start,
        cpu_s: Callable[[int], float] = cpu_seconds,
    ) -> None:
        self._kept = kept
        self._waits = waits or Waits()
        self._cores = cores or len(os.sched_getaffinity(0))
        self._most = max(kept, per_core * self._cores)
        self._start_forkserver = start_forkserver
        self._cpu_s = cpu_s
        self._forkserver: Forker | None = None
        self._processes: set[RecogniserProcess] = set()
        self._waiting: deque[SpokenUtterance] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._backoff_s = 0.0
        self._is_backing_off = False
        self._is_closing = False
        self.crashes = 0
        self.dropped = 0
        """Utterances given up because too many spoke at once."""

    @property
    def pids(self) -> list[int]:
        """Recogniser processes that are up."""
        return [process.pid for process in self._processes if process.pid]

    @property
    def waiting(self) -> int:
        """Utterances that no recogniser has taken yet."""
        return len(self._waiting)

    @property
    def has_idle(self) -> bool:
        """A recogniser has nothing to do."""
        return any(process.is_free for process in self._processes)

    async def start(self, progress: Progress) -> None:
        """Load the models and fork the recognisers; raise `EngineError` if that fails."""
        progress("loading the speech recogniser")
        self._forkserver = await self._start_forkserver()
        self._keep(self._watch(), "recogniser-forkserver")
        self._keep(self._oversee(), "recogniser-overseer")
        self._fill()

    def listen_for(self, *, commands: bool) -> SessionRecogniser:
        """The ear of a new session."""
        return SessionRecogniser(self, commands=commands)

    def listen(
        self,
        speaker: SpeakerTraits,
        on_partial: Callable[[str], None],
        on_settled: OnSettled | None = None,
    ) -> SpokenUtterance:
        """A new utterance: it gets a free recogniser, else a new one, else its turn."""
        utterance = SpokenUtterance(
            speaker, on_partial, waits=self._waits, owner=self, on_settled=on_settled
        )
        self.go_on(utterance)
        return utterance

    def go_on(self, utterance: SpokenUtterance) -> None:
        """Find a recogniser for one that has none."""
        process = next((process for process in self._processes if process.is_free), None)
        if process is not None:
            self._attach(utterance, process)
            return
        self._waiting.append(utterance)
        self._rest_idle()
        coming = sum(1 for process in self._processes if not process.pid)
        is_calm = self._backoff_s == 0.0
        if is_calm and len(self._waiting) > coming and len(self._processes) < self._most:
            self._spawn()
        if len(self._waiting) > WAITING_PER_RUNNING * self._most:
            self._waiting[0].settle(OVERLOADED)

    async def close(self) -> None:
        """End every process; utterances under way fail."""
        self._is_closing = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for utterance in list(self._waiting):
            utterance.abandon()
        if self._forkserver is not None:
            await self._forkserver.close()

    def has_way(self, utterance: SpokenUtterance) -> bool:
        """Of those that are behind, as many are worked at as there are cores, the oldest first:
        with all at once none would be done in time."""
        if not utterance.is_behind:
            return True
        heard = (process.utterance for process in self._processes)
        late = sorted(other.ident for other in heard if other is not None and other.is_behind)
        return utterance.ident in late[: self._cores]

    def settled(self, utterance: SpokenUtterance) -> None:
        """Take back the recogniser of a settled utterance, or its place in the queue."""
        self.dropped += utterance.is_dropped
        if utterance in self._waiting:
            self._waiting.remove(utterance)
        for process in self._processes:
            if process.utterance is utterance:
                process.utterance = None
                self._serve(process)
                break
        self._pump()

    def _pump(self) -> None:
        for process in self._processes:
            if process.utterance is not None:
                process.utterance.pump()

    def _serve(self, process: RecogniserProcess) -> None:
        """Give a process that is free its next work."""
        if not process.is_free:
            return
        if self._waiting:
            self._attach(self._waiting.popleft(), process)
        elif len(self._processes) > self._kept:
            loop = asyncio.get_running_loop()
            process.idle_since_s = loop.time()
            loop.call_later(EXTRA_IDLE_S, self._retire, process, process.idle_since_s)

    def _rest_idle(self) -> None:
        """Give the recognisers of utterances with which nobody goes on to those that wait."""
        for process in tuple(self._processes):
            utterance = process.utterance
            if self._waiting and utterance is not None and utterance.is_idle:
                process.utterance = None
                utterance.rest()
                self._serve(process)

    def _retire(self, process: RecogniserProcess, idle_since_s: float) -> None:
        """End one more than are kept, if it had no work since."""
        is_idle = process.is_free and process.idle_since_s == idle_since_s
        if is_idle and process in self._processes and len(self._processes) > self._kept:
            self._processes.discard(process)
            process.close()

    def _attach(self, utterance: SpokenUtterance, process: RecogniserProcess) -> None:
        process.utterance = utterance
        utterance.attach(process)

    def _fill(self) -> None:
        while not self._is_closing and len(self._processes) < self._kept:
            if not self._spawn():
                return

    def _spawn(self) -> bool:
        if self._forkserver is None:
            return False
        try:
            socket_end = self._forkserver.spawn()
        except OSError:
            return False  # The fork server is gone; its watcher starts another and fills up.
        process = RecogniserProcess()
        self._processes.add(process)
        self._keep(self._run(process, socket_end), "recogniser")
        return True

    async def _run(self, process: RecogniserProcess, socket_end: socket.socket) -> None:
        try:
            await process.run(socket_end, lambda message: self._take(process, message))
        finally:
            was_wanted = process in self._processes
            self._processes.discard(process)
            process.pid = 0
            if process.utterance is not None:
                process.utterance.settle(Transcript("", error="the speech recogniser stopped"))
        if was_wanted and not self._is_closing:
            await self._replace(process)

    async def _replace(self, process: RecogniserProcess) -> None:
        self.crashes += 1
        lived_s = asyncio.get_running_loop().time() - process.started_s
        logger.warning("a recogniser process ended unasked after %.1f s", lived_s)
        if lived_s < SHORT_LIFE_S:
            if self._is_backing_off:
                return  # One refill is enough for all who die meanwhile.
            self._is_backing_off = True
            await self._back_off()
            self._is_backing_off = False
        self._fill()

    async def _watch(self) -> None:
        """Start another fork server whenever one ends."""
        while self._forkserver is not None:
            status = await self._forkserver.wait()
            logger.error("the recogniser fork server ended with status %s", status)
            await self._forkserver.close()
            self._forkserver = None
            while self._forkserver is None:
                await self._back_off()
                try:
                    self._forkserver = await self._start_forkserver()
                except (EngineError, OSError) as error:
                    logger.error("the recogniser fork server does not start: %s", error)
            self._fill()

    async def _oversee(self) -> None:
        """End what is stuck: a recogniser with work, or a fork server that forks none."""
        loop = asyncio.get_running_loop()
        last_s = loop.time()
        while True:
            await asyncio.sleep(CHECK_S)
            # A late check tells that this process stood still, nothing about the others.
            elapsed_s = min(loop.time() - last_s, 2 * CHECK_S)
            last_s = loop.time()
            self._rest_idle()
            for process in list(self._processes):
                if process.pid and last_s - process.started_s > SHORT_LIFE_S:
                    self._backoff_s = 0.0
                if not process.is_stuck(elapsed_s, self._cpu_s(process.pid)):
                    continue
                if process.pid:
                    logger.error("a recogniser process is stuck and is ended")
                    process.kill()
                elif self._forkserver is not None:
                    logger.error("the recogniser fork server is stuck and is ended")
                    self._forkserver.kill()
                    break

    async def _back_off(self) -> None:
        """Wait longer each time; until one lives, nothing is forked on demand either."""
        self._backoff_s = min(MAX_BACKOFF_S, max(FIRST_BACKOFF_S, 2 * self._backoff_s))
        await asyncio.sleep(self._backoff_s)

    def _take(self, process: RecogniserProcess, message: FromRecogniser) -> None:
        if isinstance(message, Up):
            process.pid = message.pid
            self._serve(process)
            return
        utterance = process.utterance
        if utterance is None:
            self._serve(process)
            return
        if message.utterance != utterance.ident:
            return
        match message:
            case Taken(num_bytes=num_bytes):
                utterance.taken(num_bytes)
                self._pump()
            case Partial(text=text):
                utterance.on_partial(text)
            case Result(text=text, cepstral_mean=mean, doubt=doubt):
                utterance.speaker.cepstral_mean = mean
                utterance.settle(Transcript(text, doubt=doubt))
            case Failed(reason=reason):
                logger.warning("the recogniser gave up on an utterance: %s", reason)
                utterance.settle(Transcript("", error="the speech recogniser failed"))

    def _keep(self, coroutine: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("%s failed", task.get_name(), exc_info=error)
