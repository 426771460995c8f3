"""The broker: leases spread over engines, a fair queue, honest positions."""

from __future__ import annotations

import random

import pytest

from server.control import EngineAddress
from server.front.broker import Broker, Waiting
from signaling.errors import NoFreeSlot
from tests.waiting import Clock

ONE = EngineAddress("engine-0", "ipc:///one")
TWO = EngineAddress("engine-1", "ipc:///two")


def broker(*slots: int, max_queue: int = 16) -> Broker:
    made = Broker(max_queue)
    for address, count in zip((ONE, TWO), slots, strict=False):
        made.engine_up(address, count)
    return made


def test_calls_are_spread_over_the_engines_evenly() -> None:
    b = broker(3, 3)
    leases = [b.request(f"c{n}") for n in range(6)]
    assert [leases.count(ONE), leases.count(TWO)] == [3, 3]
    assert {leases[0], leases[1]} == {leases[2], leases[3]} == {ONE, TWO}
    assert (b.used, b.slots) == (6, 6)


def test_engine_with_more_free_slots_is_preferred() -> None:
    b = broker(1, 4)
    assert [b.request(f"c{n}") for n in range(3)] == [TWO, TWO, TWO]


def test_full_engines_queue_calls_in_their_order() -> None:
    b = broker(1)
    assert b.request("a") == ONE
    b.request("b")
    b.request("c")
    assert [(w.call_id, w.position) for w in b.waiting()] == [("b", 1), ("c", 2)]
    assert b.assignments() == []
    b.release("a")
    assert b.assignments() == [("b", ONE)]
    assert [(w.call_id, w.position) for w in b.waiting()] == [("c", 1)]


def test_newcomer_does_not_overtake_the_queue() -> None:
    b = broker(1)
    b.request("a")
    b.request("b")
    b.release("a")
    # The slot is free, but "b" has not been given it yet.
    assert isinstance(b.request("c"), Waiting)
    assert b.assignments() == [("b", ONE)]


def test_offer_holds_nothing_but_its_turn() -> None:
    b = broker(1, max_queue=1)
    for call in ("early", "later", "last"):
        b.offer(call)
    assert b.request("later") == ONE, "who connects first is served first"
    assert b.request("last") == Waiting("last", 1, None)
    with pytest.raises(NoFreeSlot):
        b.offer("newcomer")
    with pytest.raises(NoFreeSlot):
        b.request("early")
    assert b.release("last") and not b.release("early") and not b.release("nobody")
    b.offer("newcomer")


def test_who_offered_first_is_first_in_the_queue() -> None:
    b = broker(1)
    for call in "abc":
        b.offer(call)
    b.offer("first")
    assert b.request("first") == ONE
    assert b.request("c") == Waiting("c", 1, None)
    assert b.request("a") == Waiting("a", 1, None)
    assert b.request("b") == Waiting("b", 2, None)
    assert [w.call_id for w in b.waiting()] == ["a", "b", "c"]
    b.release("first")
    assert b.assignments() == [("a", ONE)]


def test_full_queue_is_no_free_slot_with_a_time_to_retry() -> None:
    b = broker(2, max_queue=1)
    for call in "abc":
        b.request(call)
    with pytest.raises(NoFreeSlot) as caught:
        b.request("d")
    assert caught.value.retry_after_s is None, "no call was seen to end"
    assert [w.call_id for w in b.waiting()] == ["c"], "the refused call was queued"
    b.release("a", 90.0)
    assert b.assignments() == [("c", ONE)]
    b.request("d")
    with pytest.raises(NoFreeSlot) as caught:
        b.request("e")
    assert caught.value.retry_after_s == 45.0


def test_no_queue_means_refused_at_once() -> None:
    b = broker(1, max_queue=0)
    assert b.request("a") == ONE
    with pytest.raises(NoFreeSlot):
        b.request("b")


def test_waiting_call_that_gives_up_lets_the_others_move_up() -> None:
    b = broker(1)
    for call in "abcd":
        b.request(call)
    b.release("c")
    assert [(w.call_id, w.position) for w in b.waiting()] == [("b", 1), ("d", 2)]
    assert b.used == 1


def test_releasing_an_unknown_call_changes_nothing() -> None:
    b = broker(1)
    b.request("a")
    b.release("nobody", 5.0)
    b.release("a", 10.0)
    b.release("a", 10.0)
    assert b.used == 0 and b.request("b") == ONE


def test_eta_is_the_mean_of_recent_calls_shared_by_the_slots() -> None:
    b = broker(2)
    b.request("a")
    b.request("b")
    waiting = b.request("c")
    assert isinstance(waiting, Waiting)
    assert waiting.eta_s is None, "nothing is known yet"
    b.release("a", 10.0)
    b.release("b", 30.0)
    assert b.assignments() == [("c", ONE)]
    b.request("d")
    for call in "ef":
        b.request(call)
    assert [(w.position, w.eta_s) for w in b.waiting()] == [(1, 10.0), (2, 20.0)]


