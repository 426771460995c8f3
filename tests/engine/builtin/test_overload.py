"""Too many speakers for the machine, in virtual time: bounded work, a floor, a quick recovery."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from engine.builtin.interfaces import Transcript
from engine.builtin.recogniser import MAX_PER_CORE, WAITING_PER_RUNNING, RecogniserPool
from engine.builtin.recogniser_process import SPIN_S, STILL_S
from engine.builtin.utterance import WINDOW_BYTES, Waits
from tests.engine.builtin.fake_recognisers import BYTES_PER_S, CPU_PER_S, Machine
from tests.virtual_time import run

CORES = 2
STEP_S = 0.1


async def started(machine: Machine, **more: Any) -> RecogniserPool:
    pool = RecogniserPool(
        2, cores=CORES, start_forkserver=machine.start, cpu_s=machine.cpu_of, **more
    )
    await pool.start(lambda _: None)
    await asyncio.sleep(1)
    return pool


def play(
    monkeypatch: pytest.MonkeyPatch, scene: Callable[[Machine], Coroutine[Any, Any, None]]
) -> None:
    async def main() -> None:
        machine = Machine(CORES)
        machine.patch(monkeypatch)
        await scene(machine)

    run(main)


async def speak(pool: RecogniserPool, seconds: float) -> Transcript:
    """An utterance in real time."""
    utterance = pool.listen_for(commands=True).listen(lambda _: None)
    for _ in range(round(seconds / STEP_S)):
        await asyncio.sleep(STEP_S)
        utterance.feed(bytes(round(STEP_S * BYTES_PER_S)))
    return await utterance.finish()


def now() -> float:
    return asyncio.get_running_loop().time()


async def talk(pool: RecogniserPool, until_s: float, found: list[tuple[float, Transcript]]) -> None:
    while now() < until_s:
        found.append((now(), await speak(pool, 3.0)))
        await asyncio.sleep(0.5)


@pytest.mark.parametrize("share", [0.6, 0.2, 0.06])
def test_two_minutes_of_overload_are_survived_and_forgotten(
    monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    async def scene(machine: Machine) -> None:
        pool = await started(machine)
        most = MAX_PER_CORE * CORES
        machine.share = share
        begun, found, peak = now(), list[tuple[float, Transcript]](), 0

        async def watch() -> None:
            nonlocal peak
            while True:
                assert len(pool.pids) <= most
                peak = max(peak, pool.waiting)
                await asyncio.sleep(0.1)

        watching = asyncio.ensure_future(watch())
        await asyncio.gather(*(talk(pool, begun + 120, found) for _ in range(16)))
        machine.share = 1.0
        quiet = now()
        assert await speak(pool, 1.0) == Transcript("understood")
        assert now() - quiet <= 5
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        assert 0 < peak <= WAITING_PER_RUNNING * most
        # Nobody was killed or forked anew, and nobody's failure has another reason.
        assert machine.kills == [] and pool.crashes == 0 and machine.forks <= most
        failed = [transcript for _, transcript in found if not transcript.text]
        assert failed and all(transcript.is_overload for transcript in failed)
        assert pool.dropped == len(failed)
        if share >= 0.2:
            # The floor: work that was begun is not thrown away.
            understood = [at for at, transcript in found if transcript.text]
            gaps = [b - a for a, b in zip([begun, *understood], [*understood, quiet], strict=True)]
            assert max(gaps) < 20
        await asyncio.sleep(60)
        assert pool.waiting == 0 and len(pool.pids) == 2
        await pool.close()

    play(monkeypatch, scene)


def test_an_utterance_that_waits_too_long_after_its_end_is_told_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scene(machine: Machine) -> None:
        pool = await started(machine, waits=Waits(for_turn=4, for_text=15))
        machine.share = 0.005
        others = [asyncio.ensure_future(speak(pool, 1.0)) for _ in range(MAX_PER_CORE * CORES)]
        await asyncio.sleep(0.5)
        begun = now()
        assert (await speak(pool, 1.0)).is_overload
        assert now() - begun == pytest.approx(5)
        transcripts = await asyncio.gather(*others)
        assert all(transcript.is_overload for transcript in transcripts)
        # 15 s after their ends, which they never reached; yet they made progress.
        assert now() - begun < 17 and machine.kills == []
        await pool.close()

    play(monkeypatch, scene)


def test_alone_a_slow_utterance_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(machine: Machine) -> None:
        pool = await started(machine)
        machine.share = 0.13
        begun = now()
        assert (await speak(pool, 3.0)).text == "understood"
        assert 10 < now() - begun < 18
        await pool.close()

    play(monkeypatch, scene)


def test_what_is_given_up_leaves_little_work_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(machine: Machine) -> None:
        pool = await started(machine)
        machine.share = 1e-9
        utterance = pool.listen_for(commands=True).listen(lambda _: None)
        utterance.feed(bytes(30 * BYTES_PER_S))
        await asyncio.sleep(1)
        utterance.abandon()
        machine.share = 1.0
        before = sum(machine.cpu_s.values())
        await asyncio.sleep(30)
        spent_s = sum(machine.cpu_s.values()) - before
        assert spent_s <= 1.3 * 0.25 * WINDOW_BYTES / BYTES_PER_S
        await pool.close()

    play(monkeypatch, scene)


def test_who_speaks_and_does_not_go_on_keeps_no_recogniser_from_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Turns that are committed by hand, and never are: all recognisers would be theirs."""

    async def scene(machine: Machine) -> None:
        pool = await started(machine)
        open_turns = [
            pool.listen_for(commands=True).listen(lambda _: None)
            for _ in range(MAX_PER_CORE * CORES)
        ]
        for turn in open_turns:
            turn.feed(bytes(BYTES_PER_S))
        await asyncio.sleep(3)
        for _ in range(3):
            begun = now()
            assert (await speak(pool, 1.0)).text == "understood"
            assert now() - begun < 2
        fed_s = sum(machine.cpu_s.values()) / CPU_PER_S
        for turn in open_turns:
            turn.feed(bytes(BYTES_PER_S))
        found = await asyncio.gather(*(turn.finish() for turn in open_turns))
        assert [transcript.text for transcript in found] == ["understood"] * len(found)
        # One was taken over by another recogniser, which heard all of it.
        again_s = sum(machine.cpu_s.values()) / CPU_PER_S - fed_s
        assert again_s == pytest.approx(len(found) + 1, abs=0.2)
        await pool.close()

    play(monkeypatch, scene)


