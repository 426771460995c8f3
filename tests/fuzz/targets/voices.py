"""Voices: uploads in any form, and what is asked of one that is there."""

from __future__ import annotations

import re
from random import Random

from signaling.errors import ProtocolError
from signaling.http.forms import parse_form
from tests.fuzz.mutators.multipart import mutate_multipart
from tests.fuzz.mutators.raw import edge_text, mutate_bytes
from tests.fuzz.mutators.structures import mutate_json
from tests.fuzz.targets.http import Request, ask

PATH = "/api/voices"
MINE = b"MINE"
"""Stands for the id of the voice that was uploaded last."""
JSON = b"content-type: application/json"
METHODS = (b"GET", b"POST", b"PATCH", b"DELETE", b"PUT")


class Voices(Request):
    """Method and what follows the path, a newline, a header block, an empty line, the body."""

    name = "voices"
    concurrency = 1

    def __init__(self) -> None:
        super().__init__()
        self._mine = "voice_" + "x" * 24

    def mutate(self, rng: Random, parent: bytes, other: bytes) -> bytes:
        first, _, rest = parent.partition(b"\n")
        headers, gap, body = rest.partition(b"\r\n\r\n")
        if rng.random() < 0.15:
            return self._odd_place(rng, first) + b"\n" + rest
        if b"multipart/" in headers:
            return first + b"\n" + mutate_multipart(rng, rest, other)
        if headers == JSON:
            return first + b"\n" + headers + gap + mutate_json(rng, body, body)
        spliced = other.partition(b"\r\n\r\n")[2]
        return first + b"\n" + headers + gap + mutate_bytes(rng, body, spliced)

    def _odd_place(self, rng: Random, first: bytes) -> bytes:
        method, _, place = first.partition(b" ")
        if rng.random() < 0.5:
            return rng.choice(METHODS) + b" " + place
        # What ends a line or a path's token is an attack on the parser of HTTP, not on this door.
        odd = re.sub(r"\s", "", edge_text(rng)).encode()
        return method + b" " + rng.choice((b"/" + odd, place + odd, b"?name=" + odd, b""))

    def signature(self, case: bytes) -> str:
        first, _, rest = case.partition(b"\n")
        headers, _, body = rest.partition(b"\r\n\r\n")
        found = re.search(rb"content-type: *(multipart/[^\r]*)", headers, re.I)
        if not found:
            return f"{first[:40]!r} {len(body).bit_length()}"
        try:
            fields = parse_form(body, found[1].decode(errors="replace"))
            return f"{[(name, len(value).bit_length()) for name, value in fields]}"
        except ProtocolError as error:
            return re.sub(r"\d+|\".*\"|\(.*\)", "#", error.message)

    async def try_case(self, case: bytes) -> str:
        first, _, rest = case.replace(MINE, self._mine.encode(), 1).partition(b"\n")
        method, _, place = first.partition(b" ")
        headers, _, body = rest.partition(b"\r\n\r\n")
        path = PATH + place.decode("latin-1")
        return await self._ask(path, headers or b"X: y", body, method.decode())

    def _ending(self, answer: bytes) -> tuple[str, str] | None:
        """One voice is kept: the one before it goes."""
        before = self._mine
        location = re.search(rb"\r\nLocation: (\S+)/(\S+)", answer, re.I)
        if location:
            self._mine = location[2].decode()
        return ("DELETE", f"{PATH}/{before}")

    def _judged(self, status: int, answer: bytes) -> str:
        # A broken header of the request itself may be answered by closing the connection.
        return "" if status == 0 else super()._judged(status, answer)

    async def close(self) -> None:
        await ask(self._url, f"{PATH}/{self._mine}", b"X: y", b"", "DELETE")
