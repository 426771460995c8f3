"""Hosts: slots, routing, and that whatever fails costs as little as possible.

Guarded: who gets a slot and who is refused why; a message reaches its session and no other; a
failing session ends alone; slots come back after errors, silence and death of a media worker; a
session is told of its end, and only once its slot is free.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine import host as host_module
from engine.base import Engine
from engine.host import PEER_SILENCE_S, Host
from engine.ipc import transport as link
from engine.ipc.item_chunks import cut
from engine.ipc.protocol import (
    VERSION,
    AudioIn,
    AudioOut,
    CloseSession,
    FromEngine,
    Hello,
    ItemIn,
    ItemPiece,
    OpenSession,
    Ping,
    Pong,
    Refused,
    SessionConfig,
    SessionEnded,
    SessionOpened,
    SessionRefused,
    SessionWarning,
    TextOut,
    UnitDone,
    UpdateSession,
    VideoPart,
)
from tests.engine.fakes import FakeEngine, item, welcome
from tests.engine.ipc.raw_peer import RawPeer, dealer
from tests.waiting import Clock, until


class Setup:
    """A host with two slots, and who dials it."""

    def __init__(self, endpoint: str) -> None:
        self.engine = FakeEngine()
        self.clock = Clock()
        self.host = Host(self.engine, endpoint, 2, clock=self.clock)
        self._dialled: list[RawPeer] = []

    async def dial(self, name: str = "raw", *, receive_limit: int = 1000) -> RawPeer:
        raw = dealer(self.host.endpoint, receive_limit=receive_limit)
        self._dialled.append(raw)
        raw.say(Hello(VERSION, name))
        assert await receive(raw) == welcome(2)
        return raw

    async def open(self, raw: RawPeer, session: str, **config: Any) -> Any:
        raw.say(OpenSession(session, SessionConfig(**config)))
        return await receive(raw)

    def close(self) -> None:
        for raw in self._dialled:
            raw.close()


async def receive(raw: RawPeer) -> Any:
    return msgspec.msgpack.decode((await raw.receive())[-1], type=FromEngine)


@pytest.fixture
async def setup(tmp_path: Path) -> AsyncIterator[Setup]:
    setup = Setup(f"ipc://{tmp_path}/host")
    yield setup
    setup.close()
    for session in setup.engine.sessions.values():
        session.may_close.set()
    await setup.host.close()


def test_the_fake_is_an_engine() -> None:
    engine: Engine = FakeEngine()
    assert engine.welcome(3).slots == 3


async def test_sessions_get_different_slots_until_none_is_free(setup: Setup) -> None:
    raw = await setup.dial()
    assert await setup.open(raw, "a") == SessionOpened("a", 0)
    assert await setup.open(raw, "b") == SessionOpened("b", 1)
    refused = await setup.open(raw, "c")
    assert refused == SessionRefused("c", "no_free_slot", "all 2 slots are in use")
    assert setup.host.slots.used == 2


async def test_session_of_the_same_id_is_refused_and_the_first_lives_on(setup: Setup) -> None:
    raw = await setup.dial()
    await setup.open(raw, "a")
    assert (await setup.open(raw, "a")).code == "duplicate"
    raw.say(item("a", "x"))
    await until(lambda: setup.engine.sessions["a"].heard)
    assert setup.host.slots.used == 1


async def test_same_id_from_two_media_workers_are_two_sessions(setup: Setup) -> None:
    one, two = await setup.dial(), await setup.dial()
    await setup.open(one, "a")
    first = setup.engine.sessions["a"]
    assert await setup.open(two, "a") == SessionOpened("a", 1)
    two.say(item("a", "x"))
    await until(lambda: setup.engine.sessions["a"].heard)
    assert first.heard == []
    first.send(TextOut("a", 1, 0, "for the first"))
    assert await receive(one) == TextOut("a", 1, 0, "for the first")


async def test_configuration_the_engine_cannot_serve_is_refused_with_its_reason(
    setup: Setup,
) -> None:
    raw = await setup.dial()
    refused = await setup.open(raw, "a", instructions="refuse")
    assert refused == SessionRefused("a", "unsupported", "this engine takes no such instructions")
    assert setup.host.slots.used == 0


async def test_bug_while_opening_is_refused_and_keeps_no_slot(
    setup: Setup, caplog: pytest.LogCaptureFixture
) -> None:
    raw = await setup.dial()
    refused = await setup.open(raw, "a", instructions="bug")
    assert refused == SessionRefused("a", "failed", "internal error of the engine")
    assert setup.host.slots.used == 0 and "a bug in open" in caplog.text
    assert isinstance(await setup.open(raw, "a"), SessionOpened)


async def test_messages_reach_their_session_in_order_and_no_other(setup: Setup) -> None:
    raw = await setup.dial()
    await setup.open(raw, "a")
    await setup.open(raw, "b")
    told = [
        AudioIn("a", 0, b"\0\0"),
        item("a", "x"),
        UpdateSession("a", SessionConfig(mode="turn_based")),
        AudioIn("a", 1, b"\1\0"),
    ]
    for message in told:
        raw.say(message)
    raw.say(item("nobody", "y"))
    raw.say(item("b", "last"))
    await until(lambda: setup.engine.sessions["b"].heard)
    assert setup.engine.sessions["a"].heard == told
    assert setup.engine.sessions["b"].heard == [item("b", "last")]


async def test_item_in_pieces_reaches_its_session_whole(setup: Setup) -> None:
    raw = await setup.dial()
    await setup.open(raw, "one")
    large = ItemIn("one", "film", "user", (VideoPart(bytes(700_000)),))
    pieces = cut(large)
    assert len(pieces) == 3
    raw.say(pieces[1])
    told = await receive(raw)
    assert isinstance(told, SessionWarning) and told.code == "bad_item"
    for piece in pieces:
        raw.say(piece)
    raw.say(ItemPiece("nobody", b"", True, True))
    heard = setup.engine.sessions["one"].heard
    await until(lambda: heard)
    assert heard == [large]


async def test_failing_session_ends_alone(setup: Setup, caplog: pytest.LogCaptureFixture) -> None:
    raw = await setup.dial()
    await setup.open(raw, "a")
    await setup.open(raw, "b")
    raw.say(item("a", "bug"))
    assert await receive(raw) == SessionEnded("a", "failed", "internal error of the engine")
    assert caplog.text.count("RuntimeError: a bug in the engine") == 1
    raw.say(item("b", "x"))
    await until(lambda: setup.engine.sessions["b"].heard)
    assert setup.host.slots.used == 1 and setup.engine.sessions["a"].closing.is_set()
    assert await setup.open(raw, "c") == SessionOpened("c", 0)


async def test_session_may_end_itself(setup: Setup) -> None:
    raw = await setup.dial()
    await setup.open(raw, "a")
    raw.say(item("a", "bye"))
    assert await receive(raw) == SessionEnded("a", "goodbye", "bye")
    assert setup.host.slots.used == 0


async def test_closing_is_confirmed_once_the_slot_is_free(setup: Setup) -> None:
    raw = await setup.dial()
    await setup.open(raw, "a")
    session = setup.engine.sessions["a"]
    session.may_close.clear()
    raw.say(CloseSession("a"))
    await session.closing.wait()
    raw.say(Ping(1))
    assert await receive(raw) == Pong(1), "the end was confirmed while the slot was occupied"
    assert setup.host.slots.used == 1
    session.may_close.set()
    assert await receive(raw) == SessionEnded("a", "closed")
    assert setup.host.slots.used == 0


async def test_closing_twice_is_confirmed_once(setup: Setup) -> None:
    raw = await setup.dial()
    await setup.open(raw, "a")
    for message in (CloseSession("a"), CloseSession("a"), CloseSession("nobody")):
        raw.say(message)
    assert await receive(raw) == SessionEnded("a", "closed")
    raw.say(Ping(9))
    assert await receive(raw) == Pong(9)


async def test_slot_comes_back_even_if_closing_fails(
    setup: Setup, caplog: pytest.LogCaptureFixture
) -> None:
    raw = await setup.dial()
    await setup.open(raw, "a")
    setup.engine.sessions["a"].close_error = OSError("the disk is on fire")
    raw.say(CloseSession("a"))
    assert await receive(raw) == SessionEnded("a", "closed")
    assert setup.host.slots.used == 0 and "the disk is on fire" in caplog.text


async def test_silent_media_worker_loses_its_sessions_and_the_slots_come_back(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_module, "TICK_S", 0.001)
    sweeping = asyncio.create_task(setup.host.run())
    silent, lively = await setup.dial(), await setup.dial()
    await setup.open(silent, "a")
    await setup.open(lively, "b")
    begun = setup.clock.now
    while setup.host.slots.used == 2:
        setup.clock.now += 0.5
        lively.say(Ping(1))
        assert await receive(lively) == Pong(1)
        await asyncio.sleep(0.002)
    assert setup.clock.now - begun > PEER_SILENCE_S
    assert setup.engine.sessions["a"].closing.is_set()
    assert not setup.engine.sessions["b"].closing.is_set()
    # Should it wake up again, it is told to start anew.
    silent.say(AudioIn("a", 0, b"\0\0"))
    assert (await receive(silent)).code == "hello_expected"
    assert setup.engine.sessions["a"].heard == []
    sweeping.cancel()


async def test_what_a_dead_media_worker_asked_for_last_takes_no_slot(setup: Setup) -> None:
    setup.host.worker_gone("worker-0#1")
    # Its messages were still on their way.
    late = dealer(setup.host.endpoint)
    late.say(Hello(VERSION, "worker-0#1"))
    late.say(OpenSession("a", SessionConfig()))
    assert (await receive(late)).code == "hello_expected"
    assert setup.host.slots.used == 0 and setup.engine.sessions == {}
    late.close()
    next_life = await setup.dial("worker-0#2")
    assert await setup.open(next_life, "a") == SessionOpened("a", 0)


async def test_pings_keep_a_quiet_media_worker(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_module, "TICK_S", 0.001)
    sweeping = asyncio.create_task(setup.host.run())
    raw = await setup.dial()
    await setup.open(raw, "a")
    for n in range(int(4 * PEER_SILENCE_S)):
        setup.clock.now += 1.0
        if n % 8 == 0:
            raw.say(Ping(n))
            assert await receive(raw) == Pong(n)
        await asyncio.sleep(0.002)
    assert setup.host.slots.used == 1
    sweeping.cancel()


async def test_media_worker_that_takes_nothing_loses_its_sessions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "HIGH_WATER_MESSAGES", 10)
    setup = Setup(f"ipc://{tmp_path}/full")
    stuck, good = await setup.dial(receive_limit=10), await setup.dial()
    await setup.open(stuck, "a")
    await setup.open(good, "b")
    session = setup.engine.sessions["a"]
    for n in range(5000):
        if session.closing.is_set():
            break
        session.send(AudioOut("a", 1, n * 16_000, b"\0" * 32_000))
        await asyncio.sleep(0)
    assert session.closing.is_set(), "5000 chunks were queued for a worker that takes none"
    await until(lambda: setup.host.slots.used == 1)
    setup.engine.sessions["b"].send(TextOut("b", 1, 0, "fine here"))
    assert await receive(good) == TextOut("b", 1, 0, "fine here")
    setup.close()
    await setup.host.close()


async def test_media_worker_that_sends_garbage_is_refused_and_may_start_anew(setup: Setup) -> None:
    raw = await setup.dial()
    raw.send(b"\xc1")
    assert isinstance(await receive(raw), Refused)
    raw.hello()
    assert await receive(raw) == welcome(2)


async def test_refused_media_worker_loses_its_sessions_and_the_slots_come_back(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_module, "TICK_S", 0.001)
    bad, good = await setup.dial(), await setup.dial()
    await setup.open(bad, "a")
    await setup.open(good, "b")
    bad.send(b"\xc1")
    assert isinstance(await receive(bad), Refused)
    sweeping = asyncio.create_task(setup.host.run())
    await until(lambda: setup.host.slots.used == 1)
    assert setup.engine.sessions["a"].closing.is_set()
    assert not setup.engine.sessions["b"].closing.is_set()
    sweeping.cancel()


async def test_media_worker_that_died_loses_its_sessions_at_once(setup: Setup) -> None:
    dead, good = await setup.dial("worker-0#1"), await setup.dial("worker-1#1")
    await setup.open(dead, "a")
    await setup.open(good, "b")
    setup.host.worker_gone("worker-0#1")
    setup.host.worker_gone("worker-9#1")
    await until(lambda: setup.host.slots.used == 1)
    assert setup.engine.sessions["a"].closing.is_set()
    assert not setup.engine.sessions["b"].closing.is_set()


async def test_shutdown_tells_and_closes_every_session(setup: Setup) -> None:
    one, two = await setup.dial(), await setup.dial()
    await setup.open(one, "a")
    await setup.open(two, "b")
    await setup.host.close()
    assert await receive(one) == SessionEnded("a", "shutdown", "the engine is stopping")
    assert await receive(two) == SessionEnded("b", "shutdown", "the engine is stopping")
    assert all(session.closing.is_set() for session in setup.engine.sessions.values())
    assert setup.host.slots.used == 0


async def test_sessions_of_an_engine_that_broke_are_closed_but_not_ended(setup: Setup) -> None:
    raw = await setup.dial()
    await setup.open(raw, "a")
    await setup.host.close(has_failed=True)
    assert setup.engine.sessions["a"].closing.is_set()
    assert setup.host.slots.used == 0
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await receive(raw)


async def test_units_are_counted_with_their_stages(setup: Setup) -> None:
    raw = await setup.dial()
    await setup.open(raw, "a")
    for ms in (10.0, 30.0):
        setup.engine.sessions["a"].send(UnitDone("a", 1, "speak", {"asr": ms}))
    assert isinstance(await receive(raw), UnitDone)
    assert setup.host.stages.units == 2
    assert setup.host.stages.summary()["asr"].count == 2


async def test_units_that_take_long_lower_the_capacity_turns_do_not(setup: Setup) -> None:
    raw = await setup.dial()
    await setup.open(raw, "a")
    session = setup.engine.sessions["a"]
    session.send(UnitDone("a", 1, "speak", {"turn": 4000.0}))
    assert setup.host.headroom.pace(1, 0.0).capacity == 2
    session.send(UnitDone("a", 2, "listen", {"unit": 1200.0}))
    assert setup.host.headroom.pace(1, 0.0) == (1, 1200.0, 1.0)
    setup.clock.now += 60
    session.send(UnitDone("a", 3, "listen", {"unit": 100.0}, dropped_ms=1000))
    pace = setup.host.headroom.pace(1, 0.0)
    assert (pace.capacity, pace.unit_p99_ms, setup.host.dropped_ms) == (1, 100.0, 1000)


async def test_log_names_the_media_worker_and_nothing_that_was_said(
    setup: Setup, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        raw = await setup.dial()
        await setup.open(raw, "a", instructions="my secret instructions")
        raw.say(item("a", "x"))
        await until(lambda: setup.engine.sessions["a"].heard)
    assert "media worker raw connected" in caplog.text
    assert "hello" not in caplog.text and "secret" not in caplog.text
