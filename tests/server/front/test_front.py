"""The front: which worker and which slot a call gets, and what happens when either is lost.

Guarded: ready only with a worker and an engine; refusals passed on as they are; slots released
whatever ends a call; hand-over to those who wait; dead workers and engines; statistics that never
wait long.
"""

from __future__ import annotations

import asyncio
import time

import pytest
from msgspec.structs import replace

from engine.ipc.supervision import Progress, WorkerGone
from server.control import (
    AssignEngine,
    CallConnected,
    CallEnded,
    CallPlaced,
    CallRefused,
    EngineAddress,
    EngineDown,
    QueuePosition,
    SlotReleased,
    SlotWanted,
)
from server.front import call_desk, child_stats, media_workers
from server.front.past_calls import PastCall, PastCalls
from server.front.starting import Starting
from signaling.errors import NoFreeSlot, ProtocolError
from tests.server.front.rig import ANSWER, PaperFront, call_stats, engine_stats, worker_stats
from tests.waiting import PATIENCE_S, until

# ---------------------------------------------------------------- readiness


def test_ready_needs_a_worker_and_an_engine() -> None:
    paper = PaperFront(ready=False)
    assert not paper.front.is_ready
    paper.up("engine-0")
    assert not paper.front.is_ready
    paper.up("worker-0")
    assert paper.front.is_ready
    paper.down("engine-0")
    assert not paper.front.is_ready
    paper.up("engine-0")
    assert paper.front.is_ready


async def test_call_before_the_server_is_ready_is_told_to_come_back() -> None:
    paper = PaperFront(ready=False)
    with pytest.raises(NoFreeSlot) as caught:
        await paper.begin()
    assert caught.value.retry_after_s == 2.0 and "starting" in caught.value.message
    assert paper.front.calls == {} and paper.supervisor.told == []


async def test_draining_server_takes_no_calls_and_is_not_ready() -> None:
    paper = PaperFront()
    paper.front.drain()
    assert not paper.front.is_ready
    with pytest.raises(NoFreeSlot):
        await paper.begin()


def test_start_of_each_process_is_shown_with_its_time() -> None:
    paper = PaperFront("engine-0", "worker-0")
    paper.front.progress(paper["engine-0"], Progress("loading"))
    paper.down("engine-0", "exit code 3")
    assert paper.shown == [
        "engine-0: ready in 1.5 s",
        "worker-0: ready in 1.5 s",
        "engine-0: loading",
        "engine-0: exit code 3",
    ]


def test_long_step_is_shown_each_tenth() -> None:
    paper = PaperFront("engine-0")
    paper.shown.clear()
    for done in range(0, 101, 4):
        progress = Progress("downloading it", done * 10**7, 10**9, is_download=True)
        paper.front.progress(paper["engine-0"], progress)
        paper["engine-0"].progress = progress
    assert paper.shown[0] == "engine-0: downloading it: 0.00 of 1.00 GB (0 %)"
    assert paper.shown[-1] == "engine-0: downloading it: 1.00 of 1.00 GB (100 %)"
    assert len(paper.shown) == 11


def test_engines_start_is_told_until_one_is_ready() -> None:
    paper = PaperFront("engine-0", "engine-1", "worker-0", ready=False)
    later, first = paper["engine-0"], paper["engine-1"]
    later.started_at = later.step_at = paper.clock.now - 2.0
    first.started_at, first.step_at = paper.clock.now - 30.0, paper.clock.now - 12.0
    assert paper.front.starting() == Starting("loading the program", None, 12.0, 30.0)
    first.progress = Progress("downloading it", 25, 100, is_download=True)
    assert paper.front.starting() == Starting("downloading it", 25, 12.0, 30.0)
    paper.up("engine-0")
    assert paper.front.starting() is None


