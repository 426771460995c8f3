"""Messages over WebSockets: each protocol that is spoken there, and connections that join."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import zlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from server.docs.protocols import protocols
from signaling.errors import ProtocolError
from signaling.live.client_events import SessionStart, parse_live_event
from signaling.live.config_reading import read_config
from signaling.openbmb.client_messages import parse_message
from signaling.realtime.client_events import parse_client_event
from tests.fuzz.mutators.structures import mutate_json
from tests.fuzz.target import Target

CONNECTIONS = 3
ANSWER_S = 20.0
MESSAGES_PER_S = 100.0
"""Of a connection; who sends much more than 170 is read more slowly."""
FRESH_SHARE = 4
"""One case of so many is the first message of a connection."""
OURS = re.compile(r'"(internal_error|internal|engine_failed|engine_gone|engine_unavailable)"')
"""Codes and reasons that say that it was our fault."""
INTERNAL_ERROR = 1011


class Spoken(NamedTuple):
    """One protocol: where it is spoken, and how a conversation begins."""

    key: str
    """Among `protocols()`."""
    path: str
    corpus: str
    parse: Callable[[str], object]
    first: tuple[dict[str, Any], ...] = ()
    """What makes a connection one of a conversation."""


def _parse_live(text: str) -> object:
    event = parse_live_event(text)
    if isinstance(event, SessionStart):
        read_config(event.session)
    return event


REALTIME = Spoken("realtime", "/v1/realtime?model=omnicall", "events", parse_client_event)
LIVE = Spoken(
    "live",
    "/v1/live/sessions",
    "ws-live",
    _parse_live,
    ({"type": "session.start", "session": {"model": "omnicall"}},),
)
OPENBMB = Spoken(
    "openbmb",
    "/v1/realtime?mode=video",
    "ws-openbmb",
    parse_message,
    ({"type": "session.init", "payload": {}},),
)


class Messages(Target):
    """JSON messages of one protocol; one case is one message."""

    concurrency = CONNECTIONS

    def __init__(self, spoken: Spoken) -> None:
        self.name = f"ws-{spoken.key}"
        self.corpus = spoken.corpus
        self._spoken = spoken
        self._url = ""
        self._idle: asyncio.Queue[_Connection] = asyncio.Queue()
        self._checks = 0

    def seeds(self) -> dict[str, bytes]:
        """The documentation's example of each message, and what was found."""
        told = next(one for one in protocols() if one.key == self._spoken.key)
        made = {f"doc-{event.name}": json.dumps(event.example).encode() for event in told.client}
        return made | super().seeds()

    def mutate(self, rng: Random, parent: bytes, other: bytes) -> bytes:
        return mutate_json(rng, parent, other)

    def signature(self, case: bytes) -> str:
        try:
            return type(self._spoken.parse(case.decode())).__name__
        except UnicodeDecodeError:
            return "no UTF-8"
        except ProtocolError as error:
            return f"{error.code} {error.param}"

    async def open(self, url: str, folder: Path) -> None:
        self._url = url.rstrip("/").replace("http", "ws", 1)
        for _ in range(CONNECTIONS):
            self._idle.put_nowait(await self._connect())

    async def _connect(self, *, is_fresh: bool = False) -> _Connection:
        connection = await _Connection.open(self._url + await self._path())
        if not is_fresh:
            for message in self._spoken.first:
                await connection.send(json.dumps(message))
            # Before its engine serves a session it refuses what it cannot do yet.
            await connection.says_anything()
        return connection

    async def _path(self) -> str:
        return self._spoken.path

    async def try_case(self, case: bytes) -> str:
        if self._spoken.first and zlib.crc32(case) % FRESH_SHARE == 0:
            connection = await self._connect(is_fresh=True)
            try:
                await connection.send(case.decode(errors="replace"))
                await connection.send(json.dumps({"type": "no-such"}))
                await connection.says_anything()
                return connection.complaint
            finally:
                await connection.close()
        async with self._taken() as connection:
            await connection.send(case.decode(errors="replace"))
            await asyncio.sleep(1 / MESSAGES_PER_S)
            return connection.complaint

    @contextlib.asynccontextmanager
    async def _taken(self) -> AsyncIterator[_Connection]:
        """A connection that is open; it is given back."""
        connection = await self._idle.get()
        try:
            while connection.is_over:
                await connection.close()
                connection = await self._connect()
            yield connection
        finally:
            self._idle.put_nowait(connection)

    async def settle(self) -> str:
        """Each connection that is open answers a message that it does not know by its name."""
        self._checks += 1
        mark = f"check-{self._checks}"
        found = [self._idle.get_nowait() for _ in range(self._idle.qsize())]
        try:
            silent = await asyncio.gather(*(one.answers(mark) for one in found))
        finally:
            for connection in found:
                self._idle.put_nowait(connection)
        return next(filter(None, silent), "")

    async def close(self) -> None:
        while not self._idle.empty():
            await self._idle.get_nowait().close()


