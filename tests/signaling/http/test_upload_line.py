"""The line of uploads: fair to callers and calls, and nobody is in the way by standing still."""

from __future__ import annotations

import asyncio

import pytest

from signaling.awake import AwakeClock
from signaling.errors import NoFreeSlot, ProtocolError
from signaling.http import bodies, upload_line
from signaling.http.bodies import STEP_BYTES
from signaling.http.upload_line import (
    MAX_UPLOADS,
    MAX_WAITING_OF_CALL,
    STALL_S,
    WAIT_S,
    Upload,
    UploadLine,
)
from tests.waiting import Clock, until


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload_line, "CHECK_S", 0.005)


class Uploading:
    """Uploads that go on until the test ends them, or the line does."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.line = UploadLine(self.clock)
        self.begun: dict[str, Upload] = {}
        self.ended: dict[str, BaseException | None] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def start(self, name: str, caller: str, call_id: str = "") -> None:
        task = asyncio.create_task(self._upload(name, caller, call_id or name))
        self._tasks[name] = task
        await asyncio.sleep(0.01)

    async def end(self, name: str) -> None:
        self._tasks[name].cancel()
        await until(lambda: name in self.ended)
        await asyncio.sleep(0.01)

    async def _upload(self, name: str, caller: str, call_id: str) -> None:
        error: BaseException | None = None
        try:
            async with self.line.place(call_id, caller) as upload:
                self.begun[name] = upload
                async with asyncio.timeout(None) as timer:
                    upload.progress.begin(timer)
                    await asyncio.Event().wait()
        except (TimeoutError, ProtocolError, NoFreeSlot, asyncio.CancelledError) as caught:
            error = caught
        self.ended[name] = error


async def test_caller_has_half_of_the_places_and_a_call_one() -> None:
    going = Uploading()
    await going.start("a1", "a")
    await going.start("a1-again", "a", call_id="a1")
    assert list(going.begun) == ["a1"]
    await going.start("a2", "a")
    await going.start("a3", "a")
    await going.start("b1", "b")
    assert list(going.begun) == ["a1", "a2", "b1"]
    await going.end("a1")
    assert list(going.begun)[3:] == ["a1-again"], "it was first in line"


async def test_upload_that_stands_still_goes_when_another_waits() -> None:
    going = Uploading()
    for name in ("a1", "a2", "b1", "b2"):
        await going.start(name, name[0])
        going.clock.now += 0.1
    assert len(going.begun) == MAX_UPLOADS
    going.clock.now += STALL_S
    for name in ("a1", "b1", "b2"):
        going.begun[name].progress.got(STEP_BYTES)
    assert going.ended == {}, "nobody waits"
    await going.start("c1", "c")
    await until(lambda: "c1" in going.begun)
    assert list(going.ended) == ["a2"] and isinstance(going.ended["a2"], TimeoutError)
    await going.start("d1", "d")
    going.clock.now += STALL_S / 2
    await asyncio.sleep(0.03)
    assert "d1" not in going.begun, "the others go on"


async def test_upload_that_is_complete_is_never_dropped() -> None:
    going = Uploading()
    for name in ("a1", "a2", "b1", "b2"):
        await going.start(name, name[0])
        going.begun[name].is_received = True
        going.begun[name].progress.end()
    going.clock.now += 10 * STALL_S
    await going.start("c1", "c")
    await asyncio.sleep(0.03)
    assert going.ended == {} and "c1" not in going.begun
    going.clock.now += WAIT_S
    await until(lambda: "c1" in going.ended)
    assert isinstance(going.ended["c1"], NoFreeSlot)


async def test_few_of_a_call_may_wait() -> None:
    going = Uploading()
    for n in range(1 + MAX_WAITING_OF_CALL):
        await going.start(f"a{n}", "a", call_id="call")
    await going.start("more", "a", call_id="call")
    error = going.ended["more"]
    assert isinstance(error, ProtocolError) and error.status == 429
    await going.start("other", "b")
    assert "other" in going.begun


async def test_upload_that_stands_still_goes_when_another_of_its_caller_or_call_waits() -> None:
    going = Uploading()
    await going.start("a1", "a")
    await going.start("a2", "a")
    await going.start("a3", "a")
    await going.start("a2-again", "a", call_id="a2")
    assert list(going.begun) == ["a1", "a2"]
    going.clock.now += 2 * STALL_S
    await until(lambda: "a3" in going.begun and "a2-again" in going.begun)
    assert set(going.ended) == {"a1", "a2"}


async def test_standstill_of_the_server_drops_no_upload_and_sends_nobody_away() -> None:
    paused = Clock()
    going = Uploading()
    going.line = UploadLine(AwakeClock(0.25, paused))
    for name in ("a1", "a2"):
        await going.start(name, "a")
    await going.start("a3", "a")
    paused.now += WAIT_S + STALL_S
    await asyncio.sleep(0.05)
    assert going.ended == {} and "a3" not in going.begun
    for _ in range(10):
        paused.now += 0.25
        await asyncio.sleep(0.02)
    await until(lambda: "a3" in going.begun)
    assert list(going.ended) == ["a1"], "it stands still while the server does not"


async def test_standstill_of_the_server_ends_no_body(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "LOOK_S", 0.01)
    paused = Clock()
    progress = bodies.BodyProgress(clock=AwakeClock(0.25, paused))
    async with asyncio.timeout(None) as timer:
        progress.begin(timer)
        paused.now += 10 * bodies.BODY_S
        await asyncio.sleep(0.1)
        progress.end()
    progress = bodies.BodyProgress(clock=paused)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(None) as timer:
            progress.begin(timer)
            paused.now += bodies.STEP_S
            await asyncio.sleep(5.0)