async def test_who_waits_is_told_what_is_known_when_the_engine_dies() -> None:
    paper = PaperFront(slots=1)
    first, second = await paper.call(), await paper.call()
    told = [(m.call_id, m.eta_s) for _, m in paper.supervisor.of(QueuePosition)]
    assert told == [(second, None)], "no call was seen to end"
    paper.down("engine-0")
    told = [(m.call_id, m.eta_s) for _, m in paper.supervisor.of(QueuePosition)]
    assert told == [(second, None), (second, 2.0)], "its last start took 1.5 s"
    assert first in paper.front.calls


# ---------------------------------------------------------------- placing


async def test_call_goes_to_a_worker_and_gets_a_slot_when_it_is_connected() -> None:
    paper = PaperFront()
    placing = paper.begin(remote="192.0.2.9")
    await asyncio.sleep(0)
    [(worker, asked)] = paper.asked()
    assert worker == "worker-0" and asked.sdp == "v=0\r\noffer\r\n"
    assert asked.remote == "192.0.2.9" and asked.call_id.startswith("rtc_")
    assert not placing.done() and paper.front.calls.placed_total == 0
    paper.says("worker-0", CallPlaced(asked.call_id, ANSWER))
    placed = await placing
    assert (placed.call_id, placed.sdp) == (asked.call_id, ANSWER)
    assert paper.front.calls.placed_total == 1 and paper.front.broker.used == 0
    paper.connects(placed.call_id)
    address = EngineAddress("engine-0", "ipc:///engine-0.1")
    assigned = AssignEngine(placed.call_id, address)
    assert paper.supervisor.of(AssignEngine) == [("worker-0", assigned)]
    assert paper.front.broker.used == 1
    paper.connects(placed.call_id)
    assert paper.front.broker.used == 1, "said twice"


async def test_offers_that_never_connect_hold_no_slot_and_no_place_in_the_queue() -> None:
    paper = PaperFront(slots=1, max_queue=0)
    idle = [await paper.call(f"192.0.2.{n}", connects=False) for n in range(8)]
    real = await paper.call()
    assert paper.front.broker.engine_of(real) == "engine-0"
    paper.connects(idle[0])
    assert paper.hung_up() == [(idle[0], "engine_full")], "its line has been given away"
    for call_id in idle:
        paper.ends(call_id, "connect_timeout")
    assert paper.front.broker.engine_of(real) == "engine-0"
    assert paper.supervisor.of(QueuePosition) == []


async def test_queue_keeps_the_order_of_offers_not_of_connections() -> None:
    paper = PaperFront(slots=1, max_queue=4)
    first = await paper.call()
    early, late = await paper.call(connects=False), await paper.call()
    assert paper.supervisor.of(QueuePosition)[-1][1].call_id == late
    paper.connects(early)
    told = [(m.call_id, m.position) for _, m in paper.supervisor.of(QueuePosition)][-2:]
    assert told == [(early, 1), (late, 2)]
    paper.ends(first)
    assert paper.supervisor.of(AssignEngine)[-1][1].call_id == early


async def test_caller_that_leaves_between_connection_and_slot_frees_it_for_the_next() -> None:
    paper = PaperFront(slots=1)
    first = await paper.call()
    second, third = await paper.call(), await paper.call()
    paper.ends(first)
    assert paper.supervisor.of(AssignEngine)[-1][1].call_id == second
    # The worker's word of its end was on its way when it was promoted.
    paper.ends(second, "closed")
    assert paper.supervisor.of(AssignEngine)[-1][1].call_id == third
    paper.says("worker-0", CallConnected(second))
    assert paper.front.broker.used == 1 and paper.front.broker.engine_of(third)


async def test_engine_that_dies_while_a_caller_connects_costs_it_nothing() -> None:
    paper = PaperFront(slots=1)
    call_id = await paper.call(connects=False)
    paper.down("engine-0")
    paper.connects(call_id)
    assert paper.supervisor.of(QueuePosition)[-1][1].call_id == call_id
    paper.up("engine-0")
    address = EngineAddress("engine-0", "ipc:///engine-0.2")
    assert paper.supervisor.of(AssignEngine) == [("worker-0", AssignEngine(call_id, address))]


