"""Sessions over WebSockets on a running server, with real processes.

Guards: the `openai` package talks and is talked to, unmodified; sound in each format; keys, origins
and refusals before the upgrade; the client truncates; connections that join a call; TLS; the end.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import Iterator
from typing import Any

import aiohttp
import numpy as np
import pytest
from openai import AsyncOpenAI
from websockets.exceptions import InvalidStatus

from media import g711
from tests.caller import Caller
from tests.live_client import LiveStreamer
from tests.server.test_openbmb import Duplex
from tests.serving import Serving
from tests.streamer import Streamer, speech
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.loopback

HALF_DUPLEX = {"audio": {"input": {"turn_detection": {"type": "server_vad"}}}}
BY_HAND = {"audio": {"input": {"turn_detection": None}}}
KEY = "sk-test-one-0123456789"


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    with Serving() as serving:
        yield serving


@pytest.fixture(scope="module")
def guarded() -> Iterator[Serving]:
    with Serving(environment={"OMNICALL_AUTH_KEY": KEY}) as serving:
        yield serving


async def configured(streamer: Streamer, session: dict[str, Any]) -> None:
    await streamer.hears("session.created")
    await streamer.send("session.update", session={"type": "realtime"} | session)
    await streamer.hears("session.updated")


async def test_openai_client_talks_by_words_and_by_sound(server: Serving) -> None:
    client = AsyncOpenAI(api_key="any", base_url=f"{server.url}v1")
    heard, types = b"", []
    async with client.realtime.connect(model="omnicall") as connection:
        assert (await connection.recv()).type == "session.created"
        session: Any = {"type": "realtime"} | HALF_DUPLEX
        await connection.session.update(session=session)
        pcm = speech("what_time").tobytes()
        for at in range(0, len(pcm), 9600):
            piece = base64.b64encode(pcm[at : at + 9600]).decode()
            await connection.input_audio_buffer.append(audio=piece)
        async with asyncio.timeout(PATIENCE_S):
            async for event in connection:
                types.append(event.type)
                if event.type == "response.output_audio.delta":
                    heard += base64.b64decode(event.delta)
                if event.type == "response.done":
                    break
    assert types[:2] == ["conversation.created", "session.updated"] and len(heard) > 24_000
    assert "conversation.item.input_audio_transcription.completed" in types
    assert np.abs(np.frombuffer(heard, np.int16)).max() > 1000
    assert not [name for name in types if name.startswith("output_audio_buffer")]
    assert types.index("response.output_audio.delta") < types.index("response.output_audio.done")


@pytest.mark.parametrize("law", ["mu", "a"])
async def test_telephone_sound_goes_both_ways(server: Serving, law: g711.Law) -> None:
    form = {"type": f"audio/pcm{'u' if law == 'mu' else 'a'}"}
    audio = {"input": HALF_DUPLEX["audio"]["input"] | {"format": form}, "output": {"format": form}}
    async with Streamer(server.url) as client:
        await configured(client, {"audio": audio})
        echoed = client.of("session.updated")[0]["session"]["audio"]
        assert echoed["input"]["format"] == echoed["output"]["format"] == form
        await client.say(g711.encode(speech("what_time", 8000).tobytes(), law), 800)
        said = await client.hears("conversation.item.input_audio_transcription.completed")
        # The recogniser was made for twice the bandwidth.
        assert said["transcript"]
        await client.hears("response.done")
        answer = np.frombuffer(g711.decode(client.sound, law), np.int16)
        assert len(answer) > 8000 and np.abs(answer).max() > 1000


async def test_turn_by_hand_is_committed_and_an_empty_one_an_error(server: Serving) -> None:
    async with Streamer(server.url) as client:
        await configured(client, BY_HAND)
        await client.send("input_audio_buffer.commit", event_id="mine")
        error = (await client.hears("error"))["error"]
        assert error["code"] == "input_audio_buffer_commit_empty" and error["event_id"] == "mine"
        await client.say(speech("what_time").tobytes(), 400_000)
        await client.send("input_audio_buffer.clear")
        await client.hears("input_audio_buffer.cleared")
        await client.say(speech("what_time").tobytes(), 400_000)
        await client.send("input_audio_buffer.commit")
        committed = await client.hears("input_audio_buffer.committed")
        await client.send("response.create")
        await client.hears("response.done")
        added = client.of("conversation.item.added")[0]
        assert added["item"]["id"] == committed["item_id"]
        said = client.of("conversation.item.input_audio_transcription.completed")
        assert [event["item_id"] for event in said] == [committed["item_id"]]
        await client.send("input_audio_buffer.append", audio="???", event_id="bad")
        assert (await client.hears("error", count=2))["error"]["param"] == "audio"
        await client.send("output_audio_buffer.clear")
        assert (await client.hears("error", count=3))["error"]["code"] == "unsupported_event"


async def test_session_that_transcribes_writes_down_and_answers_nothing(server: Serving) -> None:
    async with Streamer(server.url, query="intent=transcription") as client:
        created = await client.hears("session.created")
        assert created["session"]["type"] == "transcription"
        silence = bytes(2 * 24_000)
        await client.say(speech("what_time").tobytes() + silence, 48_000)
        committed = await client.hears("input_audio_buffer.committed")
        said = await client.hears("conversation.item.input_audio_transcription.completed")
        assert said["item_id"] == committed["item_id"] and "time" in said["transcript"]
        await client.send("response.create", event_id="e1")
        assert (await client.hears("error"))["error"]["event_id"] == "e1"
        assert not [kind for kind in client.types if kind.startswith("response.")]


async def test_call_that_transcribes_writes_down_and_answers_nothing(server: Serving) -> None:
    written = {"type": "transcription", "audio": {"input": {"transcription": {"language": "en"}}}}
    async with Caller(server.url, session=written) as caller:
        created = await caller.hears("session.created")
        assert created["session"]["type"] == "transcription"
        assert set(created["session"]["audio"]) == {"input"}
        caller.voice.say("what_time")
        committed = await caller.hears("input_audio_buffer.committed")
        said = await caller.hears("conversation.item.input_audio_transcription.completed")
        assert said["item_id"] == committed["item_id"] and "time" in said["transcript"]
        caller.send("response.create", event_id="e1")
        assert (await caller.hears("error"))["error"]["event_id"] == "e1"
        caller.send("session.update", session={"type": "transcription", "audio": {"input": {}}})
        updated = (await caller.hears("session.updated"))["session"]
        assert updated["object"] == "realtime.transcription_session"
        kinds = [event["type"] for event in caller.events]
        assert not [kind for kind in kinds if kind.startswith(("response.", "output_"))]
        assert caller.loud_samples == 0
        assert await caller.hang_up() == 200


async def test_secret_of_a_session_that_transcribes_opens_one(guarded: Serving) -> None:
    key = {"Authorization": f"Bearer {KEY}"}
    async with aiohttp.ClientSession(headers=key) as http:
        body = {"session": {"type": "transcription", "include": None}}
        path = f"{_address(guarded)}v1/realtime/client_secrets"
        async with http.post(path, json=body) as answer:
            made = await answer.json()
    assert made["session"]["type"] == "transcription"
    held = {"Authorization": f"Bearer {made['value']}"}
    async with Streamer(_address(guarded), headers=held) as client:
        assert (await client.hears("session.created"))["session"]["type"] == "transcription"
    async with Caller(_address(guarded), key=made["value"]) as caller:
        assert (await caller.hears("session.created"))["session"]["type"] == "transcription"


async def test_engine_that_writes_nothing_down_refuses_to_transcribe() -> None:
    with Serving("--engine", "echo") as echo:
        async with Streamer(echo.url, query="intent=transcription") as client:
            assert (await client.hears("error"))["error"]["param"] == "session.type"
            async with asyncio.timeout(PATIENCE_S):
                await client.socket.wait_closed()
        async with Caller(echo.url, session={"type": "transcription"}) as caller:
            assert (await caller.hears("error"))["error"]["param"] == "session.type"
            await caller.hears("session.ended")
    assert client.close_code == 1008 and client.of("session.created") == []


async def test_unknown_intent_and_members_of_a_secret_are_named(guarded: Serving) -> None:
    key = {"Authorization": f"Bearer {KEY}"}
    with pytest.raises(InvalidStatus) as refused:
        async with Streamer(_address(guarded), headers=key, query="intent=translation"):
            pass
    assert b'"intent"' in refused.value.response.body
    async with aiohttp.ClientSession(headers=key) as http:
        path = f"{_address(guarded)}v1/realtime/client_secrets"
        async with http.post(path, json={"session": {"shiny": 1}}) as answer:
            held = {"Authorization": f"Bearer {(await answer.json())['value']}"}
    told = frozenset({"session.warning"})
    query = "extensions=1"
    async with Streamer(_address(guarded), headers=held, query=query, extensions=told) as client:
        warning = await client.hears("session.warning")
        assert warning["message"] == "session.shiny is not known here."


async def test_client_says_what_it_heard_of_an_answer(server: Serving) -> None:
    async with Streamer(server.url) as client:
        await client.hears("session.created")
        await client.type("What can you do?")
        # More words have come than 300 ms hold.
        delta = await client.hears("response.output_audio_transcript.delta", count=4)
        await client.send(
            "conversation.item.truncate",
            item_id=delta["item_id"],
            content_index=0,
            audio_end_ms=300,
        )
        done = (await client.hears("response.done"))["response"]
        assert done["status"] == "cancelled"
        cut = await client.hears("conversation.item.truncated")
        assert (cut["item_id"], cut["audio_end_ms"]) == (delta["item_id"], 300)
        await client.send("conversation.item.retrieve", item_id=delta["item_id"])
        kept = (await client.hears("conversation.item.retrieved"))["item"]
        assert len(kept["content"][0]["transcript"]) < len(
            done["output"][0]["content"][0]["transcript"]
        )
        await client.send(
            "conversation.item.truncate",
            item_id=delta["item_id"],
            content_index=0,
            audio_end_ms=900_000,
        )
        assert (await client.hears("error"))["error"]["param"] == "audio_end_ms"


async def test_calls_by_different_doors_talk_beside_each_other_in_one_engine(
    server: Serving,
) -> None:
    duplex, live = Duplex(server), LiveStreamer(server.url)
    async with Caller(server.url) as peer, Streamer(server.url) as stream, live, duplex:
        await peer.hears("session.created")
        await configured(stream, HALF_DUPLEX)
        await live.start()
        await duplex.begin()
        calls = server.get("/api/stats")[1]["calls"]
        assert len(calls) == 4 and len({call["engine"] for call in calls}) == 1
        async with asyncio.TaskGroup() as talking, live.talks(speech("who").tobytes()):
            peer.voice.say("date")
            talking.create_task(duplex.say("what_time"))
            await stream.type("What is seven times eight?")
            await live.has_said("omnicall")
            await peer.hears("response.done")
            await stream.hears("response.done")
            await duplex.until("response.listen")
    said = [event["text"] for event in duplex.events if "text" in event]
    assert "".join(said).startswith("It is") and len(duplex.sound) > 24_000
    assert "56" in words_of(stream.events)
    assert "It is" in words_of(peer.events) and "56" not in words_of(peer.events)


def words_of(events: list[dict[str, Any]]) -> str:
    """What was said aloud."""
    kind = "response.output_audio_transcript.delta"
    return "".join(event["delta"] for event in events if event["type"] == kind)


async def test_hang_up_and_a_client_that_leaves_end_the_session(server: Serving) -> None:
    async with Streamer(server.url, query="extensions=1", extensions=EXTENSIONS) as client:
        call_id = (await client.hears("session.created"))["session"]["id"]
        async with aiohttp.ClientSession() as http:
            path = f"{server.url}v1/realtime/calls/{call_id}"
            async with http.post(f"{path}/hangup") as answer:
                assert answer.status == 200
            assert await client.is_over() == 1000
            assert client.of("session.ended")[0]["reason"] == "hangup"
        await _is_gone(server, call_id)
    async with Streamer(server.url) as client:
        call_id = (await client.hears("session.created"))["session"]["id"]
    await _is_gone(server, call_id)


async def _is_gone(server: Serving, call_id: str) -> None:
    """Wait until the server knows the call for one that has ended."""
    async with aiohttp.ClientSession() as http, asyncio.timeout(PATIENCE_S):
        while True:
            async with http.get(f"{server.url}v1/realtime/calls/{call_id}") as answer:
                if answer.status == 410:
                    return
            await asyncio.sleep(0.05)


EXTENSIONS = frozenset({"session.queued", "session.warning", "session.ended", "metrics"})


async def test_connections_join_a_call_and_leave_it(server: Serving) -> None:
    async with Caller(server.url) as caller:
        await caller.hears("session.created")
        call_id = caller.location.rpartition("/")[2]
        async with Streamer(server.url, query=f"call_id={call_id}") as first:
            joined = await first.hears("session.created")
            assert joined["session"]["id"] == call_id
            async with Streamer(server.url, query=f"call_id={call_id}") as second:
                await second.hears("session.created")
                await first.send("conversation.item.delete", item_id="nobody", event_id="e1")
                assert (await first.hears("error"))["error"]["event_id"] == "e1"
                await first.send("input_audio_buffer.append", audio="AAAA")
                assert (await first.hears("error", count=2))["error"]["code"] == (
                    "unsupported_event"
                )
                await first.type("What time is it?")
                for client in (first, second):
                    await client.hears("response.done")
                    await client.hears("output_audio_buffer.stopped")
                    assert client.sound == b""
                await caller.hears("response.done")
                assert second.of("error") == [] and not await _errors(caller)
            await first.send("session.update", session={"instructions": "Be brief."})
            assert (await caller.hears("session.updated"))["session"]["instructions"]
            assert await caller.hang_up() == 200
            assert await first.is_over() == 1000


async def _errors(caller: Caller) -> list[dict[str, Any]]:
    return [event for event in caller.events if event["type"] == "error"]


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ({}, 401),
        ({"headers": {"Authorization": "Bearer wrong"}}, 401),
        ({"protocols": ["realtime", "openai-insecure-api-key.wrong"]}, 401),
        ({"headers": {"Authorization": f"Bearer {KEY}"}, "query": "call_id=rtc_no"}, 404),
        (
            {"headers": {"Authorization": f"Bearer {KEY}", "Origin": "https://evil.test"}},
            403,
        ),
    ],
    ids=str,
)
async def test_what_is_refused_is_refused_before_the_upgrade(
    guarded: Serving, more: dict[str, Any], status: int
) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with Streamer(_address(guarded), **more):
            pass
    assert refused.value.response.status_code == status
    assert b'"error"' in refused.value.response.body


def _address(serving: Serving) -> str:
    return serving.url.partition("?")[0]


async def test_browser_brings_its_key_as_a_sub_protocol(guarded: Serving) -> None:
    protocols = ["realtime", f"openai-insecure-api-key.{KEY}", "openai-agents-sdk.1"]
    async with Streamer(_address(guarded), protocols=protocols) as client:
        assert client.socket.subprotocol == "realtime"
        await client.hears("session.created")


async def test_secret_brings_its_settings_and_joins_no_other_call(guarded: Serving) -> None:
    key = {"Authorization": f"Bearer {KEY}"}
    async with aiohttp.ClientSession(headers=key) as http:
        body = {"session": {"type": "realtime", "instructions": "Be a pirate."}}
        path = f"{_address(guarded)}v1/realtime/client_secrets"
        async with http.post(path, json=body) as answer:
            secret = (await answer.json())["value"]
    async with Streamer(_address(guarded), headers=key) as other:
        call_id = (await other.hears("session.created"))["session"]["id"]
        held = {"Authorization": f"Bearer {secret}"}
        async with Streamer(_address(guarded), headers=held) as client:
            created = await client.hears("session.created")
            assert created["session"]["instructions"] == "Be a pirate."
            own = created["session"]["id"]
            async with Streamer(_address(guarded), headers=held, query=f"call_id={own}") as side:
                await side.hears("session.created")
        with pytest.raises(InvalidStatus) as refused:
            async with Streamer(_address(guarded), headers=held, query=f"call_id={call_id}"):
                pass
        assert refused.value.response.status_code == 403


async def test_plain_request_is_told_to_upgrade_and_telephony_is_refused(server: Serving) -> None:
    async with aiohttp.ClientSession() as http:
        async with http.get(f"{server.url}v1/realtime") as answer:
            assert answer.status == 426 and answer.headers["Upgrade"] == "websocket"
        for name in ("accept", "reject", "refer"):
            async with http.post(f"{server.url}v1/realtime/calls/rtc_x/{name}", json={}) as answer:
                assert answer.status == 501
                assert (await answer.json())["error"]["code"] == "not_supported"


async def test_under_tls_bytes_are_relayed() -> None:
    tls = ssl.create_default_context()
    tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    with Serving("--tls") as serving:
        async with Streamer(_address(serving), tls=tls) as client:
            await client.hears("session.created")
            await client.type("What time is it?")
            await client.hears("response.done")
            assert len(client.sound) > 24_000
            call_id = client.of("session.created")[0]["session"]["id"]
            connector = aiohttp.TCPConnector(ssl=tls)
            async with aiohttp.ClientSession(connector=connector) as http:
                path = f"{_address(serving)}v1/realtime/calls/{call_id}/hangup"
                async with http.post(path) as answer:
                    assert answer.status == 200
            assert await client.is_over() == 1000
