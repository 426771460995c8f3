"""Speech to text: utterances shared out among recogniser processes, each hearing one at a time."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import signal
import socket
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from engine.base import EngineError, Progress
from engine.builtin.interfaces import Transcript
from engine.builtin.recogniser_forkserver import Nursery
from engine.builtin.recogniser_link import (
    Abandon,
    Begin,
    Failed,
    Feed,
    Finish,
    FromRecogniser,
    Partial,
    Result,
    ToRecogniser,
    Unpacker,
    Up,
    from_recogniser,
    pack,
)

FINISH_TIMEOUT_S = 15.0
READ_BYTES = 65_536
MAX_PER_KEPT = 4
"""Recognisers are forked on demand up to this multiple of those kept; beyond, utterances wait."""
EXTRA_IDLE_S = 30.0
"""How long one that was forked on demand is kept without work; a fork takes up to 100 ms."""
SHORT_LIFE_S = 1.0
FIRST_BACKOFF_S = 0.1
MAX_BACKOFF_S = 5.0
MAX_BUFFER_BYTES = 2 * 16_000 * 60

logger = logging.getLogger(__name__)


class SpokenUtterance:
    """One utterance, buffered until a recogniser takes it. Implements `parts.Utterance`."""

    def __init__(
        self, pool: RecogniserPool, speaker: Speaker, on_partial: Callable[[str], None]
    ) -> None:
        self.ident = next(_idents)
        self.speaker = speaker
        self.on_partial = on_partial
        self.result: asyncio.Future[Transcript] = asyncio.get_running_loop().create_future()
        self._pool = pool
        self._link: RecogniserLink | None = None
        self._backlog: list[bytes] = []
        self._fed_bytes = 0
        self._is_finishing = False

    def feed(self, pcm: bytes) -> None:
        """Take the next PCM; what exceeds a minute in all is refused with the whole utterance."""
        if self.result.done() or self._is_finishing:
            return
        self._fed_bytes += len(pcm)
        if self._fed_bytes > MAX_BUFFER_BYTES:
            self.settle(Transcript("", error="the utterance is too long"))
        elif self._link is None:
            self._backlog.append(pcm)
        else:
            self._link.send(Feed(pcm))

    async def finish(self) -> Transcript:
        self._is_finishing = True
        if self._link is not None and not self.result.done():
            self._link.send(Finish(self.ident))
        try:
            async with asyncio.timeout(FINISH_TIMEOUT_S):
                return await asyncio.shield(self.result)
        except TimeoutError:
            if self._link is not None:
                self._link.kill()
            self.settle(Transcript("", error="the speech recogniser did not answer in time"))
            return self.result.result()

    def abandon(self) -> None:
        self.settle(Transcript("", error="abandoned"))

    def attach(self, link: RecogniserLink) -> None:
        """Hand over what was buffered, and what comes, to `link`."""
        self._link = link
        link.send(Begin(self.ident, self.speaker.cepstral_mean, self.speaker.commands))
        for pcm in self._backlog:
            link.send(Feed(pcm))
        self._backlog.clear()
        if self._is_finishing:
            link.send(Finish(self.ident))

    def settle(self, transcript: Transcript) -> None:
        """Decide the result, once, and free the recogniser."""
        if self.result.done():
            return
        self.result.set_result(transcript)
        self._backlog.clear()
        link, self._link = self._link, None
        self._pool.release(self, link)


_idents = itertools.count(1)


class Speaker:
    """One session's ear: implements `parts.Recogniser` and remembers how its user sounds."""

    def __init__(self, pool: RecogniserPool, *, commands: bool) -> None:
        self._pool = pool
        self.commands = commands
        self.cepstral_mean = ""

    def listen(self, on_partial: Callable[[str], None]) -> SpokenUtterance:
        utterance = SpokenUtterance(self._pool, self, on_partial)
        self._pool.assign(utterance)
        return utterance


class RecogniserLink:
    """The engine's end of one recogniser process."""

    def __init__(self) -> None:
        self.utterance: SpokenUtterance | None = None
        self.pid = 0
        self.started_s = asyncio.get_running_loop().time()
        self.idle_since_s = self.started_s
        self._writer: asyncio.StreamWriter | None = None

    @property
    def is_free(self) -> bool:
        return self.pid != 0 and self.utterance is None

    def send(self, message: ToRecogniser) -> None:
        # Unbounded by itself; what it can hold is bounded by MAX_BUFFER_BYTES per utterance.
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(pack(message))

    def kill(self) -> None:
        """End a process that does not answer; its death is noticed like any other."""
        if self.pid and self._writer is not None and not self._writer.is_closing():
            os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    async def run(self, link: socket.socket, take: Callable[[FromRecogniser], None]) -> None:
        """Pass on what the process says until it ends."""
        reader, self._writer = await asyncio.open_unix_connection(sock=link)
        unpacker = Unpacker()
        try:
            while data := await reader.read(READ_BYTES):
                for body in unpacker.push(data):
                    take(from_recogniser.decode(body))
        except ConnectionError:
            pass  # The process died with data under way; that is an end like any other.
        finally:
            self._writer.close()


