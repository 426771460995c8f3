"""OpenAI Live on a running server, with real processes.

Guards: the `openai` package talks unmodified, over its WebSocket and beside it; sound goes out in
its time and is zeros while nobody speaks; refusals end the connection; what comes too fast is
skipped; tasks go to the client and their answers are spoken; WebRTC with idle pause and wake.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
from collections.abc import Iterator
from typing import Any

import aiohttp
import psutil
import pytest
from openai import AsyncOpenAI
from websockets.exceptions import InvalidStatus

from media import g711
from tests.chat_server import serving_chat
from tests.live_client import PATH, LiveCaller, LiveStreamer, loudness
from tests.serving import Serving
from tests.streamer import speech
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.loopback


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    with Serving() as serving:
        yield serving


@pytest.fixture(scope="module")
def scripted() -> Iterator[Serving]:
    with Serving("--engine", "scripted", "--script", "delegation") as serving:
        yield serving


def address(serving: Serving) -> str:
    return serving.url.partition("?")[0]


async def test_openai_client_talks_and_a_second_one_joins(server: Serving) -> None:
    client = AsyncOpenAI(api_key="any", base_url=f"{address(server)}v1")
    types, words, beside = [], "", []
    async with client.live.connect() as connection:
        await connection.session.start(session={"model": "gpt-live-1", "instructions": "Be brief."})
        started: Any = await connection.recv()
        assert started.type == "session.started" and started.session.status == "active"

        async def talk() -> None:
            pcm = speech("what_time").tobytes() + bytes(48_000 * 6)
            for at in range(0, len(pcm), 4800):
                piece = base64.b64encode(pcm[at : at + 4800]).decode()
                await connection.session.input_audio.append(audio=piece)
                await asyncio.sleep(0.1)

        async def listen() -> None:
            async with client.live.sideband.connect(session_id=started.session.id) as side:
                await side.session.input_audio.mute(event_id="m")
                await side.session.input_audio.unmute()
                async for event in side:
                    beside.append(event.type)

        listening = asyncio.create_task(listen())
        talking = asyncio.create_task(talk())
        async with asyncio.timeout(PATIENCE_S):
            async for event in connection:
                types.append(event.type)
                if event.type == "session.output_transcript.delta":
                    words += event.delta
                    if words.endswith("."):
                        await connection.session.close()
            await listening
        talking.cancel()
    assert words.startswith("It is")
    assert types[-1] == beside[-1] == "session.closed" and beside[0] == "session.started"
    assert "session.input_transcript.delta" in types
    assert {"session.input_audio.append", "session.output_audio.delta"} <= set(beside)
    assert "session.input_audio.muted" in types and "error" not in types


async def test_sound_goes_out_in_its_time_and_is_zeros_while_nobody_speaks(
    server: Serving,
) -> None:
    async with LiveStreamer(server.url) as client:
        started = await client.start()
        assert started["client_event_id"] == "go"
        async with client.talks(speech("what_time").tobytes()):
            await client.has_said(".")
        await client.send("session.close")
        closed = await client.hears("session.closed")
        assert await client.is_over() == 1000
    pcm = [piece for _, piece in client.pieces]
    assert closed["reason"] == "close_requested"
    assert closed["usage"]["seconds"] == pytest.approx(len(pcm) * 0.1, abs=0.5)
    assert {len(piece) for piece in pcm} == {4_800}
    loud = [loudness(piece) > 0 for piece in pcm]
    assert any(loud) and not any(loud[:10]), "zeros until it speaks"
    # Never ahead of its time by more than two pieces, whatever the machine does meanwhile.
    first = client.pieces[0][0]
    assert all(n * 0.1 - (at - first) < 0.2 for n, (at, _) in enumerate(client.pieces))
    spans = client.of("session.output_transcript.delta")
    assert max(b["start_ms"] - a["end_ms"] for a, b in zip(spans, spans[1:], strict=False)) <= 400


async def test_telephone_sound_goes_both_ways(server: Serving) -> None:
    async with LiveStreamer(server.url) as client:
        form = {"type": "audio/pcmu", "rate": 8000}
        started = await client.start(audio={"format": form})
        assert started["session"]["audio"]["format"] == form
        sound = g711.encode(speech("what_time", 8000).tobytes(), "mu")
        async with client.talks(sound, 800, b"\xff"):
            await client.has_said(".")
        answer = b"".join(g711.decode(piece, "mu") for _, piece in client.pieces)
        assert client.said("input") and loudness(answer) > 1000
        assert loudness(g711.decode(client.pieces[0][1], "mu")) == 0


@pytest.mark.parametrize(
    ("event", "code", "param"),
    [
        ({"type": "session.close"}, "session_not_started", "type"),
        ({"type": "session.start", "session": {}}, "missing_required_parameter", "session.model"),
        (
            {"type": "session.start", "session": {"model": "m", "tools": []}},
            "unknown_parameter",
            "session.tools",
        ),
        (
            {"type": "session.start", "session": {"model": "m", "store": True}},
            "storage_unavailable",
            "session.store",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_refused_start_is_told_and_ends_the_connection(
    server: Serving, event: dict[str, Any], code: str, param: str
) -> None:
    async with LiveStreamer(server.url) as client:
        await client.socket.send(json.dumps({"event_id": "e1", **event}))
        error = (await client.hears("error"))["error"]
        assert (error["code"], error["param"]) == (code, param)
        assert error["client_event_id"] == "e1"
        assert await client.is_over() == 1008
        assert client.types == ["error"]


async def test_what_is_wrong_later_is_told_and_the_session_lives_on(server: Serving) -> None:
    async with LiveStreamer(server.url) as client:
        await client.start()
        await client.send("session.input_audio.append", audio="???", event_id="a")
        await client.send("input_audio_buffer.commit")
        await client.send("session.thinking.append", content="x", event_id="b")
        await client.send("session.thinking.append", content="x", delegation_id=None)
        await client.send("session.input_audio.mute", event_id="m")
        await client.hears("session.input_audio.muted")
        codes = [event["error"]["code"] for event in client.of("error")]
        assert codes == [
            "invalid_audio",
            "unknown_event",
            "missing_required_parameter",
            "append_unsupported",
        ]


async def test_minutes_of_old_sound_are_skipped(server: Serving) -> None:
    async with LiveStreamer(server.url) as client:
        await client.start()
        for _ in range(30):
            piece = base64.b64encode(bytes(48_000)).decode()
            await client.send("session.input_audio.append", audio=piece)
        await client.hears("info", count=2)
        codes = [event["code"] for event in client.of("info")]
        assert codes == ["append_unsupported", "audio_skipped"]


async def test_a_full_house_is_refused_before_anything_starts() -> None:
    with Serving("--set", "engine.slots=1", "--set", "calls.max_queue=0") as serving:
        async with LiveStreamer(serving.url) as waits:
            # One that was not started holds nothing.
            async with LiveStreamer(serving.url) as talks:
                await talks.start()
                await waits.send("session.start", session={"model": "m"})
                assert (await waits.hears("error"))["error"]["code"] == "no_free_slot"
                assert await waits.is_over() == 1013
                assert waits.of("session.started") == []
                with pytest.raises(InvalidStatus) as refused:
                    async with LiveStreamer(serving.url):
                        pass
                assert refused.value.response.status_code == 503


async def test_who_waits_is_told_its_place_and_served_in_turn() -> None:
    with Serving("--set", "engine.slots=1") as serving:
        async with LiveStreamer(serving.url) as first, LiveStreamer(serving.url) as second:
            await first.start()
            await second.send("session.start", session={"model": "m"})
            assert (await second.hears("info"))["code"] == "queue_position"
            await first.send("session.close")
            await second.hears("session.started")
            await second.send("session.close")
            assert (await second.hears("session.closed"))["reason"] == "close_requested"


async def test_a_task_goes_to_the_client_and_its_answer_is_spoken(scripted: Serving) -> None:
    async with LiveStreamer(scripted.url) as client:
        await client.start(delegation={"type": "client"})
        async with client.talks():
            created = await client.hears("session.delegation.created")
            task = created["delegation"]["id"]
            await client.send(
                "session.commentary.append",
                content="Two parcels arrive today.",
                delegation_id=task,
                event_id="c",
            )
            placed = await client.hears("session.commentary.appended")
            assert placed["client_event_id"] == "c"
            await client.has_said("Two parcels arrive today.")


async def test_a_model_behind_a_chat_endpoint_delegates_and_calls_functions() -> None:
    async with serving_chat() as (_, chat_url):
        option = f"builtin.chat.url={chat_url}"
        serving = await asyncio.to_thread(Serving("--set", option).__enter__)
        try:
            await _delegates(serving.url)
            await _calls(serving.url)
        finally:
            await asyncio.to_thread(serving.stop)


async def _delegates(url: str) -> None:
    async with LiveStreamer(url) as client:
        await client.start(delegation={"type": "client"})
        async with client.talks():
            append = {"content": "delegate that, please", "delegation_id": None}
            await client.send("session.commentary.append", **append)
            created = await client.hears("session.delegation.created")
            assert created["delegation"]["target"] == "client"
            await client.has_said("I found: The application works on it.")
            answer = {"content": "it rains", "delegation_id": created["delegation"]["id"]}
            await client.send("session.thinking.append", **answer)
            await client.send("session.commentary.append", **answer)
            await client.hears("session.commentary.appended", count=2)
            await client.has_said("it rains")
            assert client.of("error") == []


async def _calls(url: str) -> None:
    tools = [{"type": "function", "name": "look_up", "parameters": {"type": "object"}}]
    delegation = {"type": "responses", "responses": {"model": "any", "tools": tools}}
    async with LiveStreamer(url) as client:
        await client.start(delegation=delegation)
        async with client.talks():
            append = {"content": "look_up the weather", "delegation_id": None}
            await client.send("session.commentary.append", **append)
            created = await client.hears("session.delegation.created")
            call = (await _hears_nested(client, "response.output_item.done"))["item"]
            assert (call["name"], call["status"]) == ("look_up", "completed")
            output = {"type": "function_call_output", "call_id": call["call_id"], "output": "42"}
            await client.send("response.item.create", item=output)
            await client.send("response.create")
            await client.has_said("I found: 42.")
            assert client.of("error") == []
            tasks = {event["delegation_id"] for event in client.of("response.event")}
            assert tasks == {created["delegation"]["id"]}


async def _hears_nested(client: LiveStreamer, kind: str) -> dict[str, Any]:
    """Wait for an event within the stream of a text model."""
    for count in itertools.count(1):
        event = (await client.hears("response.event", count=count))["event"]
        if event["type"] == kind:
            return dict(event)
    raise AssertionError("unreachable")


async def test_a_client_that_leaves_ends_the_session_for_those_beside_it(server: Serving) -> None:
    async with LiveStreamer(server.url) as client:
        session_id = (await client.start())["session"]["id"]
        path = f"{PATH}/{session_id}/attach"
        async with LiveStreamer(server.url, path=path, query="audio=false") as side:
            await side.hears("session.started")
            await client.speak(bytes(24_000))
            await side.send("session.start", session={"model": "m"})
            assert (await side.hears("error"))["error"]["code"] == "unsupported_event"
            await client.socket.close()
            closed = await side.hears("session.closed")
            assert closed["reason"] == "remote_hangup"
            assert await side.is_over() == 1000
            assert side.pieces == [] and side.reflected == 0
        with pytest.raises(InvalidStatus) as refused:
            async with LiveStreamer(server.url, path=path):
                pass
        assert refused.value.response.status_code == 404
        assert b"session_not_found" in refused.value.response.body


async def test_an_engine_that_dies_is_told_before_the_end() -> None:
    with Serving() as serving:
        async with LiveStreamer(serving.url) as client:
            await client.start()
            for child in psutil.Process(serving.pid).children():
                if any("engine.process" in word for word in child.cmdline()):
                    child.kill()
            error = (await client.hears("error"))["error"]
            assert (error["type"], error["code"]) == ("server_error", "engine_unavailable")
            assert (await client.hears("session.closed"))["reason"] == "connection_lost"
            assert await client.is_over() == 1000


async def test_hang_up_over_http_and_what_is_not_served(server: Serving) -> None:
    async with LiveStreamer(server.url) as client, aiohttp.ClientSession() as http:
        one = f"{address(server)}{PATH[1:]}/{(await client.start())['session']['id']}"
        for name in ("fork", "accept", "reject", "refer"):
            async with http.post(f"{one}/{name}", json={}) as answer:
                assert answer.status == 501
                assert (await answer.json())["error"]["code"] == "not_supported"
        async with http.get(f"{one}/content") as answer:
            assert answer.status == 404
            assert (await answer.json())["error"]["code"] == "recording_not_found"
        headers = {"Content-Type": "application/json"}
        async with http.post(f"{one}/hangup", headers=headers) as answer:
            assert answer.status == 200 and await answer.read() == b""
        assert (await client.hears("session.closed"))["reason"] == "close_requested"
        assert await client.is_over() == 1000
        async with asyncio.timeout(PATIENCE_S):
            # The client hears of the end before the front does.
            while True:
                async with http.post(f"{one}/hangup") as answer:
                    if answer.status == 404:
                        break


# ------------------------------------------------------------------ WebRTC


async def test_a_browser_talks_over_webrtc_and_pauses_while_it_is_quiet(server: Serving) -> None:
    async with LiveCaller(server.url, idle_timeout_s=2) as caller:
        started = await caller.hears("session.started")
        assert started["session"]["id"] == caller.session_id
        assert caller.events[0] == started
        caller.send("session.input_audio.append", audio="AAA=")
        assert (await caller.hears("error"))["error"]["code"] == "unsupported_event"
        path = f"{PATH}/{caller.session_id}/attach"
        async with LiveStreamer(server.url, path=path) as side:
            await side.hears("session.started")
            await caller.hears("session.paused")
            await side.hears("session.paused")
            assert side.reflected and side.pieces
        caller.voice.say("what_time")
        await caller.hears("session.resumed")
        await caller.hears("session.input_transcript.delta")
        await caller.hears("session.output_transcript.delta")
        caller.send("session.close")
        usage = (await caller.hears("session.closed"))["usage"]
        assert usage["paused_seconds"] + usage["active_seconds"] in range(
            int(usage["seconds"]) - 1, int(usage["seconds"]) + 3
        )
        assert caller.heard_samples > 0
        assert not [e for e in caller.events if e["type"] == "session.output_audio.delta"]


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({}, 400, "session"),
        ({"session": {"model": "m"}}, 400, "transport"),
        ({"session": {"model": "m"}, "transport": {"type": "sip", "sdp": ""}}, 400, None),
        (
            {"session": {"model": "m"}, "transport": {"type": "webrtc", "sdp": "v=1"}},
            400,
            "transport.sdp",
        ),
        (
            {"session": {"model": "m", "x": 1}, "transport": {"type": "webrtc", "sdp": ""}},
            400,
            "session.x",
        ),
    ],
    ids=str,
)
async def test_a_bad_creation_is_refused_by_its_member(
    server: Serving, body: dict[str, Any], status: int, param: str | None
) -> None:
    async with aiohttp.ClientSession() as http:
        async with http.post(f"{address(server)}{PATH[1:]}", json=body) as answer:
            error = (await answer.json())["error"]
            assert answer.status == status and (param is None or error["param"] == param)
        headers = {"Content-Type": "application/sdp"}
        async with http.post(f"{address(server)}{PATH[1:]}", data="v=0", headers=headers) as answer:
            assert answer.status == 415
