"""Bodies of requests that an engine answers: chats, texts to be said, recordings; and Live's."""

from __future__ import annotations

import json
import re
from random import Random

from signaling.audio.speech_request import parse_speech
from signaling.chat.request import parse_chat
from signaling.errors import ProtocolError
from tests.fuzz.mutators.multipart import mutate_multipart
from tests.fuzz.mutators.sdp import mutate_sdp
from tests.fuzz.mutators.structures import mutate_json
from tests.fuzz.targets.http import Request

JSON = b"Content-Type: application/json"


class Chats(Request):
    """Bodies of chat completions."""

    name = "chats"
    path = "/v1/chat/completions"

    def mutate(self, rng: Random, parent: bytes, other: bytes) -> bytes:
        return mutate_json(rng, parent, other)

    def signature(self, case: bytes) -> str:
        try:
            return self._parsed(case)
        except ProtocolError as error:
            return f"{error.code} {re.sub(r'[0-9]+', '#', error.param or '')}"

    def _parsed(self, case: bytes) -> str:
        order = parse_chat(case, lambda name: None)
        kinds = [type(ordered.item).__name__ for ordered in order.items]
        return f"{kinds} {order.spoken_as} {order.is_streamed} {order.tools.choice} {order.ignored}"

    async def try_case(self, case: bytes) -> str:
        return await self._ask(self.path, JSON, case)


class Speeches(Chats):
    """Texts to be said."""

    name = "speeches"
    path = "/v1/audio/speech"

    def _parsed(self, case: bytes) -> str:
        order = parse_speech(case)
        return f"{order.kind} {order.is_events} {order.ignored}"


class Recordings(Request):
    """Forms with a recording: a header block, an empty line, the body."""

    name = "recordings"

    def mutate(self, rng: Random, parent: bytes, other: bytes) -> bytes:
        return mutate_multipart(rng, parent, other)

    async def try_case(self, case: bytes) -> str:
        headers, _, body = case.partition(b"\r\n\r\n")
        return await self._ask("/v1/audio/transcriptions", headers, body)

    def _judged(self, status: int, answer: bytes) -> str:
        # A broken header of the request itself may be answered by closing the connection.
        return "" if status == 0 else super()._judged(status, answer)


class LiveOffers(Request):
    """Bodies that create a Live session by WebRTC."""

    name = "live-offers"

    def mutate(self, rng: Random, parent: bytes, other: bytes) -> bytes:
        if rng.random() < 0.5:
            return mutate_json(rng, parent, other)
        try:
            body = json.loads(parent)
            sdp = body["transport"]["sdp"].encode()
            body["transport"]["sdp"] = mutate_sdp(rng, sdp, sdp).decode(errors="replace")
            return json.dumps(body).encode()
        except (ValueError, TypeError, KeyError, AttributeError):
            return mutate_json(rng, parent, other)

    async def try_case(self, case: bytes) -> str:
        return await self._ask("/v1/live/sessions", JSON, case)

    def _ending(self, answer: bytes) -> tuple[str, str] | None:
        found = re.search(rb'"id": "(\w+)"', answer)
        return found and ("POST", f"/v1/live/sessions/{found[1].decode()}/hangup")