class RecogniserPool:
    """Owns the nursery, the recognisers and the utterances that wait for one."""

    def __init__(self, kept: int) -> None:
        self._kept = kept
        self._nursery: Nursery | None = None
        self._links: set[RecogniserLink] = set()
        self._waiting: deque[SpokenUtterance] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._backoff_s = 0.0
        self._is_closing = False
        self.crashes = 0

    @property
    def pids(self) -> list[int]:
        """Recogniser processes that are up."""
        return [link.pid for link in self._links if link.pid]

    @property
    def waiting(self) -> int:
        """Utterances that no recogniser has taken yet."""
        return len(self._waiting)

    async def start(self, progress: Progress) -> None:
        """Load the models and fork the recognisers; raise `EngineError` if that fails."""
        progress("loading the speech recogniser")
        self._nursery = await Nursery.start()
        self._keep(self._watch(), "recogniser-nursery")
        self._fill()

    def listen_for(self, *, commands: bool) -> Speaker:
        """The ear of a new session."""
        return Speaker(self, commands=commands)

    def assign(self, utterance: SpokenUtterance) -> None:
        """Give it a free recogniser, else a new one, else its turn."""
        link = next((link for link in self._links if link.is_free), None)
        if link is not None:
            self._attach(utterance, link)
            return
        self._waiting.append(utterance)
        coming = sum(1 for link in self._links if not link.pid)
        if len(self._waiting) > coming and len(self._links) < self._kept * MAX_PER_KEPT:
            self._spawn()

    def release(self, utterance: SpokenUtterance, link: RecogniserLink | None) -> None:
        """Take back the recogniser of a settled utterance, or its place in the queue."""
        if link is None:
            if utterance in self._waiting:
                self._waiting.remove(utterance)
            return
        link.send(Abandon(utterance.ident))
        link.utterance = None
        self._serve(link)

    async def close(self) -> None:
        """End every process; utterances under way fail."""
        self._is_closing = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._nursery is not None:
            await self._nursery.close()

    def _serve(self, link: RecogniserLink) -> None:
        if link.pid and self._waiting:
            self._attach(self._waiting.popleft(), link)
        elif link.pid and len(self._links) > self._kept:
            loop = asyncio.get_running_loop()
            link.idle_since_s = loop.time()
            loop.call_later(EXTRA_IDLE_S, self._retire, link, link.idle_since_s)

    def _retire(self, link: RecogniserLink, idle_since_s: float) -> None:
        """End one more than are kept, if it had no work since."""
        is_idle = link.is_free and link.idle_since_s == idle_since_s
        if is_idle and link in self._links and len(self._links) > self._kept:
            self._links.discard(link)
            link.close()

    def _attach(self, utterance: SpokenUtterance, link: RecogniserLink) -> None:
        link.utterance = utterance
        utterance.attach(link)

    def _fill(self) -> None:
        while not self._is_closing and len(self._links) < self._kept:
            if not self._spawn():
                return

    def _spawn(self) -> bool:
        if self._nursery is None:
            return False
        try:
            socket_end = self._nursery.spawn()
        except OSError:
            return False  # The nursery is gone; its watcher starts another and fills up.
        link = RecogniserLink()
        self._links.add(link)
        self._keep(self._run(link, socket_end), "recogniser")
        return True

    async def _run(self, link: RecogniserLink, socket_end: socket.socket) -> None:
        try:
            await link.run(socket_end, lambda message: self._take(link, message))
        finally:
            was_wanted = link in self._links
            self._links.discard(link)
            link.pid = 0
            if link.utterance is not None:
                error = "the speech recogniser stopped"
                link.utterance.settle(Transcript("", error=error))
        if was_wanted and not self._is_closing:
            await self._replace(link)

    async def _replace(self, link: RecogniserLink) -> None:
        self.crashes += 1
        lived_s = asyncio.get_running_loop().time() - link.started_s
        logger.warning("a recogniser process ended unasked after %.1f s", lived_s)
        if lived_s < SHORT_LIFE_S:
            await self._back_off()
        else:
            self._backoff_s = 0.0
        self._fill()

    async def _watch(self) -> None:
        """Start another nursery whenever one ends."""
        while self._nursery is not None:
            status = await self._nursery.wait()
            logger.error("the recogniser nursery ended with status %s", status)
            await self._nursery.close()
            self._nursery = None
            while self._nursery is None:
                await self._back_off()
                try:
                    self._nursery = await Nursery.start()
                except (EngineError, OSError) as error:
                    logger.error("the recogniser nursery does not start: %s", error)
            self._fill()

    async def _back_off(self) -> None:
        self._backoff_s = min(MAX_BACKOFF_S, max(FIRST_BACKOFF_S, 2 * self._backoff_s))
        await asyncio.sleep(self._backoff_s)

    def _take(self, link: RecogniserLink, message: FromRecogniser) -> None:
        if isinstance(message, Up):
            link.pid = message.pid
            self._serve(link)
            return
        utterance = link.utterance
        if utterance is None or message.utterance != utterance.ident:
            return
        match message:
            case Partial(text=text):
                utterance.on_partial(text)
            case Result(text=text, cepstral_mean=mean):
                utterance.speaker.cepstral_mean = mean
                utterance.settle(Transcript(text))
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