def test_who_is_cancelled_while_waiting_for_the_words_has_given_them_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scene(machine: Machine) -> None:
        pool = await started(machine)
        machine.share = 0.02
        speaking = [asyncio.ensure_future(speak(pool, 1.0)) for _ in range(MAX_PER_CORE * CORES)]
        waiting = asyncio.ensure_future(speak(pool, 1.0))
        await asyncio.sleep(2)
        assert pool.waiting == 1
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert pool.waiting == 0
        for task in speaking:
            task.cancel()
        await asyncio.gather(*speaking, return_exceptions=True)
        machine.share = 1.0
        begun = now()
        assert (await speak(pool, 1.0)).text == "understood"
        assert now() - begun < 3
        await pool.close()

    play(monkeypatch, scene)


@pytest.mark.parametrize("way", ["stopped", "spinning"])
def test_a_stuck_recogniser_is_ended_and_replaced(
    monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    async def scene(machine: Machine) -> None:
        pool = await started(machine, waits=Waits(60, 60))
        getattr(machine, way).update(pool.pids)
        utterance = pool.listen_for(commands=True).listen(lambda _: None)
        utterance.feed(bytes(BYTES_PER_S))
        begun = now()
        assert (await utterance.finish()).error == "the speech recogniser stopped"
        limit_s = STILL_S if way == "stopped" else SPIN_S
        assert limit_s - 1 <= now() - begun <= limit_s + 3
        assert len(machine.kills) == 1
        await asyncio.sleep(1)
        assert len(pool.pids) == 2
        await pool.close()

    play(monkeypatch, scene)


def test_a_starved_recogniser_is_not_taken_for_a_stuck_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(machine: Machine) -> None:
        pool = await started(machine, waits=Waits(200, 200))
        machine.share = 0.005
        assert (await speak(pool, 1.0)).text == "understood"
        assert now() > 40 and machine.kills == []
        await pool.close()

    play(monkeypatch, scene)


def test_an_idle_recogniser_is_never_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(machine: Machine) -> None:
        pool = await started(machine)
        await asyncio.sleep(300)
        utterance = pool.listen_for(commands=True).listen(lambda _: None)
        utterance.feed(bytes(640))
        await asyncio.sleep(300)
        assert machine.kills == [] and len(pool.pids) == 2
        await pool.close()

    play(monkeypatch, scene)


def test_our_own_standstill_is_no_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(machine: Machine) -> None:
        pool = await started(machine, waits=Waits(9_000, 9_000))
        machine.stopped.update(pool.pids)
        waiting = asyncio.ensure_future(speak(pool, 1.0))
        await asyncio.sleep(3)
        loop = asyncio.get_running_loop()
        loop._jumping.now += 3600  # type: ignore[attr-defined]
        await asyncio.sleep(0.5)
        assert machine.kills == []
        machine.stopped.clear()
        assert (await waiting).text == "understood"
        await pool.close()

    play(monkeypatch, scene)


def test_a_forkserver_that_forks_nothing_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(machine: Machine) -> None:
        machine.forks_nothing = True
        pool = await started(machine)
        assert pool.pids == []
        await asyncio.sleep(60)
        assert len(pool.pids) == 2
        assert (await speak(pool, 1.0)).text == "understood"
        await pool.close()

    play(monkeypatch, scene)


def test_recognisers_that_die_at_once_are_no_fork_storm(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(machine: Machine) -> None:
        machine.dies_at_once = True
        pool = await started(machine)
        found = list[tuple[float, Transcript]]()
        await asyncio.gather(*(talk(pool, now() + 60, found) for _ in range(8)))
        assert machine.forks < 45
        assert all(not transcript.text for _, transcript in found)
        machine.dies_at_once = False
        await asyncio.sleep(6)
        assert (await speak(pool, 1.0)).text == "understood"
        await pool.close()

    play(monkeypatch, scene)