def test_only_recent_calls_count_for_the_eta() -> None:
    b = broker(1)
    for n in range(100):
        b.request(f"long{n}")
        b.release(f"long{n}", 1000.0)
    for n in range(20):
        b.request(f"short{n}")
        b.release(f"short{n}", 4.0)
    b.request("a")
    assert b.request("b") == Waiting("b", 1, 4.0)


def test_waiting_that_ends_does_not_count_as_a_call() -> None:
    b = broker(1)
    b.request("a")
    b.request("b")
    b.release("b", 1.0)
    waiting = b.request("c")
    assert isinstance(waiting, Waiting) and waiting.eta_s is None


def test_lost_engine_takes_its_leases_along_and_no_others() -> None:
    b = broker(1, 1)
    held = {b.request(call): call for call in "ab"}
    b.request("c")
    assert b.engine_down("engine-0") == [held[ONE]]
    assert (b.used, b.slots) == (1, 1)
    assert b.engine_of(held[ONE]) is None and b.engine_of(held[TWO]) == "engine-1"
    b.release(held[ONE], 3.0)
    assert b.assignments() == [], "the other engine is still full"
    assert [w.call_id for w in b.waiting()] == ["c"]
    assert b.engine_down("engine-0") == [] and b.engine_down("nobody") == []


def test_engine_that_comes_back_serves_the_queue() -> None:
    b = broker(1)
    b.request("a")
    b.request("b")
    b.request("c")
    b.engine_down("engine-0")
    assert b.assignments() == []
    b.engine_up(EngineAddress("engine-0", "ipc:///newer"), 1)
    assert b.assignments() == [("b", EngineAddress("engine-0", "ipc:///newer"))]
    assert b.engine_of("b") == "engine-0" and b.engine_of("c") is None


def test_without_engines_calls_wait() -> None:
    b = Broker(2)
    assert b.request("a") == Waiting("a", 1, None), "no start was seen"


def test_wait_for_an_engine_that_died_is_what_is_left_of_a_start_like_its_last() -> None:
    clock = Clock()
    b = Broker(8, clock)
    b.engine_up(ONE, 1, 20.0)
    b.request("held")
    b.release("held", 100.0)
    clock.now += 500.0
    b.engine_down("engine-0")
    assert b.request("a") == Waiting("a", 1, 20.0)
    clock.now += 15.5
    assert b.request("b") == Waiting("b", 2, 5.0)
    clock.now += 5.0
    assert [w.eta_s for w in b.waiting()] == [None, None], "it takes longer than the last"
    b.engine_up(ONE, 1, 30.0)
    b.engine_down("engine-0")
    assert [w.eta_s for w in b.waiting()] == [30.0, 30.0]


def test_no_slot_is_ever_leased_twice() -> None:
    rng = random.Random(11)
    b = broker(3, 2, max_queue=5)
    held: dict[str, str] = {}
    queued: list[str] = []
    for n in range(3000):
        call = f"c{n}"
        if rng.random() < 0.5 and (held or queued):
            gone = rng.choice([*held, *queued])
            b.release(gone, 1.0)
            held.pop(gone, None)
            queued = [c for c in queued if c != gone]
            for got, address in b.assignments():
                assert got == queued.pop(0), "out of order"
                held[got] = address.name
        else:
            try:
                place = b.request(call)
            except NoFreeSlot:
                assert len(queued) == 5
                continue
            if isinstance(place, EngineAddress):
                assert not queued
                held[call] = place.name
            else:
                queued.append(call)
        assert b.used == len(held) <= 5
        assert [w.call_id for w in b.waiting()] == queued
        for name, slots in (("engine-0", 3), ("engine-1", 2)):
            assert list(held.values()).count(name) <= slots


def test_calls_beyond_an_engines_capacity_wait_for_it_to_rise() -> None:
    b = broker(4)
    b.request("a")
    assert not b.set_capacity("engine-0", 1), "nobody waits"
    assert isinstance(b.request("b"), Waiting)
    assert (b.slots, b.capacity, b.used) == (4, 1, 1)
    assert b.assignments() == []
    assert b.set_capacity("engine-0", 2)
    assert b.assignments() == [("b", ONE)]


def test_engine_over_its_capacity_keeps_its_calls_and_gets_none() -> None:
    b = broker(3, 3)
    for n in range(4):
        b.request(f"c{n}")
    b.set_capacity("engine-0", 1)
    assert (b.used, b.capacity) == (4, 4)
    assert [b.request("d"), b.request("e").__class__] == [TWO, Waiting]
    b.release("c0")
    b.release("c1")
    assert b.engine_of("c2") and b.engine_of("c3")


def test_capacity_is_never_more_than_the_slots_and_an_engine_that_is_back_has_all() -> None:
    b = broker(2)
    b.set_capacity("engine-0", 9)
    assert b.capacity == 2
    b.set_capacity("engine-0", 0)
    assert b.capacity == 0 and isinstance(b.request("a"), Waiting)
    assert not b.set_capacity("engine-7", 5)
    b.engine_down("engine-0")
    b.engine_up(ONE, 2)
    assert b.assignments() == [("a", ONE)]
