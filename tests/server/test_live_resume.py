"""Calls that lose their client, their media worker or their engine, with real processes and peers.

Guards: a call rests within 3 s of silence and goes on where it was heard, over the same connection
or another one with its token; a conversation outlives its media worker and its engine; nobody comes
back without the token, and what nobody came back for holds nothing.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.caller import Caller
from tests.server.test_live_faults import nothing_open, stats, until
from tests.serving import Serving
from tests.waiting import until as until_true

pytestmark = pytest.mark.loopback

TURNS = {"audio": {"input": {"turn_detection": None}}}
OPTIONS = ("engine.count=2", "engine.slots=2", "chat.slots=0", "media.workers=2", "calls.grace_s=5")


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    settings = [part for option in OPTIONS for part in ("--set", option)]
    with Serving("--engine", "builtin", *settings) as serving:
        yield serving


def state_of(caller: Caller, found: dict[str, Any]) -> str:
    call_id = caller.location.rpartition("/")[2]
    return next((c["state"] for c in found["calls"] if c["call_id"] == call_id), "over")


async def in_an_answer(caller: Caller) -> None:
    await caller.hears("session.created")
    caller.type("Tell me a story")
    await caller.hears("output_audio_buffer.started")
    before = caller.loud_samples
    await hears_more(caller, before)


async def hears_more(caller: Caller, before: int) -> None:
    await until_true(lambda: caller.loud_samples > before + 24_000)


async def test_silent_client_is_awaited_and_hears_the_rest(server: Serving) -> None:
    async with Caller(server.url, session=TURNS) as caller:
        await in_an_answer(caller)
        caller.vanish()
        await until(server, lambda found: state_of(caller, found) == "away")
        caller.reappear()
        await hears_more(caller, caller.loud_samples)
        assert not caller.of("response.done"), "the answer went on"
        caller.send("response.cancel")
        done = await caller.hears("response.done")
        assert done["response"]["status"] == "cancelled"


async def test_client_comes_back_with_its_token_over_another_connection(server: Serving) -> None:
    async with Caller(server.url, session=TURNS, resume="new") as caller:
        await in_an_answer(caller)
        assert caller.token
        async with Caller(server.url, resume=caller.token) as again:
            created = await again.hears("session.created")
            assert again.location == caller.location
            assert created["session"]["id"] == caller.location.rpartition("/")[2]
            continued = await again.hears("session.continued")
            roles = [item["role"] for item in continued["items"]]
            assert roles == ["user", "assistant"]
            await hears_more(again, 0)
            assert not again.of("response.done") and not again.of("session.ended")
            assert await again.hang_up() == 200
            ended = await again.hears("session.ended")
            assert ended["reason"] == "hangup"
    await until(server, nothing_open)


async def test_conversation_goes_on_in_another_media_worker(server: Serving) -> None:
    async with Caller(server.url, session=TURNS, resume="new") as caller:
        await caller.hears("session.created")
        caller.type("What is 2 plus 2?")
        await caller.hears("response.done")
        # It is handed over once a second.
        await asyncio.sleep(1.5)
        found = await stats(server)
        call_id = caller.location.rpartition("/")[2]
        name = next(c["worker"] for c in found["calls"] if c["call_id"] == call_id)
        pid = next(p["pid"] for p in found["processes"] if p["name"] == name)
        os.kill(pid, signal.SIGKILL)
        await until(server, lambda _: server.get(caller.location)[1]["state"] == "lost")
        async with Caller(server.url, resume=caller.token) as again:
            continued = await again.hears("session.continued")
            assert [item["role"] for item in continued["items"]] == ["user", "assistant"]
            again.type("What is 3 plus 3?")
            told = await again.hears("response.output_audio_transcript.done")
            assert "6" in told["transcript"]
            assert await again.hang_up() == 200
    await until(server, nothing_open)


async def test_conversation_goes_on_at_another_engine(server: Serving) -> None:
    async with Caller(server.url, session=TURNS) as caller:
        await in_an_answer(caller)
        found = await stats(server)
        call_id = caller.location.rpartition("/")[2]
        name = next(c["engine"] for c in found["calls"] if c["call_id"] == call_id)
        os.kill(next(p["pid"] for p in found["processes"] if p["name"] == name), signal.SIGKILL)
        resumed = await caller.hears("session.resumed")
        assert resumed["kept"] == "words"
        assert [event["code"] for event in caller.of("session.warning")] == ["engine_lost"]
        assert (await caller.hears("response.done"))["response"]["status"] == "cancelled"
        caller.type("What is 3 plus 3?")
        told = await caller.hears("response.output_audio_transcript.done", count=2)
        assert "6" in told["transcript"]
    await until(server, lambda s: all(p["state"] == "ready" for p in s["processes"]))


async def test_client_that_never_comes_back_leaves_nothing(server: Serving) -> None:
    async with Caller(server.url, session=TURNS, resume="new") as caller:
        await in_an_answer(caller)
        caller.vanish()
        await until(server, lambda found: state_of(caller, found) == "over")
        status, body = server.get(caller.location)
        assert (status, body["error"]["code"]) == (410, "vanished")
    await until(server, nothing_open)
