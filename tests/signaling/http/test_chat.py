"""Chats over HTTP: keys, what is told before and after an answer has begun, and signs of life."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import ClientConnectionResetError, web
from aiohttp.test_utils import TestClient, TestServer

from signaling.chat.answer import ChatPiece, ChatUsage, Ended, FinishReason, Sounding, Wording
from signaling.chat.request import ChatOrder
from signaling.errors import NoFreeSlot, ProtocolError
from signaling.http import chat, resources
from signaling.http.auth import ApiKey, Authenticator, install
from signaling.settings import SessionSettings
from tests.waiting import until

Client = TestClient[web.Request, web.Application]
KEY = "a-key-of-sixteen-or-more"
PATH = "/v1/chat/completions"
ASKED: dict[str, Any] = {"model": "omnicall", "messages": [{"role": "user", "content": "hello"}]}
SPOKEN = {"modalities": ["text", "audio"], "audio": {"voice": "one", "format": "pcm16"}}
DONE = Ended("stop", ChatUsage(1, 2))


class Script:
    """A service whose answers are what the test wrote down; a number is a pause in seconds."""

    def __init__(self) -> None:
        self.pieces: list[ChatPiece | Exception | float] = []
        self.refusal: Exception | None = None
        self.heard_to = 0
        self.stopped_as: FinishReason | None = None
        self.orders: list[ChatOrder] = []
        self.left = 0

    def models(self) -> tuple[str, ...]:
        return ("omnicall", "fake/one")

    @asynccontextmanager
    async def answer(
        self, order: ChatOrder, callers: tuple[str, ...]
    ) -> AsyncIterator[tuple[Script, tuple[str, ...]]]:
        if self.refusal is not None:
            raise self.refusal
        self.orders.append(order)
        try:
            yield self, ("top_k",)
        finally:
            self.left += 1

    async def next(self) -> ChatPiece:
        piece = self.pieces[0]
        if isinstance(piece, float):
            await asyncio.sleep(piece)
            self.pieces.pop(0)
            return await self.next()
        self.pieces.pop(0)
        if isinstance(piece, Exception):
            raise piece
        return piece

    def heard(self, samples: int) -> None:
        self.heard_to = samples

    def stop(self, reason: FinishReason) -> None:
        self.stopped_as = reason
        self.pieces = [DONE]


async def packed(pcm: bytes, kind: str) -> bytes:
    return kind.encode() + pcm


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def auth() -> Authenticator:
    return Authenticator((ApiKey("access", KEY, "admin"),))


@pytest.fixture
async def client(script: Script, auth: Authenticator) -> AsyncIterator[Client]:
    app = web.Application()
    install(app, auth)
    chat.add_chat_routes(app, script, auth, packed)
    async with TestClient(TestServer(app), headers={"Authorization": f"Bearer {KEY}"}) as client:
        yield client


async def post(client: Client, **members: Any) -> tuple[int, Any]:
    async with client.post(PATH, json=ASKED | members) as answer:
        text = await answer.text()
        return answer.status, text if members.get("stream") else await answer.json()


async def test_keys_are_needed_and_client_secrets_do_not_do(
    client: Client, auth: Authenticator
) -> None:
    secret, _ = auth.secrets.issue(60, SessionSettings(), "access")
    for value, status in (("wrong", 401), (secret, 403)):
        headers = {"Authorization": f"Bearer {value}"}
        for path in ("/v1/models", "/v1/models/omnicall"):
            assert (await client.get(path, headers=headers)).status == status
        assert (await client.post(PATH, json=ASKED, headers=headers)).status == status


async def test_models_have_slashes_in_their_names(client: Client) -> None:
    body = await (await client.get("/v1/models/fake/one")).json()
    assert (body["id"], body["object"]) == ("fake/one", "model")
    answer = await client.get("/v1/models/fake/two")
    assert answer.status == 404 and (await answer.json())["error"]["code"] == "model_not_found"


async def test_other_methods_are_told_what_is_allowed(client: Client) -> None:
    answer = await client.get(PATH)
    assert answer.status == 405 and answer.headers["Allow"] == "POST, OPTIONS"
    assert (await answer.json())["error"]["code"] == "method_not_allowed"


async def test_what_goes_wrong_before_an_answer_is_a_status(client: Client, script: Script) -> None:
    for is_streamed in (False, True):
        script.refusal = NoFreeSlot(3.2)
        async with client.post(PATH, json=ASKED | {"stream": is_streamed}) as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (503, "4")
        script.refusal = None
        script.pieces = [ProtocolError("no", param="messages")]
        async with client.post(PATH, json=ASKED | {"stream": is_streamed}) as answer:
            assert answer.status == 400
            assert (await answer.json())["error"]["param"] == "messages"


async def test_what_goes_wrong_within_an_answer_is_an_event(client: Client, script: Script) -> None:
    script.pieces = [Wording("one"), ProtocolError("broken", code="response_failed", status=500)]
    status, text = await post(client, stream=True)
    assert status == 200 and "[DONE]" not in text
    assert text.endswith('"code":"response_failed","param":null}}\n\n')
    assert script.left == 1


async def test_who_leaves_within_an_answer_is_one_line_of_information(
    client: Client,
    script: Script,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Also where writing finds it out, before anybody has looked."""

    async def gone(response: web.StreamResponse, data: bytes) -> None:
        raise ClientConnectionResetError("Cannot write to closing transport")

    def told() -> list[str]:
        return [entry.levelname for entry in caplog.records if entry.name == resources.__name__]

    monkeypatch.setattr(web.StreamResponse, "write", gone)
    caplog.set_level(logging.INFO)
    script.pieces = [Wording("a"), DONE]
    asking = asyncio.create_task(client.post(PATH, json=ASKED | {"stream": True}))
    await until(told)
    assert told() == ["INFO"] and script.left == 1
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)


