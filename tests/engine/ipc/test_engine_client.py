"""Clients: a line per session, and what each hears when the engine is full, silent or dead.

Guarded: refusals as exceptions of their own; routing; `EngineGone` once per line and for everybody
who waits; a line's close waits for the engine's word, but not for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from engine.host import Host
from engine.ipc import engine_client as client_module
from engine.ipc import transport as link
from engine.ipc.engine_client import (
    SILENCE_LIMIT_S,
    SILENT_S,
    EngineClient,
    EngineFull,
    EngineGone,
    EngineSessionLink,
)
from engine.ipc.protocol import (
    AudioIn,
    CloseSession,
    DeleteItem,
    Heard,
    Pong,
    Refused,
    SessionConfig,
    SessionEnded,
    SessionOpened,
    TextOut,
)
from engine.ipc.transport import encode
from tests import virtual_time
from tests.engine.fakes import FakeEngine, item, welcome
from tests.engine.ipc.raw_peer import router
from tests.waiting import Clock, until


class Call:
    """What one session hears."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.gone: list[str] = []
        self.silences: list[bool] = []

    async def open(self, client: EngineClient, session: str, **config: Any) -> EngineSessionLink:
        return await client.open(
            session,
            SessionConfig(**config),
            on_message=self.messages.append,
            on_gone=self.gone.append,
            on_silence=self.silences.append,
        )


class Served:
    """A client connected to a real host of a fake engine."""

    def __init__(self, endpoint: str) -> None:
        self.engine = FakeEngine()
        self.host = Host(self.engine, endpoint, 2)
        self.clock = Clock()
        self.client = EngineClient(endpoint, name="worker", clock=self.clock)


@pytest.fixture
def endpoint(tmp_path: Path) -> str:
    return f"ipc://{tmp_path}/engine"


@pytest.fixture
async def served(endpoint: str) -> AsyncIterator[Served]:
    served = Served(endpoint)
    assert await served.client.connect() == welcome(2)
    yield served
    served.client.close()
    for session in served.engine.sessions.values():
        session.may_close.set()
    await served.host.close()


class Silent:
    """An engine that says what it is told to, and never anything by itself."""

    def __init__(self, endpoint: str) -> None:
        self.clock = Clock()
        self.client = EngineClient(endpoint, name="worker", clock=self.clock)
        self.raw = router(endpoint)
        self.peer = b""

    async def connect(self) -> None:
        connecting = asyncio.create_task(self.client.connect())
        self.peer = (await self.raw.receive())[0]
        self.raw.send(self.peer, encode(welcome(2)))
        await connecting

    async def open(self, call: Call, session: str) -> EngineSessionLink:
        opening = asyncio.create_task(call.open(self.client, session))
        await self.raw.receive()
        self.raw.send(self.peer, encode(SessionOpened(session, 0)))
        return await opening


@pytest.fixture
async def silent(endpoint: str) -> AsyncIterator[Silent]:
    silent = Silent(endpoint)
    await silent.connect()
    yield silent
    silent.client.close()
    silent.raw.close()


# ---------------------------------------------------------------- connecting


async def test_nobody_at_the_address_is_engine_gone(endpoint: str) -> None:
    client = EngineClient(endpoint, name="worker")
    with pytest.raises(EngineGone, match="no answer within 0.02 s"):
        await client.connect(timeout_s=0.02)
    assert client.is_gone and not client.send(CloseSession("a"))


async def test_engine_of_another_version_is_gone_with_its_reason(endpoint: str) -> None:
    with router(endpoint) as raw:
        client = EngineClient(endpoint, name="worker")
        connecting = asyncio.create_task(client.connect())
        peer = (await raw.receive())[0]
        raw.send(peer, encode(Refused("version", "protocol version 1 is not ours, 2")))
        with pytest.raises(EngineGone, match="refused: protocol version 1 is not ours, 2"):
            await connecting


async def test_engine_that_speaks_garbage_is_gone(endpoint: str) -> None:
    with router(endpoint) as raw:
        client = EngineClient(endpoint, name="worker")
        connecting = asyncio.create_task(client.connect())
        raw.send((await raw.receive())[0], b"\xff\xfe")
        with pytest.raises(EngineGone, match="unreadable message"):
            await connecting


