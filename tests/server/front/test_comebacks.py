"""The front's part in calls that outlive their connection, their media worker or their engine."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from server.control import (
    AssignEngine,
    CallConnected,
    CallEnded,
    CallPlaced,
    CallRefused,
    ClientAway,
    ClientBack,
    ConversationKept,
    EngineAddress,
    Inbound,
    KeepConversation,
    PlaceCall,
    QueuePosition,
    ResumeCall,
    SlotNeeded,
    SlotReleased,
    SlotWanted,
)
from server.front.broker import Broker, Waiting
from server.front.comebacks import Comebacks
from server.front.media_workers import MediaWorkers
from server.front.resume_tokens import ResumeTokens
from signaling.errors import ProtocolError
from signaling.http.calls import PlacedCall
from signaling.session.items import (
    FunctionCallItem,
    FunctionOutputItem,
    MessageItem,
    ShownPart,
)
from signaling.settings import SessionSettings
from tests import virtual_time
from tests.server.front.rig import ANSWER, PaperFront
from tests.waiting import Clock, until

OFFER = "v=0\r\noffer\r\n"
KEPT = ConversationKept(SessionSettings(), (MessageItem(id="item_1", role="user"),))


async def resumable(paper: PaperFront) -> PlacedCall:
    """A call that can be resumed, connected and served."""
    placing = asyncio.create_task(
        paper.front.desk.place(
            OFFER, SessionSettings(), remote="x", callers=("x",), is_resumable=True
        )
    )
    before = len(list(paper.asked()))
    await until(lambda: len(list(paper.asked())) > before)
    name, asked = list(paper.asked())[-1]
    assert asked.is_resumable
    paper.says(name, paper.placed(asked.call_id))
    placed = await placing
    paper.connects(placed.call_id)
    return placed


async def refused(paper: PaperFront, token: str) -> tuple[int, str | None]:
    with pytest.raises(ProtocolError) as caught:
        await paper.front.desk.resume(token, OFFER)
    return caught.value.status, caught.value.code


def test_token_says_nothing_of_other_calls() -> None:
    tokens, others = ResumeTokens(), ResumeTokens()
    token = tokens.of("rtc_a")
    assert tokens.call_of(token) == "rtc_a" and len(token) > 64
    wrong = ["", ".", "rtc_a", "rtc_a.", token[:-1], token + "0", others.of("rtc_a")]
    for guess in [*wrong, token.replace("rtc_a", "rtc_b"), "é." + token[6:]]:
        with pytest.raises(ProtocolError) as caught:
            tokens.call_of(guess)
        assert caught.value.status == 404


def test_kept_conversation_survives_the_links() -> None:
    items = (
        MessageItem(id="a", role="user", parts=(ShownPart("audio", "Hello."),)),
        FunctionCallItem(id="b", call_id="c", name="look"),
        FunctionOutputItem(id="d", call_id="c", output="seen"),
    )
    told = KeepConversation("rtc_a", ConversationKept(SessionSettings(), items))
    decoder = msgspec.msgpack.Decoder(Inbound)
    assert decoder.decode(msgspec.msgpack.encode(told)) == told


async def test_offer_with_the_token_goes_to_the_calls_own_worker() -> None:
    paper = PaperFront("engine-0", "worker-0", "worker-1")
    placed = await resumable(paper)
    resuming = asyncio.create_task(paper.front.desk.resume(placed.token, OFFER))
    await until(lambda: paper.supervisor.of(ResumeCall))
    assert await refused(paper, placed.token) == (503, "resume_pending")
    [(name, asked)] = paper.supervisor.of(ResumeCall)
    assert (name, asked) == ("worker-0", ResumeCall(placed.call_id, OFFER, 1))
    paper.says(name, paper.placed(placed.call_id))
    again = await resuming
    assert (again.call_id, again.sdp, again.token) == (placed.call_id, ANSWER, placed.token)
    assert again.tag != placed.tag
    assert paper.front.broker.used == 1 and len(paper.supervisor.of(AssignEngine)) == 1


async def test_what_cannot_be_resumed_says_why() -> None:
    paper = PaperFront()
    plain = await paper.call()
    placed = await resumable(paper)
    token = paper.front.desk._comebacks._tokens.of(plain)
    assert (await refused(paper, token))[0] == 404
    with pytest.raises(ProtocolError) as caught:
        await paper.front.desk.resume_stream(placed.token)
    assert caught.value.status == 409
    paper.ends(placed.call_id, "vanished")
    assert await refused(paper, placed.token) == (410, "vanished")


async def test_resuming_has_a_rate() -> None:
    paper = PaperFront()
    placed = await resumable(paper)
    call = paper.front.calls[placed.call_id]
    while call.resumed.take(paper.clock.now):
        pass
    assert await refused(paper, placed.token) == (429, "rate_limit_exceeded")


async def test_call_of_a_dead_worker_waits_and_goes_on_at_another_with_its_history() -> None:
    paper = PaperFront("engine-0", "worker-0", "worker-1")
    placed = await resumable(paper)
    call_id = placed.call_id
    paper.says("worker-0", KeepConversation(call_id, KEPT))
    paper.down("worker-0")
    assert paper.front.desk.is_open(call_id) and paper.front.desk.is_lost(call_id)
    assert paper.front.broker.used == 0
    resuming = asyncio.create_task(paper.front.desk.resume(placed.token, OFFER))
    await until(lambda: len(paper.supervisor.of(PlaceCall)) == 2)
    name, asked = paper.supervisor.of(PlaceCall)[-1]
    assert (name, asked.call_id, asked.kept) == ("worker-1", call_id, KEPT) and asked.is_resumable
    paper.says("worker-1", paper.placed(call_id))
    assert (await resuming).call_id == call_id and not paper.front.desk.is_lost(call_id)
    paper.connects(call_id)
    assert paper.front.broker.used == 1
    assert paper.supervisor.of(AssignEngine)[-1][0] == "worker-1"
    paper.ends(call_id)
    assert paper.front.broker.used == 0 and paper.front.calls == {}


async def test_comeback_that_fails_at_a_second_worker_can_be_tried_again() -> None:
    paper = PaperFront("engine-0", "worker-0", "worker-1")
    placed = await resumable(paper)
    paper.down("worker-0")
    resuming = asyncio.create_task(paper.front.desk.resume(placed.token, OFFER))
    await until(lambda: len(paper.supervisor.of(PlaceCall)) == 2)
    paper.down("worker-1")
    with pytest.raises(ProtocolError) as caught:
        await resuming
    assert (caught.value.status, caught.value.code) == (503, "worker_gone")
    assert paper.front.desk.is_lost(placed.call_id) and paper.front.calls.ended == {}
    # What the worker says of it that did not answer in time is about nothing any more.
    paper.says("worker-1", CallEnded(placed.call_id, "not_answered", 0, n=1))
    assert paper.front.desk.is_lost(placed.call_id)
    paper.up("worker-1")
    resuming = asyncio.create_task(paper.front.desk.resume(placed.token, OFFER))
    await until(lambda: len(paper.supervisor.of(PlaceCall)) == 3)
    paper.says("worker-1", paper.placed(placed.call_id))
    assert (await resuming).call_id == placed.call_id


async def test_late_words_of_an_earlier_placing_are_about_nothing() -> None:
    paper = PaperFront("engine-0", "worker-0", "worker-1")
    placed = await resumable(paper)
    call_id = placed.call_id
    paper.down("worker-0")
    first = asyncio.create_task(paper.front.desk.resume(placed.token, OFFER))
    await until(lambda: len(paper.supervisor.of(PlaceCall)) == 2)
    # Its client has given up waiting, and asks again: the same worker has it twice for a while.
    first.cancel()
    await until(lambda: first.done())
    assert paper.front.desk.is_lost(call_id) and paper.hung_up()[-1] == (call_id, "not_answered")
    again = asyncio.create_task(paper.front.desk.resume(placed.token, OFFER))
    await until(lambda: len(paper.supervisor.of(PlaceCall)) == 3)
    paper.says("worker-1", CallPlaced(call_id, "an answer to the first offer", 1))
    paper.says("worker-1", CallRefused(call_id, 503, "x", "x", n=1), CallConnected(call_id, 1))
    paper.says("worker-1", CallEnded(call_id, "not_answered", 0, n=1))
    assert not again.done() and paper.front.broker.used == 0
    paper.says("worker-1", CallPlaced(call_id, ANSWER, 2))
    assert (await again).sdp == ANSWER
    paper.connects(call_id)
    assert paper.front.broker.used == 1
    paper.ends(call_id)
    assert paper.front.calls == {} and paper.front.broker.used == 0


async def test_late_answer_to_an_earlier_offer_is_not_taken_for_that_to_the_latest() -> None:
    paper = PaperFront()
    placed = await resumable(paper)
    first = asyncio.create_task(paper.front.desk.resume(placed.token, OFFER))
    await until(lambda: len(paper.supervisor.of(ResumeCall)) == 1)
    first.cancel()
    await until(lambda: first.done())
    again = asyncio.create_task(paper.front.desk.resume(placed.token, OFFER))
    await until(lambda: len(paper.supervisor.of(ResumeCall)) == 2)
    paper.says("worker-0", CallPlaced(placed.call_id, "an answer to the first offer", 1))
    paper.says("worker-0", CallPlaced(placed.call_id, ANSWER, 2))
    assert (await again).sdp == ANSWER
    paper.ends(placed.call_id)
    assert paper.front.calls == {}


@pytest.mark.parametrize("how", ["hung_up", "nobody came", "worker died again"])
async def test_call_that_is_over_before_there_is_a_worker_is_placed_on_none(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    paper = PaperFront("engine-0", "worker-0", "worker-1")
    placed = await resumable(paper)
    paper.down("worker-0")
    picked: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def pick(workers: MediaWorkers, calls: object) -> Any:
        return await picked

    monkeypatch.setattr(MediaWorkers, "pick", pick)
    resuming = asyncio.create_task(paper.front.desk.resume(placed.token, OFFER))
    await until(lambda: paper.front.calls[placed.call_id].asked == 1)
    if how == "hung_up":
        assert await paper.front.desk.hang_up(placed.call_id, "hangup")
    elif how == "nobody came":
        paper.front.desk.over(placed.call_id, "worker_gone")
    else:
        paper.front.desk.worker_down(paper.supervisor.children["worker-0"])
    picked.set_result(paper.supervisor.children["worker-1"])
    with pytest.raises(ProtocolError) as caught:
        await resuming
    assert caught.value.status == 503
    assert len(paper.supervisor.of(PlaceCall)) == 1 and paper.hung_up() == []
    assert paper.front.desk.is_open(placed.call_id) == (how == "worker died again")
    assert paper.front.broker.used == 0


async def test_call_of_a_dead_worker_can_be_hung_up() -> None:
    paper = PaperFront()
    placed = await resumable(paper)
    paper.down("worker-0")
    assert await paper.front.desk.hang_up(placed.call_id, "hangup")
    assert paper.front.calls == {} and paper.front.calls.ended == {"hangup": 1}


def test_call_of_a_dead_worker_waits_as_long_as_there_is_no_other() -> None:
    async def wait() -> None:
        paper = PaperFront(grace_s=30.0)
        placed = await resumable(paper)
        paper.down("worker-0")
        await asyncio.sleep(100.0)
        assert paper.front.desk.is_lost(placed.call_id), "nobody could have answered it"
        paper.up("worker-0")
        await asyncio.sleep(29.0)
        assert paper.front.desk.is_lost(placed.call_id), "it has its whole time from now on"
        await asyncio.sleep(2.0)
        assert not paper.front.desk.is_open(placed.call_id)

    virtual_time.run(wait)


async def test_call_of_a_dead_worker_ends_when_nobody_comes() -> None:
    over: list[tuple[str, str]] = []
    comebacks = Comebacks(0.0, Clock(), lambda call_id, reason: over.append((call_id, reason)))
    paper = PaperFront()
    placed = await resumable(paper)
    call = paper.front.calls[placed.call_id]
    assert comebacks.orphan(call)
    await until(lambda: over)
    assert over == [(placed.call_id, "worker_gone")]


async def test_others_who_wait_are_told_and_the_call_that_is_away_is_told_of_them() -> None:
    paper = PaperFront(slots=1)
    placed = await resumable(paper)
    paper.says("worker-0", ClientAway(placed.call_id, 30.0))
    assert paper.supervisor.of(SlotNeeded) == []
    waiting = await paper.call("192.0.2.2")
    assert paper.supervisor.of(QueuePosition)[-1][1] == QueuePosition(waiting, 1, 10)
    paper.says("worker-0", ClientAway(placed.call_id, 20.0))
    needed = [message for _, message in paper.supervisor.of(SlotNeeded)]
    assert needed == [SlotNeeded(placed.call_id)] * 2
    paper.says("worker-0", SlotReleased(placed.call_id))
    assert paper.supervisor.of(AssignEngine)[-1][1].call_id == waiting
    paper.says("worker-0", ClientBack(placed.call_id), SlotWanted(placed.call_id))
    assert paper.supervisor.of(QueuePosition)[-1][1].call_id == placed.call_id
    assert len(paper.supervisor.of(SlotNeeded)) == 2, "nobody is away"
    paper.ends(waiting)
    assert paper.supervisor.of(AssignEngine)[-1][1].call_id == placed.call_id


async def test_calls_of_a_dead_engine_wait_first_however_long_the_queue() -> None:
    paper = PaperFront("engine-0", "engine-1", "worker-0", slots=1, max_queue=1)
    first, second = await paper.call(), await paper.call()
    waiting = await paper.call()
    name = paper.front.broker.engine_of(first)
    assert name is not None
    paper.down(name)
    paper.says("worker-0", SlotWanted(first))
    assert [w.call_id for w in paper.front.broker.waiting()] == [first, waiting]
    assert paper.hung_up() == []
    paper.ends(second)
    assert paper.supervisor.of(AssignEngine)[-1][1].call_id == first


def test_slot_that_is_asked_for_again_is_held_once() -> None:
    clock = Clock()
    broker = Broker(4, clock)
    address = EngineAddress("engine-0", "ipc:///one")
    broker.engine_up(address, 2)
    broker.request("a")
    assert broker.request_again("a") == address and broker.used == 1
    broker.request("b")
    assert isinstance(broker.request("c"), Waiting)
    assert isinstance(broker.request_again("b"), Waiting) and broker.used == 1
    assert [call_id for call_id, _ in broker.assignments()] == ["b"]


async def test_key_has_no_more_calls_than_it_may() -> None:
    paper = PaperFront()
    paper.front.desk._max_per_key = 1
    settings = SessionSettings()

    async def place(owner: str | None) -> None:
        await paper.front.desk._begin("x", ("x",), owner, settings)

    await place("one")
    await place("two")
    for _ in range(2):
        await place(None)
    with pytest.raises(ProtocolError) as caught:
        await place("one")
    assert (caught.value.status, caught.value.code) == (429, "too_many_calls_of_key")