async def test_silence_is_filled_with_signs_of_life(
    client: Client, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat, "KEEPALIVE_S", 0.01)

    class Slow(Script):
        async def next(self) -> ChatPiece:
            self.heard_to += 1
            if self.heard_to < 4:
                await asyncio.Event().wait()
            return await super().next()

    slow = Slow()
    slow.pieces = [Wording("late"), DONE]
    script.answer = slow.answer  # type: ignore[method-assign]
    status, text = await post(client, stream=True)
    assert status == 200 and text.startswith(": wait\n\n: wait\n\n: wait\n\ndata: ")
    assert text.endswith("data: [DONE]\n\n")


async def test_sound_is_reported_as_it_is_sent(client: Client, script: Script) -> None:
    script.pieces = [Wording("Hi"), Sounding(bytes(600)), Sounding(bytes(300)), DONE]
    status, _ = await post(client, stream=True, **SPOKEN)
    assert (status, script.heard_to) == (200, 450)
    script.pieces = [Wording("Hi"), Sounding(bytes(600)), DONE]
    mp3 = SPOKEN | {"audio": {"voice": "one", "format": "mp3"}}
    status, body = await post(client, **mp3)
    assert status == 200 and body["choices"][0]["message"]["audio"]["data"].startswith("bXAz")


async def test_long_sound_ends_where_it_would_be_too_much(
    client: Client, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat, "MAX_SPEECH_BYTES", 1_000)
    script.pieces = [Sounding(bytes(600)), Sounding(bytes(600)), Sounding(bytes(600)), DONE]
    await post(client, **SPOKEN)
    assert script.stopped_as == "length" and script.heard_to == 600


async def test_engine_is_stopped_at_a_stop_text(client: Client, script: Script) -> None:
    for is_streamed in (False, True):
        script.pieces = [Wording("one ST"), Wording("OP two"), Wording(" three"), DONE]
        status, body = await post(client, stream=is_streamed, stop="STOP")
        assert (status, script.stopped_as) == (200, "stop")
        shown = body if is_streamed else body["choices"][0]["message"]["content"]
        assert "two" not in shown and "one " in shown


async def test_members_without_effect_are_named_once(client: Client, script: Script) -> None:
    script.pieces = [Wording("hi"), DONE]
    body = ASKED | {"user": "me", "top_k": 3, "seed": 1}
    async with client.post(PATH, json=body) as answer:
        assert answer.headers["Omnicall-Ignored"] == "user, top_k"
    assert script.orders[0].sampling.seed == 1
