"""Through an ingest process everything comes as without one, only sound and pictures fewer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.host import Host
from engine.ingest.messages import ListeningNeeds, SoundHeard
from engine.ingest.relay import Relay
from engine.ipc.protocol import (
    INPUT_HZ,
    VERSION,
    AudioIn,
    CloseSession,
    CommitAudio,
    FromEngine,
    Heard,
    Hello,
    ImageIn,
    OpenSession,
    Ping,
    Pong,
    Refused,
    SessionConfig,
    SessionEnded,
    SessionOpened,
    SessionRefused,
    TextOut,
    UpdateSession,
)
from tests.engine.fakes import FakeEngine, FakeSession, item, welcome
from tests.engine.ipc.raw_peer import RawPeer, dealer
from tests.waiting import Clock, until


class Setup:
    """A host with two slots behind a relay, and who dials that."""

    def __init__(self, folder: Path) -> None:
        self.engine = FakeEngine()
        self.clock = Clock()
        self.host = Host(self.engine, f"ipc://{folder}/inner", 2, is_behind_ingest=True)
        self.relay = Relay(f"ipc://{folder}/outer", self.host.endpoint, clock=self.clock)
        self._dialled: list[RawPeer] = []

    async def dial(self, name: str = "raw") -> RawPeer:
        raw = dealer(self.relay.endpoint)
        self._dialled.append(raw)
        raw.say(Hello(VERSION, name))
        assert await receive(raw) == welcome(2)
        return raw

    async def open(self, raw: RawPeer, session: str, **config: Any) -> FakeSession:
        raw.say(OpenSession(session, SessionConfig(**config)))
        assert isinstance(await receive(raw), SessionOpened)
        return self.engine.sessions[session]

    async def close(self) -> None:
        for raw in self._dialled:
            raw.close()
        self.relay.close()
        await self.host.close()


async def receive(raw: RawPeer) -> Any:
    return msgspec.msgpack.decode((await raw.receive())[-1], type=FromEngine)


async def told_needs(setup: Setup, raw: RawPeer, needs: ListeningNeeds) -> None:
    """Return when the relay knows: messages to a worker keep their order."""
    session = setup.engine.sessions[needs.session]
    session.send(needs)  # type: ignore[arg-type]
    session.send(TextOut(needs.session, 1, 0, "behind it"))
    assert isinstance(await receive(raw), TextOut)


def sounds(session: FakeSession) -> list[SoundHeard]:
    return [message for message in session.heard if isinstance(message, SoundHeard)]


@pytest.fixture
async def setup(tmp_path: Path) -> AsyncIterator[Setup]:
    setup = Setup(tmp_path)
    yield setup
    await setup.close()


async def test_messages_of_both_sides_pass_in_their_order(setup: Setup) -> None:
    raw = await setup.dial()
    session = await setup.open(raw, "a")
    said = [item("a", "x"), UpdateSession("a", SessionConfig(mode="turn_based")), item("a", "y")]
    for message in said:
        raw.say(message)
    await until(lambda: len(session.heard) == 3)
    assert session.heard == said
    session.send(TextOut("a", 1, 0, "words"))
    assert await receive(raw) == TextOut("a", 1, 0, "words")
    raw.say(Ping(7))
    assert await receive(raw) == Pong(7)


async def test_sound_of_a_unit_comes_in_few_messages(setup: Setup) -> None:
    raw = await setup.dial()
    session = await setup.open(raw, "a")
    await told_needs(setup, raw, ListeningNeeds("a", False, INPUT_HZ, INPUT_HZ))
    for start in range(0, INPUT_HZ, 320):
        raw.say(AudioIn("a", start, start.to_bytes(2, "little") * 320))
    await until(lambda: sum(len(heard.pcm) for heard in sounds(session)) == 2 * INPUT_HZ)
    assert len(sounds(session)) <= 8
    whole = b"".join(heard.pcm for heard in sounds(session))
    assert whole == b"".join(s.to_bytes(2, "little") * 320 for s in range(0, INPUT_HZ, 320))


async def test_what_came_before_a_message_is_before_it(setup: Setup) -> None:
    raw = await setup.dial()
    session = await setup.open(raw, "a")
    await told_needs(setup, raw, ListeningNeeds("a", False, INPUT_HZ, INPUT_HZ))
    raw.say(AudioIn("a", 0, bytes(640)))
    raw.say(ImageIn("a", 0, 1, 1, bytes(3)))
    raw.say(Heard("a", 1, 5))
    raw.say(CommitAudio("a"))
    await until(lambda: session.heard and session.heard[-1] == CommitAudio("a"))
    assert [type(message) for message in session.heard if not isinstance(message, Heard)] == [
        ImageIn,
        SoundHeard,
        SoundHeard,
        CommitAudio,
    ]
    assert Heard("a", 1, 5) in session.heard
    assert [heard.is_commit for heard in sounds(session)] == [False, True]


async def test_two_workers_have_their_own_sessions_of_one_name(setup: Setup) -> None:
    one, two = await setup.dial("one"), await setup.dial("two")
    first = await setup.open(one, "a")
    second = await setup.open(two, "a")
    assert first is not second
    first.send(TextOut("a", 1, 0, "for the first"))
    assert await receive(one) == TextOut("a", 1, 0, "for the first")


async def test_closed_and_silent_sessions_give_their_slots_back(setup: Setup) -> None:
    raw = await setup.dial()
    await setup.open(raw, "a")
    raw.say(CloseSession("a"))
    assert await receive(raw) == SessionEnded("a", "closed")
    await setup.open(raw, "b")
    assert setup.host.slots.used == 1
    setup.relay._forget(setup.relay._listener.peers[0], "as if it were silent")
    await until(lambda: setup.host.slots.used == 0)


async def test_a_worker_that_the_engine_refuses_is_told_and_forgotten(setup: Setup) -> None:
    raw = await setup.dial()
    await setup.open(raw, "a")
    line = next(iter(setup.relay._lines.values()))
    line._dialer._on_message = lambda message: None
    assert line._dialer._on_lost is not None
    line._dialer._on_lost("refused: for a test")
    told = await receive(raw)
    assert isinstance(told, Refused) and "for a test" in told.reason
    assert not setup.relay._lines
    await until(lambda: setup.host.slots.used == 0)


async def test_name_that_is_asked_for_twice_leaves_the_first_session_heard(setup: Setup) -> None:
    raw = await setup.dial()
    session = await setup.open(raw, "a")
    raw.say(OpenSession("a", SessionConfig()))
    assert isinstance(await receive(raw), SessionRefused)
    raw.say(AudioIn("a", 0, bytes(2 * INPUT_HZ)))
    await until(lambda: any(isinstance(message, SoundHeard) for message in session.heard))