class JoinedMessages(Messages):
    """The same on connections that have joined somebody's session."""

    def __init__(self, spoken: Spoken, joined: str) -> None:
        """`joined`: the path, with `{}` for the session's id."""
        super().__init__(spoken._replace(first=()))
        self.name = f"ws-{spoken.key}-joined"
        self._host = Messages(spoken)
        self._joined = joined
        self._session = ""
        self._main: _Connection | None = None
        self._lock = asyncio.Lock()

    async def open(self, url: str, folder: Path) -> None:
        self._url = self._host._url = url.rstrip("/").replace("http", "ws", 1)
        await super().open(url, folder)

    async def _connect(self, *, is_fresh: bool = False) -> _Connection:
        try:
            return await super()._connect(is_fresh=is_fresh)
        except ConnectionRefusedError:
            # What has joined may end the session, a moment before its own connection is told.
            await self._leave()
            return await super()._connect(is_fresh=is_fresh)

    async def _path(self) -> str:
        async with self._lock:
            if self._main is not None and self._main.is_over:
                await self._leave()
            if self._main is None:
                self._main = await self._host._connect()
                self._session = await self._main.session_id()
            return self._joined.format(self._session)

    async def _leave(self) -> None:
        main, self._main = self._main, None
        if main is not None:
            await main.close()

    async def close(self) -> None:
        await super().close()
        await self._leave()


class _Connection:
    """One WebSocket, and what came over it."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._texts: list[str] = []
        self._news = asyncio.Event()
        self._complaint = ""
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def open(cls, url: str) -> _Connection:
        """Raises ConnectionRefusedError, an OSError, when it is answered otherwise."""
        try:
            return cls(await connect(url, max_size=None, ping_interval=None, open_timeout=ANSWER_S))
        except InvalidHandshake as error:
            raise ConnectionRefusedError(str(error)) from None

    @property
    def is_over(self) -> bool:
        return self._reader.done()

    @property
    def complaint(self) -> str:
        """What must not be said by the server, once."""
        found, self._complaint = self._complaint, ""
        return found

    async def send(self, text: str) -> None:
        with contextlib.suppress(ConnectionClosed):
            await self._socket.send(text)

    async def _read(self) -> None:
        try:
            async for text in self._socket:
                if OURS.search(str(text)):
                    self._complaint = f"told {str(text)[:200]}"
                self._texts.append(str(text))
                del self._texts[:-100]
                self._news.set()
        except ConnectionClosed:
            pass
        if self._socket.close_code == INTERNAL_ERROR:
            self._complaint = f"closed with 1011 {self._socket.close_reason}"
        self._news.set()

    async def _until(self, condition: Callable[[], object]) -> bool:
        """Whether it was so before the connection was over or the time was up."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_S):
                while not condition() and not self.is_over:
                    self._news.clear()
                    await self._news.wait()
        return bool(condition())

    async def says_anything(self) -> None:
        await self._until(lambda: self._texts)

    async def session_id(self) -> str:
        """As the server tells it in its first event that has one."""

        def told() -> str:
            events = [json.loads(text) for text in self._texts]
            sessions = [
                event["session"]
                for event in events
                if isinstance(event, dict) and isinstance(event.get("session"), dict)
            ]
            return next((session["id"] for session in sessions), "")

        await self._until(told)
        return told()

    async def answers(self, mark: str) -> str:
        """Nothing if it does, or if it is over."""
        await self.send(json.dumps({"type": mark, "event_id": mark}))
        if await self._until(lambda: any(mark in text for text in self._texts)) or self.is_over:
            return self.complaint
        return f"no answer within {ANSWER_S:g} s"

    async def close(self) -> None:
        await self._socket.close()
        await asyncio.gather(self._reader, return_exceptions=True)
