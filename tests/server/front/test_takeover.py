"""A front that takes the place of one that died: calls, slots, turns and tokens as they were."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from engine.ipc.supervision import WorkerGone
from server.control import (
    AssignEngine,
    CallEnded,
    CallStands,
    CallsTold,
    ConversationKept,
    EngineAddress,
    HangUp,
    Inbound,
    ResumeCall,
    SlotWanted,
)
from server.front.broker import Broker, Waiting
from server.front.takeover import Takeover
from signaling.http.auth import Principal
from signaling.session.items import MessageItem
from signaling.settings import SessionSettings
from tests.server.front.rig import ANSWER, PaperFront
from tests.waiting import Clock, until

ENGINE = EngineAddress("engine-0", "ipc:///engine-0.0")
KEPT = ConversationKept(SessionSettings(), (MessageItem(id="item_1", role="user"),))


def stands(call_id: str, *, since: float = 900.0, waits: bool = False) -> CallStands:
    """A call that is served, or waits to be."""
    return CallStands(
        call_id=call_id,
        remote="192.0.2.1",
        callers=("address:192.0.2.1",),
        owner="access",
        since=since,
        n=0,
        asked=2,
        is_stream=False,
        is_connected=True,
        was_served=not waits,
        engine=None if waits else ENGINE,
        wants_slot=waits,
        away_s=None,
        kept=KEPT,
    )


def second(*names: str, slots: int = 2) -> PaperFront:
    return PaperFront(*names, slots=slots, ready=False, is_second=True)


async def taken(paper: PaperFront, *calls: CallStands) -> asyncio.Task[None]:
    """The engine and the media worker have told the front what they have."""
    taking = asyncio.create_task(paper.front.take_over())
    await asyncio.sleep(0)
    for name in paper.supervisor.children:
        paper.up(name)
    paper.says("worker-0", *calls, CallsTold())
    return taking


def test_how_a_call_stands_survives_the_link() -> None:
    told = stands("rtc_a")
    assert msgspec.msgpack.Decoder(Inbound).decode(msgspec.msgpack.encode(told)) == told


async def test_calls_go_on_with_their_slots_and_are_hung_up() -> None:
    paper = second()
    await (await taken(paper, stands("rtc_a"), stands("rtc_b")))
    front = paper.front
    assert list(front.calls) == ["rtc_a", "rtc_b"] and front.broker.used == 2
    assert paper.supervisor.of(AssignEngine) == [], "they have theirs"
    front.desk.check_owner("rtc_a", Principal("user", "access"))
    assert await front.desk.hang_up("rtc_a", "hangup")
    assert paper.supervisor.of(HangUp) == [("worker-0", HangUp("rtc_a", "hangup"))]
    paper.says("worker-0", CallEnded("rtc_a", "hangup", 1))
    assert not front.desk.is_open("rtc_a") and front.broker.used == 1
    fresh = await paper.call()
    assert front.broker.engine_of(fresh) == "engine-0" and front.broker.used == 2


async def test_no_slot_is_given_twice_whoever_tells_first() -> None:
    paper = second(slots=1)
    taking = asyncio.create_task(paper.front.take_over())
    paper.up("engine-0")
    paper.up("worker-0")
    # A call that waits is told of before the one that has the only slot.
    paper.says("worker-0", stands("rtc_late", since=950.0, waits=True))
    assert paper.supervisor.of(AssignEngine) == [] and not taking.done()
    paper.says("worker-0", stands("rtc_early", since=940.0, waits=True), stands("rtc_a"))
    paper.says("worker-0", CallsTold())
    await taking
    assert paper.supervisor.of(AssignEngine) == []
    queue = [(one.call_id, one.position) for one in paper.front.broker.waiting()]
    assert queue == [("rtc_early", 1), ("rtc_late", 2)]
    paper.says("worker-0", CallEnded("rtc_a", "hangup", 1))
    assert paper.supervisor.of(AssignEngine) == [("worker-0", AssignEngine("rtc_early", ENGINE))]


async def test_token_of_the_front_before_resumes() -> None:
    first = PaperFront()
    token = first.front.desk._comebacks._tokens.of("rtc_a")
    paper = second()
    await (await taken(paper, stands("rtc_a")))
    resuming = asyncio.create_task(paper.front.desk.resume(token, "v=0\r\noffer\r\n"))
    await until(lambda: paper.supervisor.of(ResumeCall))
    [(name, asked)] = paper.supervisor.of(ResumeCall)
    assert (name, asked.n) == ("worker-0", 3), "no answer to an earlier question is taken for its"
    paper.says(name, paper.placed("rtc_a"))
    again = await resuming
    assert (again.call_id, again.sdp, again.token) == ("rtc_a", ANSWER, token)


async def test_call_that_was_taken_over_outlives_its_media_worker_too() -> None:
    paper = second("engine-0", "worker-0", "worker-1")
    taking = await taken(paper, stands("rtc_a"))
    paper.says("worker-1", CallsTold())
    await taking
    paper.down("worker-0")
    assert paper.front.desk.is_lost("rtc_a") and paper.front.calls["rtc_a"].kept == KEPT
    assert paper.front.broker.used == 0


async def test_engines_are_told_who_died_while_there_was_no_front() -> None:
    paper = second()
    paper.supervisor.gone = ("worker-1#3",)
    await (await taken(paper))
    told = [message.name for _, message in paper.supervisor.of(WorkerGone)]
    assert told == ["worker-1#3", "front#1"]


async def test_child_that_hangs_is_not_awaited_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.front.takeover.LONGEST_S", 0.01)
    paper = second("engine-0", "worker-0", "worker-1")
    await (await taken(paper, stands("rtc_a")))
    assert paper.front.broker.used == 1 and await paper.call()


async def test_first_front_waits_for_nobody() -> None:
    given: list[int] = []
    takeover = Takeover(Broker(1), PaperFront().front.calls)
    takeover.expect([])
    await takeover.run(lambda: given.append(1))
    assert given == [1]


async def test_engine_that_died_meanwhile_gives_the_call_another_slot() -> None:
    paper = second("engine-0", "engine-1", "worker-0")
    taking = asyncio.create_task(paper.front.take_over())
    for name in ("engine-1", "worker-0"):
        paper.up(name)
    paper.says("worker-0", stands("rtc_a"), CallsTold(), SlotWanted("rtc_a"))
    assert paper.supervisor.of(AssignEngine) == []
    paper.down("engine-0")
    await taking
    [(_, given)] = paper.supervisor.of(AssignEngine)
    assert given.engine.name == "engine-1"
    paper.up("engine-0")
    assert paper.front.broker.used == 1


def test_lease_of_an_engine_that_tells_later_counts_at_once() -> None:
    b = Broker(0, Clock())
    b.is_held = True
    b.adopt("a", 900.0, ENGINE)
    assert b.release("a") and not b.release("a")
    b.adopt("a", 900.0, ENGINE)
    b.adopt("b", 800.0, None)
    b.adopt("c", 700.0, None)
    # However full the queue is: nobody can tell yet who has a slot.
    assert b.request("b") == Waiting("b", 1, None)
    assert b.request_again("c") == Waiting("c", 1, None), "it came first"
    b.engine_up(ENGINE, 2)
    b.is_held = False
    assert b.used == 1 and b.assignments() == [("c", ENGINE)]
    assert b.lease_chat("chat") is None