async def test_one_caller_may_set_up_a_share_of_calls_only() -> None:
    paper = PaperFront(max_connecting=8, max_queue=100)
    calls = [await paper.call(connects=False) for _ in range(2)]
    with pytest.raises(ProtocolError) as caught:
        await paper.begin()
    assert (caught.value.status, caught.value.code) == (429, "too_many_calls")
    await paper.call("192.0.2.2", connects=False)
    paper.clock.now += 4
    third = await paper.call(connects=False)
    assert paper.hung_up() == [(calls[0], "connect_timeout")], "its oldest, now old enough"
    paper.connects(third)
    await paper.call(connects=False)
    assert len(paper.hung_up()) == 1, "who is connected does not count"


async def test_room_for_a_new_caller_is_made_by_who_sets_up_most() -> None:
    paper = PaperFront(max_connecting=12, max_queue=100)
    hog = [await paper.call("192.0.2.9", connects=False) for _ in range(3)]
    for n in range(9):
        await paper.call(f"198.51.100.{n}", connects=False)
    await paper.call("192.0.2.1", connects=False)
    await paper.call("192.0.2.3", connects=False)
    assert [c for c, _ in paper.hung_up()] == hog[:2]
    with pytest.raises(NoFreeSlot):
        await paper.begin("192.0.2.4")
    paper.clock.now += 4
    await paper.call("192.0.2.4", connects=False)
    assert [c for c, _ in paper.hung_up()] == hog


async def test_ids_of_calls_cannot_be_guessed() -> None:
    paper = PaperFront(slots=50)
    ids = [await paper.call() for _ in range(20)]
    assert len(set(ids)) == 20 and min(map(len, ids)) >= 24


async def test_calls_are_spread_over_the_workers() -> None:
    paper = PaperFront("engine-0", "worker-0", "worker-1", slots=10)
    for _ in range(6):
        await paper.call()
    names = [name for name, _ in paper.asked()]
    assert names.count("worker-0") == names.count("worker-1") == 3


async def test_refusal_of_the_worker_is_passed_on_whole_and_frees_the_slot() -> None:
    paper = PaperFront()
    placing = paper.begin()
    await asyncio.sleep(0)
    [(_, asked)] = paper.asked()
    paper.says("worker-0", CallRefused(asked.call_id, 406, "no_codec", "No common codec.", "sdp"))
    with pytest.raises(ProtocolError) as caught:
        await placing
    error = caught.value
    assert (error.status, error.code, error.message, error.param) == (
        *(406, "no_codec", "No common codec.", "sdp"),
    )
    assert paper.front.calls == {} and paper.front.broker.used == 0
    assert paper.front.calls.placed_total == 0


async def test_worker_that_does_not_answer_is_a_timeout_and_the_call_is_hung_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(call_desk, "PLACE_TIMEOUT_S", 0.01)
    paper = PaperFront()
    with pytest.raises(TimeoutError):
        await paper.begin()
    [(_, asked)] = paper.asked()
    assert paper.hung_up() == [(asked.call_id, "not_answered")]
    assert paper.front.calls == {} and paper.front.broker.used == 0
    # The answer that comes after all is nobody's.
    paper.says("worker-0", CallPlaced(asked.call_id, ANSWER))
    assert paper.front.calls == {} and paper.front.calls.placed_total == 0


async def test_client_that_leaves_before_the_answer_frees_the_slot() -> None:
    paper = PaperFront()
    placing = paper.begin()
    await asyncio.sleep(0)
    placing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await placing
    assert paper.front.broker.used == 0 and len(paper.hung_up()) == 1


async def test_one_address_may_not_take_every_line() -> None:
    paper = PaperFront(slots=10, max_per_remote=2)
    first = await paper.call("192.0.2.1")
    await paper.call("192.0.2.1")
    with pytest.raises(ProtocolError) as caught:
        await paper.begin("192.0.2.1")
    assert (caught.value.status, caught.value.code) == (429, "too_many_calls")
    await paper.call("192.0.2.2")
    paper.ends(first)
    await paper.call("192.0.2.1")


