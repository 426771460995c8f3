"""What comes over HTTP: offers, forms with an offer, items and requests for client secrets."""

from __future__ import annotations

import asyncio
import re
import urllib.parse
from pathlib import Path
from random import Random

from tests.caller import Caller
from tests.fuzz.mutators.multipart import mutate_multipart
from tests.fuzz.mutators.sdp import mutate_sdp
from tests.fuzz.mutators.structures import mutate_json
from tests.fuzz.target import Target

ANSWER_TIMEOUT_S = 30.0
BUSY = (429, 503)
TRIES = 40
RETRY_S = 0.25


async def ask(
    url: str, path: str, headers: bytes, body: bytes, method: str = "POST"
) -> tuple[int, bytes]:
    """The status, 0 without an answer, and all of the answer. Headers go out as they are."""
    parts = urllib.parse.urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost:{parts.port}\r\nConnection: close\r\n"
        length = f"\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        writer.write(head.encode() + headers + length + body)
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            answer = await _read(reader)
    finally:
        writer.close()
    match = re.match(rb"HTTP/1\.\d (\d{3})", answer)
    return int(match[1]) if match else 0, answer


async def _read(reader: asyncio.StreamReader) -> bytes:
    answer = bytearray()
    try:
        while piece := await reader.read(65_536):
            answer += piece
    except ConnectionResetError:
        # It answered before it had read everything, and closed: what came is the answer.
        return bytes(answer)
    return bytes(answer)


class Request(Target):
    """Something that is asked for and answered at once; a call that comes of it is hung up."""

    concurrency = 4

    def __init__(self) -> None:
        self._url = ""

    async def open(self, url: str, folder: Path) -> None:
        self._url = url

    async def _ask(self, path: str, headers: bytes, body: bytes, method: str = "POST") -> str:
        for _ in range(TRIES):
            try:
                status, answer = await ask(self._url, path, headers, body, method)
            except ConnectionResetError:
                status, answer = 0, b""
            if status not in BUSY:
                break
            await asyncio.sleep(RETRY_S)
        if status == 201 and (ending := self._ending(answer)):
            method, path = ending
            await ask(self._url, path, b"X: y", b"", method)
        return self._judged(status, answer)

    def _ending(self, answer: bytes) -> tuple[str, str] | None:
        """How the call that came of it is ended: method and path."""
        location = re.search(rb"\r\nLocation: (\S+)", answer, re.I)
        return location and ("POST", location[1].decode() + "/hangup")

    def _judged(self, status: int, answer: bytes) -> str:
        if status == 0:
            return "no answer"
        if status in BUSY:
            return f"still {status} after {TRIES * RETRY_S:g} s"
        if status >= 500:
            return f"status {status}: {answer.rpartition(b'message')[2][:80]!r}"
        return ""


class Offers(Request):
    """SDP offers, of browsers and of other stacks."""

    name = "offers"

    def mutate(self, rng: Random, parent: bytes, other: bytes) -> bytes:
        return mutate_sdp(rng, parent, other)

    def signature(self, case: bytes) -> str:
        from signaling.errors import ProtocolError
        from signaling.prepared import prepare_offer

        try:
            return f"taken {prepare_offer(case.decode()).plan}"
        except UnicodeDecodeError:
            return "no UTF-8"
        except ProtocolError as error:
            return re.sub(r"\d+|\".*\"|\(.*\)", "#", error.message)

    async def try_case(self, case: bytes) -> str:
        return await self._ask("/v1/realtime/calls", b"Content-Type: application/sdp", case)


class Multiparts(Request):
    """Forms of an offer and a session: a header block, an empty line, the body."""

    name = "multiparts"

    def mutate(self, rng: Random, parent: bytes, other: bytes) -> bytes:
        return mutate_multipart(rng, parent, other)

    async def try_case(self, case: bytes) -> str:
        headers, _, body = case.partition(b"\r\n\r\n")
        return await self._ask("/v1/realtime/calls", headers, body)

    def _judged(self, status: int, answer: bytes) -> str:
        # A broken header of the request itself may be answered by closing the connection.
        return "" if status == 0 else super()._judged(status, answer)


class Items(Request):
    """Items and requests for client secrets: the path's last word, a newline, the JSON."""

    name = "items"
    concurrency = 1

    def __init__(self) -> None:
        super().__init__()
        self._caller: Caller | None = None

    def mutate(self, rng: Random, parent: bytes, other: bytes) -> bytes:
        where, _, body = parent.partition(b"\n")
        return where + b"\n" + mutate_json(rng, body, other.partition(b"\n")[2])

    def signature(self, case: bytes) -> str:
        from signaling.errors import ProtocolError
        from signaling.realtime.client_items import parse_upload

        try:
            created = parse_upload(case.partition(b"\n")[2])
            return f"taken {type(created.item).__name__}"
        except ProtocolError as error:
            return re.sub(r"\d+|\".*\"|\(.*\)", "#", error.message)

    async def open(self, url: str, folder: Path) -> None:
        await super().open(url, folder)
        self._caller = await Caller(url).__aenter__()
        await self._caller.hears("session.created")

    async def try_case(self, case: bytes) -> str:
        assert self._caller is not None
        where, _, body = case.partition(b"\n")
        path = "/v1/realtime/client_secrets"
        if where == b"items":
            path = f"{self._caller.location}/items"
        return await self._ask(path, b"Content-Type: application/json", body)

    async def settle(self) -> str:
        assert self._caller is not None
        ended = [e["reason"] for e in self._caller.events if e["type"] == "session.ended"]
        del self._caller.events[1:]
        return f"the call of the uploads is over: {ended[0]}" if ended else ""

    async def close(self) -> None:
        if self._caller is not None:
            await self._caller.hang_up()
            await self._caller.__aexit__(None, None, None)
            self._caller = None
