"""WHIP: offers, and the fragments with which a call's ICE goes on."""

from __future__ import annotations

import re
from pathlib import Path
from random import Random

from signaling.errors import ProtocolError
from signaling.fragment import CONTENT_TYPE, parse_fragment
from signaling.offer import check_whole_offer
from tests.caller import Caller
from tests.fuzz.mutators.sdp import mutate_sdp
from tests.fuzz.targets.http import Request, ask

OFFER, FRAGMENT = b"offer", b"fragment"
IF_ANY = b"If-Match: *"
TOO_MANY = 429


class Whip(Request):
    """What is sent, a newline, the SDP: an offer or a fragment, which goes to a call under way."""

    name = "whip"

    def __init__(self) -> None:
        super().__init__()
        self._caller: Caller | None = None

    def mutate(self, rng: Random, parent: bytes, other: bytes) -> bytes:
        what, _, sdp = parent.partition(b"\n")
        return what + b"\n" + mutate_sdp(rng, sdp, other.partition(b"\n")[2])

    def signature(self, case: bytes) -> str:
        what, _, sdp = case.partition(b"\n")
        try:
            text = sdp.decode()
            if what == FRAGMENT:
                return f"{[(bool(p.credentials), len(p.candidates)) for p in parse_fragment(text)]}"
            return f"taken {check_whole_offer(text)}"
        except UnicodeDecodeError:
            return "no UTF-8"
        except ProtocolError as error:
            return re.sub(r"\d+|\".*\"|\(.*\)", "#", error.message)

    async def open(self, url: str, folder: Path) -> None:
        await super().open(url, folder)
        await self._call()

    async def _call(self) -> None:
        self._caller = await Caller(self._url, door="/whip").__aenter__()
        await self._caller.hears("session.created")

    async def try_case(self, case: bytes) -> str:
        what, _, sdp = case.partition(b"\n")
        if what != FRAGMENT:
            return await self._ask("/whip", b"Content-Type: application/sdp", sdp)
        assert self._caller is not None
        headers = b"Content-Type: " + CONTENT_TYPE.encode() + b"\r\n" + IF_ANY
        status, answer = await ask(self._url, self._caller.location, headers, sdp, "PATCH")
        # A call's restarts and addresses are bounded: what is too much is refused.
        return "" if status == TOO_MANY else self._judged(status, answer)

    def _ending(self, answer: bytes) -> tuple[str, str] | None:
        location = re.search(rb"\r\nLocation: (\S+)", answer, re.I)
        return location and ("DELETE", location[1].decode())

    async def settle(self) -> str:
        """The call of the fragments goes on; another begins, for restarts are few."""
        assert self._caller is not None
        ended = [e["reason"] for e in self._caller.events if e["type"] == "session.ended"]
        await self.close()
        await self._call()
        return f"the call of the fragments is over: {ended[0]}" if ended else ""

    async def close(self) -> None:
        if self._caller is not None:
            await self._caller.__aexit__(None, None, None)
            self._caller = None