# ---------------------------------------------------------------- the queue


async def test_call_without_a_slot_waits_and_is_handed_the_next_one() -> None:
    paper = PaperFront(slots=1)
    first = await paper.call()
    second, third = await paper.call(), await paper.call()
    assert [m.call_id for _, m in paper.supervisor.of(AssignEngine)] == [first]
    told = [(m.call_id, m.position) for _, m in paper.supervisor.of(QueuePosition)]
    assert told == [(second, 1), (third, 2)]
    paper.ends(first)
    address = EngineAddress("engine-0", "ipc:///engine-0.1")
    assert paper.supervisor.of(AssignEngine)[1:] == [("worker-0", AssignEngine(second, address))]
    assert paper.supervisor.of(QueuePosition)[-1][1].call_id == third
    assert paper.supervisor.of(QueuePosition)[-1][1].position == 1
    assert paper.front.broker.used == 1


async def test_engine_that_is_too_slow_lets_calls_wait_until_it_is_not() -> None:
    paper = PaperFront(slots=4)
    first = await paper.call()
    paper.says("engine-0", engine_stats(1, capacity=1))
    second = await paper.call()
    assert [m.call_id for _, m in paper.supervisor.of(AssignEngine)] == [first]
    paper.says("engine-0", engine_stats(1, capacity=1))
    assert paper.front.broker.used == 1
    paper.says("engine-0", engine_stats(1, capacity=2))
    assert [m.call_id for _, m in paper.supervisor.of(AssignEngine)] == [first, second]


async def test_full_queue_is_no_free_slot() -> None:
    paper = PaperFront(slots=1, max_queue=1)
    await paper.call()
    await paper.call()
    with pytest.raises(NoFreeSlot):
        await paper.begin()
    assert len(paper.front.calls) == 2


async def test_waiting_call_that_ends_lets_the_others_know() -> None:
    paper = PaperFront(slots=1)
    await paper.call()
    second, third = await paper.call(), await paper.call()
    paper.ends(second)
    moved = paper.supervisor.of(QueuePosition)[-1][1]
    assert (moved.call_id, moved.position) == (third, 1)
    assert len(paper.supervisor.of(AssignEngine)) == 1


async def test_eta_is_learnt_from_calls_that_ended() -> None:
    paper = PaperFront(slots=1, max_queue=5)
    first = await paper.call()
    paper.clock.now += 8
    paper.ends(first)
    await paper.call()
    await paper.call()
    assert paper.supervisor.of(QueuePosition)[-1][1].eta_s == 8


# ---------------------------------------------------------------- the end of calls


async def test_hanging_up_is_passed_on_and_the_slot_comes_back_when_the_worker_says_so() -> None:
    paper = PaperFront()
    call_id = await paper.call()
    assert await paper.front.desk.hang_up(call_id, "hangup")
    assert paper.hung_up() == [(call_id, "hangup")]
    assert paper.front.broker.used == 1, "the engine still serves it"
    paper.ends(call_id)
    assert paper.front.broker.used == 0 and paper.front.calls.ended == {"hangup": 1}
    assert not await paper.front.desk.hang_up(call_id, "hangup")
    assert not await paper.front.desk.hang_up("rtc_nobody", "hangup")


async def test_end_that_is_said_twice_counts_once() -> None:
    paper = PaperFront()
    call_id = await paper.call()
    paper.says("worker-0", CallEnded(call_id, "vanished", 1), CallEnded(call_id, "hangup", 1))
    assert paper.front.broker.used == 0 and paper.front.calls.ended == {"vanished": 1}