# ---------------------------------------------------------------- sessions


async def test_lines_hear_their_own_session_only(served: Served) -> None:
    one, two = Call(), Call()
    await one.open(served.client, "a")
    await two.open(served.client, "b")
    served.engine.sessions["b"].send(TextOut("b", 1, 0, "to b"))
    served.engine.sessions["a"].send(TextOut("a", 1, 0, "to a"))
    served.engine.sessions["a"].send(TextOut("a", 1, 9, "again"))
    await until(lambda: len(one.messages) == 2 and two.messages)
    assert one.messages == [TextOut("a", 1, 0, "to a"), TextOut("a", 1, 9, "again")]
    assert two.messages == [TextOut("b", 1, 0, "to b")]


async def test_what_a_line_sends_reaches_its_session_with_its_configuration(
    served: Served,
) -> None:
    line = await Call().open(served.client, "a", mode="turn_based", voice="two")
    assert line.opened.result() == SessionOpened("a", 0)
    assert line.send(AudioIn("a", 0, b"\1\2")) and line.send(item("a", "x"))
    session = served.engine.sessions["a"]
    await until(lambda: len(session.heard) == 2)
    assert session.heard == [AudioIn("a", 0, b"\1\2"), item("a", "x")]
    assert session.config == SessionConfig(mode="turn_based", voice="two")


async def test_full_engine_is_no_free_slot_until_a_line_closes(served: Served) -> None:
    first = await Call().open(served.client, "a")
    await Call().open(served.client, "b")
    with pytest.raises(EngineFull, match="all 2 slots are in use"):
        await Call().open(served.client, "c")
    await first.close()
    await Call().open(served.client, "c")


async def test_refused_configuration_is_a_value_error_with_the_reason(served: Served) -> None:
    with pytest.raises(ValueError, match="this engine takes no such instructions"):
        await Call().open(served.client, "a", instructions="refuse")
    await Call().open(served.client, "a")


async def test_session_opened_twice_keeps_its_first_line(served: Served) -> None:
    first = Call()
    line = await first.open(served.client, "a")
    with pytest.raises(ValueError, match="open already"):
        await Call().open(served.client, "a")
    served.engine.sessions["a"].send(TextOut("a", 1, 0, "still here"))
    await until(lambda: first.messages)
    assert line.is_open


async def test_close_waits_until_the_engine_says_the_slot_is_free(served: Served) -> None:
    line = await Call().open(served.client, "a")
    session = served.engine.sessions["a"]
    session.may_close.clear()
    closing = asyncio.create_task(line.close())
    await session.closing.wait()
    await asyncio.sleep(0)
    assert not closing.done() and served.host.slots.used == 1
    session.may_close.set()
    await closing
    assert served.host.slots.used == 0
    await line.close()


async def test_closed_line_takes_and_delivers_nothing(served: Served) -> None:
    call = Call()
    line = await call.open(served.client, "a")
    session = served.engine.sessions["a"]
    session.may_close.clear()
    closing = asyncio.create_task(line.close())
    await session.closing.wait()
    assert not line.send(item("a", "late"))
    session.send(TextOut("a", 1, 0, "late"))
    session.may_close.set()
    await closing
    assert call.messages == [] and call.gone == [] and session.heard == []


