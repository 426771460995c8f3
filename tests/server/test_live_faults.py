"""Faults of a running server that its callers live through, with real processes and real peers.

Guards: bad offers are refused with the right status; peers that never connect leave nothing; a
flood is answered and survived; an engine that dies disturbs its own calls only, which go on at
another; a media worker that dies is back in seconds; a queued caller is told and served.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest
from aiortc import RTCConfiguration, RTCPeerConnection, RTCRtpSender

from tests.caller import Caller
from tests.serving import Serving
from tests.waiting import PATIENCE_S
from tests.waiting import until as until_true

pytestmark = pytest.mark.loopback


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    """Two engines of one slot each, so that one can die without the other."""
    with Serving(
        "--set", "engine.count=2", "--set", "engine.slots=2", "--set", "calls.connect_deadline_s=2"
    ) as serving:
        yield serving


async def stats(server: Serving) -> dict[str, Any]:
    _, found = await asyncio.to_thread(server.get, "/api/stats")
    assert isinstance(found, dict)
    return found


async def until(server: Serving, condition: Any, timeout_s: float = PATIENCE_S) -> dict[str, Any]:
    """The statistics once `condition(statistics)` holds."""
    async with asyncio.timeout(timeout_s):
        while True:
            found = await stats(server)
            if condition(found):
                return found
            await asyncio.sleep(0.1)


def nothing_open(found: dict[str, Any]) -> bool:
    return not found["calls"] and found["slots"]["used"] == 0 and found["queue"]["length"] == 0


async def offer(*kinds: str, codec: str | None = None) -> str:
    """An offer with m-lines of these kinds ("data" for a channel)."""
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    for kind in kinds:
        if kind == "data":
            pc.createDataChannel("oai-events")
            continue
        transceiver = pc.addTransceiver(kind)
        if codec is not None:
            codecs = RTCRtpSender.getCapabilities(kind).codecs
            transceiver.setCodecPreferences([c for c in codecs if c.mimeType == codec])
    await pc.setLocalDescription(await pc.createOffer())
    sdp: str = pc.localDescription.sdp
    await pc.close()
    return sdp


async def post(
    server: Serving, body: bytes | str, kind: str = "application/sdp"
) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as http:
        url = server.url + "v1/realtime/calls"
        async with http.post(url, data=body, headers={"Content-Type": kind}) as answer:
            if answer.content_type == "application/json":
                return answer.status, await answer.json()
            return answer.status, await answer.text()


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"", "application/sdp", 400),
        (b"hello, I am not an SDP", "application/sdp", 400),
        (b"\xff\xfe\x00", "application/sdp", 400),
        (b"v=0\r\n" * 200_000, "application/sdp", 413),
        (b"{}", "text/plain", 415),
    ],
)
async def test_bad_offers_are_refused(server: Serving, body: bytes, kind: str, status: int) -> None:
    got, answer = await post(server, body, kind)
    assert got == status, answer
    assert answer["error"]["message"]
    assert nothing_open(await until(server, nothing_open))


async def test_unsupported_codecs_only_are_refused(server: Serving) -> None:
    sdp = await offer("audio", codec="audio/PCMU")
    got, answer = await post(server, sdp)
    assert got == 406, answer


@pytest.mark.parametrize(
    "kinds",
    [("video", "data"), ("audio",), ("audio", "audio", "data"), ("audio", "video"), ("video",)],
    ids="+".join,
)
async def test_unusual_offers_are_answered(server: Serving, kinds: tuple[str, ...]) -> None:
    got, answer = await post(server, await offer(*kinds))
    assert got == 201, answer
    assert answer.count("m=") == len(kinds)
    # None of them ever connects: the deadline must free them.
    await until(server, nothing_open)


async def test_peers_that_never_connect_leave_nothing(server: Serving) -> None:
    async with Caller(server.url) as one, Caller(server.url) as two:
        # From now on the worker holds its links to both engines.
        await one.hears("session.created")
        await two.hears("session.created")
    sdp = await offer("audio", "data")
    worker = server.process("worker")["pid"]
    files = len(os.listdir(f"/proc/{worker}/fd"))
    got = await asyncio.gather(*(post(server, sdp) for _ in range(50)))
    # One caller has a quarter of the places to set up; none of them takes a slot.
    assert {status for status, _ in got} == {201, 429}
    assert sum(status == 201 for status, _ in got) == 16
    assert (await stats(server))["slots"]["used"] == 0
    await until(server, nothing_open)
    assert len(os.listdir(f"/proc/{worker}/fd")) <= files + 2
    async with Caller(server.url) as caller:
        await caller.hears("session.created")


async def test_flood_of_events_is_survived(server: Serving) -> None:
    sent = 1500
    async with Caller(server.url) as caller:
        await caller.hears("session.created")
        for _ in range(sent):
            caller.channel.send('{"type": "no.such.event"}')

        def answered() -> int:
            """Events that were refused by name, and those of which it is told that they are not."""
            errors = [e["error"] for e in caller.events if e["type"] == "error"]
            dropped = [e["message"] for e in errors if e["code"] == "rate_limited"]
            told = re.search(r"(\d+) events were dropped", dropped[-1]) if dropped else None
            return len([e for e in errors if e["param"] == "type"]) + int(told[1] if told else 0)

        await until_true(lambda: answered() == sent, 60)
        await asyncio.sleep(1.0)
        caller.type("What is 2 plus 2?")
        done = await caller.hears("response.output_audio_transcript.done")
        assert "4" in done["transcript"]


async def test_malformed_events_name_the_field(server: Serving) -> None:
    async with Caller(server.url) as caller:
        await caller.hears("session.created")
        caller.channel.send("{not json")
        assert (await caller.hears("error"))["error"]["code"] == "invalid_json"
        caller.send("session.update", event_id="mine", session={"instructions": 7})
        error = (await caller.hears("error", count=2))["error"]
        assert error["param"] == "session.instructions"
        assert error["event_id"] == "mine"
        caller.send("session.update", session={"type": "realtime", "instructions": "Be brief."})
        updated = await caller.hears("session.updated")
        assert updated["session"]["instructions"] == "Be brief."


async def test_engine_killed_in_an_answer_disturbs_only_its_calls(server: Serving) -> None:
    async with Caller(server.url) as one, Caller(server.url) as two:
        await one.hears("session.created")
        await two.hears("session.created")
        found = await until(server, lambda s: len(s["calls"]) == 2)
        engines = {call["call_id"]: call["engine"] for call in found["calls"]}
        mine = engines[one.location.rsplit("/", 1)[1]]
        assert len(set(engines.values())) == 2, "two calls on two engines"
        one.type("Tell me a story")
        two.type("Tell me a story")
        await one.hears("output_audio_buffer.started")
        await two.hears("output_audio_buffer.started")
        pid = next(p["pid"] for p in found["processes"] if p["name"] == mine)
        os.kill(pid, signal.SIGKILL)
        done = await one.hears("response.done")
        assert done["response"]["status"] == "cancelled"
        assert (await one.hears("session.warning"))["code"] == "engine_lost"
        assert (await one.hears("session.resumed"))["kept"] == "words"
        before = two.loud_samples
        await asyncio.sleep(1.5)
        assert two.loud_samples > before, "the other engine's answer goes on"
        for caller in (one, two):
            assert not caller.of("session.ended")
    await until(server, lambda s: all(p["state"] == "ready" for p in s["processes"]))
    restarts = {p["name"]: p["restarts"] for p in (await stats(server))["processes"]}
    assert restarts[mine] == 1
    await until(server, nothing_open)


async def test_media_worker_killed_is_back_in_seconds(server: Serving) -> None:
    async with Caller(server.url) as caller:
        await caller.hears("session.created")
        os.kill(server.process("worker")["pid"], signal.SIGKILL)
        await until(server, lambda s: s["ready"] and not s["calls"])
        async with Caller(server.url) as again:
            await again.hears("session.created")
    # The dead worker's sessions hold engine slots until its silence is noticed.
    await until(server, nothing_open)


async def test_waiting_caller_is_told_and_then_served(server: Serving) -> None:
    async with (
        Caller(server.url) as one,
        Caller(server.url),
        Caller(server.url),
        Caller(server.url),
    ):
        await one.hears("session.created")
        async with Caller(server.url) as waiting:
            queued = await waiting.hears("session.queued")
            assert queued["position"] == 1
            assert await one.hang_up() == 200
            await waiting.hears("session.created")
    await until(server, nothing_open)


async def test_offers_that_never_connect_keep_no_real_caller_waiting() -> None:
    options = ("--engine", "echo", "--set", "engine.slots=1", "--set", "calls.max_queue=0")
    with Serving(*options) as serving:
        sdp = await offer("audio", "data")
        assert [(await post(serving, sdp))[0] for _ in range(8)] == [201] * 8
        async with Caller(serving.url) as caller:
            await caller.hears("session.created")
            found = await stats(serving)
            assert found["slots"]["used"] == 1 and len(found["calls"]) == 9


async def test_stopping_server_tells_its_callers() -> None:
    with Serving("--engine", "echo") as serving:
        async with Caller(serving.url) as caller:
            await caller.hears("session.created")
            await asyncio.to_thread(serving.stop)
            ended = await caller.hears("session.ended")
            assert ended["reason"] == "server_shutdown"