async def test_calls_that_ended_are_kept_newest_first_with_their_figures() -> None:
    paper = PaperFront(slots=1)
    first, second = await paper.call(), await paper.call()
    paper.clock.now += 8
    paper.says("worker-0", CallEnded(first, "goodbye", 3, "half_duplex", {"first_audio": 310.0}))
    paper.ends(second, "vanished")
    newest, oldest = paper.front.calls.past.newest_first()
    assert (newest.call_id, newest.reason, newest.mode) == (second, "vanished", "")
    assert (oldest.call_id, oldest.seconds, oldest.turns) == (first, 8.0, 3)
    assert (oldest.worker, oldest.engine, oldest.mode) == ("worker-0", "engine-0", "half_duplex")
    assert oldest.latency_ms == {"first_audio": 310.0}
    assert abs(oldest.began_at - (time.time() - 8)) < 5


async def test_only_the_newest_calls_that_ended_are_kept() -> None:
    kept = PastCalls(2)
    one = PastCall(
        call_id="rtc_1",
        remote="",
        began_at=0,
        seconds=1.0,
        reason="hangup",
        worker="worker-0",
        engine="",
        mode="",
        turns=0,
        latency_ms={},
    )
    for index in range(4):
        kept.add(replace(one, call_id=f"rtc_{index}"))
    assert [call.call_id for call in kept.newest_first()] == ["rtc_3", "rtc_2"]


async def test_dead_worker_ends_its_calls_only_and_frees_their_slots() -> None:
    paper = PaperFront("engine-0", "worker-0", "worker-1", slots=4)
    calls = [await paper.call() for _ in range(4)]
    mine = [c for c in calls if paper.front.calls[c].worker.spec.name == "worker-0"]
    paper.down("worker-0")
    assert len(mine) == 2 and set(paper.front.calls) == set(calls) - set(mine)
    told = [paper.front.desk.why_closed(call_id) for call_id in mine]
    assert [(error.status, error.code) for error in told] == [(410, "worker_gone")] * 2
    assert paper.front.broker.used == 2 and paper.front.calls.ended == {"worker_gone": 2}
    assert paper.supervisor.of(WorkerGone) == [("engine-0", WorkerGone("worker-0#1"))]
    assert paper.front.is_ready


async def test_worker_that_dies_while_answering_is_told_at_once() -> None:
    paper = PaperFront()
    placing = paper.begin()
    await asyncio.sleep(0)
    paper.down("worker-0")
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(ProtocolError) as caught:
            await placing
    error = caught.value
    assert (error.status, error.code, error.type) == (503, "worker_gone", "server_error")
    assert paper.front.calls == {} and paper.front.broker.used == 0


async def test_offer_waits_for_a_media_worker_that_is_coming_back() -> None:
    paper = PaperFront()
    paper.down("worker-0")
    placing = paper.begin()
    await asyncio.sleep(0.01)
    assert not placing.done() and not list(paper.asked())
    paper.up("worker-0")
    await until(lambda: list(paper.asked()))
    [(name, asked)] = paper.asked()
    paper.says(name, CallPlaced(asked.call_id, ANSWER))
    assert (await placing).call_id == asked.call_id


async def test_offer_is_refused_when_no_media_worker_comes_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(media_workers, "RESTART_WAIT_S", 0.01)
    paper = PaperFront()
    paper.down("worker-0")
    with pytest.raises(NoFreeSlot):
        await paper.begin()
    assert paper.front.calls == {}


async def test_dead_worker_hands_its_slots_to_those_who_wait() -> None:
    paper = PaperFront("engine-0", "worker-0", "worker-1", slots=1)
    await paper.call()
    waiting = await paper.call()
    assert paper.front.calls[waiting].worker.spec.name == "worker-1"
    paper.down("worker-0")
    assigned = [(name, m.call_id) for name, m in paper.supervisor.of(AssignEngine)]
    assert assigned[1:] == [("worker-1", waiting)]