async def test_close_does_not_wait_for_ever(
    silent: Silent, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(client_module, "CLOSE_TIMEOUT_S", 0.01)
    line = await silent.open(Call(), "a")
    await line.close()
    assert "did not confirm the end of session a" in caplog.text
    assert not line.is_open


async def test_end_said_by_the_engine_is_delivered_and_closes_the_line(served: Served) -> None:
    call = Call()
    line = await call.open(served.client, "a")
    line.send(item("a", "bye"))
    await until(lambda: call.messages)
    assert call.messages == [SessionEnded("a", "goodbye", "bye")]
    assert not line.is_open and not line.send(item("a", "x"))
    await line.close()
    assert call.gone == []


async def test_failing_session_leaves_the_others_alone(served: Served) -> None:
    bad, good = Call(), Call()
    line = await bad.open(served.client, "a")
    other = await good.open(served.client, "b")
    line.send(item("a", "bug"))
    await until(lambda: bad.messages)
    assert bad.messages[0].reason == "failed" and bad.gone == []
    other.send(item("b", "x"))
    await until(lambda: served.engine.sessions["b"].heard)
    assert other.is_open and good.gone == []


async def test_cancelled_open_gives_the_slot_back(silent: Silent) -> None:
    call = Call()
    opening = asyncio.create_task(call.open(silent.client, "a"))
    await silent.raw.receive()
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert (await silent.raw.receive())[-1] == encode(CloseSession("a"))
    # The engine's late answer is nobody's.
    silent.raw.send(silent.peer, encode(SessionOpened("a", 0)))
    await silent.open(Call(), "b")
    assert call.messages == []


async def test_unanswered_open_is_engine_gone_and_gives_the_slot_back(
    silent: Silent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "OPEN_TIMEOUT_S", 0.01)
    opening = asyncio.create_task(Call().open(silent.client, "a"))
    await asyncio.sleep(0)
    silent.clock.now += 0.1
    with pytest.raises(EngineGone, match="no slot within 0.01 s"):
        await opening
    assert b"OpenSession" in (await silent.raw.receive())[-1]
    assert (await silent.raw.receive())[-1] == encode(CloseSession("a"))


class PaperDialer:
    """A link to an engine that is stopped: it takes everything, and the test answers."""

    def __init__(self, *args: object, on_message: Callable[[Any], None], **more: object) -> None:
        self.hear = on_message

    def send(self, message: object) -> bool:
        return True

    def close(self) -> None:
        pass


@pytest.mark.parametrize("standstill_s", [8.0, 60.0])
def test_stopped_engine_is_waited_for_as_long_as_it_counts_as_alive(
    standstill_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "Dialer", PaperDialer)

    async def opened_after_s() -> float:
        loop = asyncio.get_running_loop()
        client = EngineClient("ipc:///none", name="worker", clock=loop.time)

        def engine() -> PaperDialer:
            dialer = client._dialer
            assert isinstance(dialer, PaperDialer)
            return dialer

        # Stopped while it is dialled, and again while it is asked for a slot.
        loop.call_later(8.0, lambda: engine().hear(welcome(2)))
        await client.connect()
        keeping = asyncio.create_task(client.run())
        begun = loop.time()
        loop.call_later(standstill_s, lambda: engine().hear(SessionOpened("a", 0)))
        try:
            await Call().open(client, "a")
        finally:
            keeping.cancel()
        return loop.time() - begun

    if standstill_s < SILENCE_LIMIT_S:
        assert virtual_time.run(opened_after_s) == pytest.approx(standstill_s, abs=0.1)
    else:
        with pytest.raises(EngineGone, match="no sign of life"):
            virtual_time.run(opened_after_s)


# ---------------------------------------------------------------- the end of an engine


async def test_silent_engine_is_gone_for_every_line(
    silent: Silent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "TICK_S", 0.001)
    one, two = Call(), Call()
    line = await silent.open(one, "a")
    await silent.open(two, "b")
    pinging = asyncio.create_task(silent.client.run())
    assert b"Ping" in (await silent.raw.receive())[-1]
    begun = silent.clock.now
    while not silent.client.is_gone:
        silent.clock.now += 0.5
        await asyncio.sleep(0.005)
    await pinging
    assert silent.clock.now - begun > SILENCE_LIMIT_S
    assert len(one.gone) == 1 and one.gone == two.gone
    silence_s = float(one.gone[0].removeprefix("no sign of life for ").removesuffix(" s"))
    assert SILENCE_LIMIT_S < silence_s <= SILENCE_LIMIT_S + 2.0
    assert not line.is_open and not line.send(item("a", "x"))
    with pytest.raises(EngineGone, match="no sign of life"):
        await Call().open(silent.client, "c")


async def test_silence_of_an_engine_is_told_once_and_so_is_its_end(
    silent: Silent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "TICK_S", 0.001)
    one = Call()
    await silent.open(one, "a")
    pinging = asyncio.create_task(silent.client.run())
    begun = silent.clock.now
    while not one.silences:
        silent.clock.now += 0.5
        await asyncio.sleep(0.005)
    assert SILENT_S < silent.clock.now - begun <= SILENT_S + 2.0
    await asyncio.sleep(0.02)
    assert one.silences == [True] and not silent.client.is_gone
    silent.raw.send(silent.peer, encode(Pong(1)))
    await until(lambda: one.silences == [True, False])
    silent.clock.now += 1.5
    await asyncio.sleep(0.02)
    assert one.silences == [True, False], "less than the limit since its last sign"
    silent.client.close()
    await pinging


async def test_answering_engine_is_never_gone(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "TICK_S", 0.001)
    call = Call()
    await call.open(served.client, "a")
    session = served.engine.sessions["a"]
    pinging = asyncio.create_task(served.client.run())
    for n in range(5):
        served.clock.now += SILENCE_LIMIT_S
        session.send(TextOut("a", 1, n, "alive"))
        await until(lambda n=n: len(call.messages) == n + 1)  # type: ignore[misc]
    assert not pinging.done() and call.gone == []
    pinging.cancel()


async def test_own_standstill_is_not_taken_for_the_engines_death(
    silent: Silent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "TICK_S", 0.001)
    call = Call()
    line = await silent.open(call, "a")
    pinging = asyncio.create_task(silent.client.run())
    for stood_still_s in (4.6, 8.0, 100.0, 3600.0):
        silent.clock.now += stood_still_s
        for _ in range(3):
            assert b"Ping" in (await silent.raw.receive())[-1]
        # What the engine said meanwhile is read after the first check.
        silent.raw.send(silent.peer, encode(Pong(1)))
        await until(lambda: silent.client._patience.silent_s == 0.0)
    assert line.is_open and call.gone == [] and not pinging.done()
    pinging.cancel()


async def test_dying_engine_is_told_once_to_every_line_and_everybody_who_waits(
    endpoint: str,
) -> None:
    silent = Silent(endpoint)
    await silent.connect()
    one, two = Call(), Call()
    line = await silent.open(one, "a")
    waiting = asyncio.create_task(two.open(silent.client, "b"))
    await silent.raw.receive()
    silent.raw.close()
    with pytest.raises(EngineGone, match="the far end closed the link"):
        await waiting
    await until(lambda: one.gone)
    silent.client.lost("and once more")
    assert one.gone == ["the far end closed the link"] and two.gone == []
    await line.close()
    await silent.client.run()


async def test_line_that_is_closing_is_not_told_that_the_engine_is_gone(silent: Silent) -> None:
    call = Call()
    line = await silent.open(call, "a")
    closing = asyncio.create_task(line.close())
    await silent.raw.receive()
    silent.client.lost("killed")
    await closing
    assert call.gone == []


async def test_closing_the_client_ends_its_sessions_in_the_engine(served: Served) -> None:
    call = Call()
    line = await call.open(served.client, "a")
    served.client.close()
    served.client.close()
    await served.engine.sessions["a"].closing.wait()
    assert not line.is_open and call.gone == [] and call.messages == []
    with pytest.raises(EngineGone):
        await Call().open(served.client, "b")


async def test_an_engine_that_does_not_keep_up_refuses_the_end_of_what_was_heard(
    endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of sound and progress the next message shows what is missing; of the end none does."""
    monkeypatch.setattr(link, "HIGH_WATER_MESSAGES", 10)
    with router(endpoint, receive_limit=10) as raw:
        client = EngineClient(endpoint, name="worker")
        connecting = asyncio.create_task(client.connect())
        peer, _ = await raw.receive()
        raw.send(peer, encode(welcome(2)))
        await connecting
        deleting = DeleteItem("a", "x" * 32_000)
        await until(lambda: not any(client.send(deleting) for _ in range(20)))
        assert client.send(Heard("a", 1, 480))
        assert not client.send(Heard("a", 1, 480, final=True))
        client.close()