async def test_dead_engine_is_told_to_every_worker_and_its_slots_are_gone() -> None:
    paper = PaperFront("engine-0", "engine-1", "worker-0", "worker-1", slots=1)
    one, two = await paper.call(), await paper.call()
    paper.says("engine-0", engine_stats())
    paper.down("engine-0", "no sign of life for 6.1 s")
    down = EngineDown("ipc:///engine-0.1", "no sign of life for 6.1 s")
    assert paper.supervisor.of(EngineDown) == [("worker-0", down), ("worker-1", down)]
    assert (paper.front.broker.slots, paper.front.broker.used) == (1, 1)
    assert "engine-0" not in paper.front.stats.engines
    # The workers end its calls; the other engine's goes on.
    lost = one if paper.front.broker.engine_of(one) is None else two
    paper.ends(lost, "engine_gone")
    assert paper.front.calls.ended == {"engine_gone": 1} and len(paper.front.calls) == 1
    await paper.call()
    assert paper.supervisor.of(QueuePosition)[-1][1].position == 1


async def test_engine_that_is_back_serves_those_who_waited_at_its_new_address() -> None:
    paper = PaperFront(slots=1)
    first = await paper.call()
    waiting = await paper.call()
    paper.down("engine-0")
    paper.ends(first, "engine_gone")
    assert len(paper.supervisor.of(AssignEngine)) == 1
    paper.up("engine-0")
    address = EngineAddress("engine-0", "ipc:///engine-0.2")
    assert paper.supervisor.of(AssignEngine)[1:] == [("worker-0", AssignEngine(waiting, address))]


# ---------------------------------------------------------------- statistics


async def test_refresh_waits_for_every_worker() -> None:
    paper = PaperFront("engine-0", "worker-0", "worker-1")
    refreshing = asyncio.create_task(paper.front.stats.refresh(paper.supervisor))
    await asyncio.sleep(0)
    paper.says("worker-0", worker_stats())
    await asyncio.sleep(0)
    assert not refreshing.done() and paper.stats_asked() == [1, 1]
    paper.says("worker-1", worker_stats())
    await refreshing
    assert set(paper.front.stats.workers) == {"worker-0", "worker-1"}


async def test_refresh_does_not_wait_long_for_a_worker_that_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(child_stats, "STATS_TIMEOUT_S", 0.01)
    paper = PaperFront()
    paper.says("worker-0", worker_stats(calls=(call_stats("rtc_old"),)))
    await paper.front.stats.refresh(paper.supervisor)
    assert paper.front.stats.workers["worker-0"].calls[0].call_id == "rtc_old"
    # It wakes up: whoever asks then is answered.
    refreshing = asyncio.create_task(paper.front.stats.refresh(paper.supervisor))
    await asyncio.sleep(0)
    paper.says("worker-0", worker_stats(2))
    await refreshing
    assert paper.front.stats.workers["worker-0"].n == 2


async def test_refresh_asks_no_worker_that_is_not_ready() -> None:
    paper = PaperFront()
    paper.down("worker-0")
    await paper.front.stats.refresh(paper.supervisor)
    assert paper.stats_asked() == []


async def test_two_who_ask_at_once_are_both_answered() -> None:
    paper = PaperFront()
    both = asyncio.gather(
        paper.front.stats.refresh(paper.supervisor), paper.front.stats.refresh(paper.supervisor)
    )
    await asyncio.sleep(0)
    paper.says("worker-0", worker_stats())
    async with asyncio.timeout(PATIENCE_S):
        await both


async def test_long_pause_gives_the_slot_to_who_waits_and_resuming_waits_behind() -> None:
    paper = PaperFront(slots=1)
    resting, other = await paper.call(), await paper.call()
    assert paper.front.broker.engine_of(resting) == "engine-0"
    paper.says("worker-0", SlotReleased(resting))
    assert paper.front.broker.engine_of(other) == "engine-0"
    assert resting in paper.front.calls
    paper.says("worker-0", SlotWanted(resting))
    assert [waiting.call_id for waiting in paper.front.broker.waiting()] == [resting]
    assert paper.supervisor.of(QueuePosition)[-1][1].call_id == resting
    paper.says("worker-0", CallEnded(other, "hangup", 0))
    assert paper.supervisor.of(AssignEngine)[-1][1].call_id == resting
    paper.says("worker-0", SlotReleased("rtc_nobody"))
