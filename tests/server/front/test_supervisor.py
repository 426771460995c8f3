"""Supervision of real child processes: started, watched, restarted, ended, never orphaned.

Guarded: typed Ready with a timeout; Fatal and repeated failures at the start; a crash, a hang and
their restarts with back-off; generations kept apart; the end in order and by force; kill -9 of the
supervising process.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from engine.ipc.patience import Patience
from engine.ipc.protocol import VERSION, Hello, Ping
from engine.ipc.supervision import Progress, credential
from server.front import backoff
from server.front import supervisor as module
from server.front.supervisor import ChildFailed, Observer, Supervised, Supervisor
from tests import ROOT
from tests.engine.ipc.raw_peer import dealer
from tests.server.front.child import PARENT, stats
from tests.server.front.child import supervisor as supervise
from tests.waiting import Clock, until

pytestmark = pytest.mark.loopback


class Watcher(Observer):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, ...]] = []
        self.messages: list[Any] = []

    def progress(self, child: Supervised, progress: Progress) -> None:
        self.told.append(("progress", child.spec.name, progress.text))

    def up(self, child: Supervised) -> None:
        self.told.append(("up", child.spec.name))

    def down(self, child: Supervised, reason: str) -> None:
        self.told.append(("down", child.spec.name, reason))

    def message(self, child: Supervised, message: Any) -> None:
        self.messages.append(message)


class Run:
    """A supervisor that runs, and its pauses."""

    def __init__(self, supervisor: Supervisor, watcher: Watcher) -> None:
        self.supervisor = supervisor
        self.watcher = watcher
        self.task = asyncio.create_task(supervisor.run())

    def __getitem__(self, name: str) -> Supervised:
        return self.supervisor.children[name]

    async def ready(self, name: str, generation: int = 1) -> Supervised:
        child = self[name]
        await until(lambda: child.state == "ready" and child.generation == generation)
        return child

    async def close(self) -> None:
        await self.supervisor.stop(0.0)
        self.task.cancel()
        await asyncio.wait([self.task])
        self.supervisor.close()


Start = Callable[..., Run]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    runs: list[Run] = []

    def start(behaviours: dict[str, str], **options: Any) -> Run:
        watcher = Watcher()
        runs.append(Run(supervise(str(tmp_path), behaviours, watcher, **options), watcher))
        return runs[-1]

    yield start
    for run in runs:
        await run.close()


@pytest.fixture
def quick_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "PAUSES_S", (0.01, 0.02, 0.03))


@pytest.fixture
def quick_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TICK_S", 0.02)


def is_alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


# ---------------------------------------------------------------- starting


async def test_children_become_ready_and_their_owner_hears_of_it(start: Start) -> None:
    run = start({"engine-0": "good", "worker-0": "good"})
    engine, worker = await run.ready("engine-0"), await run.ready("worker-0")
    assert engine.ready is not None and engine.ready.pid == engine.pid != worker.pid
    assert engine.endpoint == "ipc:///life/1" and engine.is_ready.is_set()
    assert ("progress", "engine-0", "life 1") in run.watcher.told
    assert run.watcher.told.count(("up", "engine-0")) == 1
    await until(lambda: len(run.watcher.messages) == 2)
    assert run.watcher.messages == [stats(1), stats(1)]


async def test_messages_reach_a_child_that_said_hello_and_no_other(start: Start) -> None:
    run = start({"engine-0": "good"})
    child = run["engine-0"]
    assert not run.supervisor.send(child, Ping(1)), "it cannot have said hello yet"
    await run.ready("engine-0")
    child.patience.silent_s = 5.0
    assert run.supervisor.send(child, Ping(2))
    await until(lambda: child.patience.silent_s < 5.0)


async def test_child_that_is_not_ready_in_time_is_killed_and_tried_again(
    start: Start, quick_backoff: None, quick_watch: None
) -> None:
    run = start({"engine-0": "never ready"}, ready_timeout_s=0.3)
    with pytest.raises(ExceptionGroup) as caught:
        await run.task
    failed = caught.value.exceptions[0]
    assert isinstance(failed, ChildFailed)
    assert str(failed).startswith("engine-0: no progress for 0.3 s")
    assert run["engine-0"].generation == 3
    assert not any(told[0] in ("up", "down") for told in run.watcher.told)


async def minute_passes(child: Supervised, clock: Clock) -> None:
    """A minute in which the watch looks at the child in time."""
    for _ in range(30):
        clock.now += 1.9
        await until(lambda: child.patience._checked_at == clock.now or child.state != "starting")


async def test_start_may_take_long_while_it_makes_progress(
    start: Start, quick_watch: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    run = start({"engine-0": "never ready"}, ready_timeout_s=70.0)
    monkeypatch.setattr(run.supervisor, "_clock", clock)
    child = run["engine-0"]
    await until(lambda: child.progress)
    for step in ("one", "two"):
        await minute_passes(child, clock)
        run.supervisor._receive(child.peer, Progress(step))
    assert (child.generation, child.state, child.reason) == (1, "starting", "")
    assert child.step_at == clock.now and child.started_at < clock.now - 100.0


async def test_download_is_outside_the_limit_of_a_start(
    start: Start, quick_watch: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    run = start({"engine-0": "downloads"}, ready_timeout_s=30.0)
    monkeypatch.setattr(run.supervisor, "_clock", clock)
    child = run["engine-0"]
    await until(lambda: child.progress is not None and child.progress.is_download)
    assert child.progress is not None and child.progress.percent == 40
    began_at = child.step_at
    await minute_passes(child, clock)
    assert (child.generation, child.state, child.reason) == (1, "starting", "")
    run.supervisor._receive(child.peer, Progress("downloading a model", 41, 100, is_download=True))
    assert child.step_at == began_at, "it is still the same step"
    run.supervisor._receive(child.peer, Progress("loading"))
    await minute_passes(child, clock)
    await until(lambda: child.generation == 2)


async def test_fatal_at_the_start_is_not_tried_again_and_tells_the_reason(start: Start) -> None:
    run = start({"engine-0": "fatal"})
    with pytest.raises(ExceptionGroup) as caught:
        await run.task
    assert [str(error) for error in caught.value.exceptions] == [
        "engine-0: the model folder is empty"
    ]
    assert run["engine-0"].generation == 1


async def test_child_that_cannot_start_is_given_up_with_its_exit_code(
    start: Start, quick_backoff: None
) -> None:
    run = start({"engine-0": "exit"})
    with pytest.raises(ExceptionGroup) as caught:
        await run.task
    assert str(caught.value.exceptions[0]) == "engine-0: exit code 7"
    assert run["engine-0"].generation == module.FIRST_START_TRIES


async def test_child_that_can_never_start_leaves_the_others_to_be_ended(start: Start) -> None:
    run = start({"worker-0": "good", "engine-0": "fatal"})
    worker = run["worker-0"]
    await until(lambda: worker.pid)
    pid = worker.pid
    with pytest.raises(ExceptionGroup):
        await run.task
    # Its owner ends them in order: their callers are told.
    assert is_alive(pid)
    await run.supervisor.stop(0.0)
    assert not is_alive(pid)


async def test_child_that_starts_at_the_third_try_is_kept(
    start: Start, quick_backoff: None
) -> None:
    run = start({"engine-0": "exit twice"})
    child = await run.ready("engine-0", generation=3)
    assert child.restarts == 2 and not run.task.done()


# ---------------------------------------------------------------- crashes and hangs


async def test_crashed_child_is_restarted_as_a_new_generation(
    start: Start, quick_backoff: None
) -> None:
    run = start({"engine-0": "good", "engine-1": "good"})
    child, other = await run.ready("engine-0"), await run.ready("engine-1")
    pids = child.pid, other.pid
    os.kill(child.pid, signal.SIGKILL)
    await run.ready("engine-0", generation=2)
    assert ("down", "engine-0", "killed by signal 9") in run.watcher.told
    assert child.pid != pids[0] and child.restarts == 1
    assert child.endpoint == "ipc:///life/2", "a new life listens at an address of its own"
    assert (other.pid, other.generation, other.state) == (pids[1], 1, "ready")
    assert run.watcher.told.count(("up", "engine-0")) == 2


async def test_child_that_was_ready_once_is_restarted_whatever_it_says(
    start: Start, quick_backoff: None
) -> None:
    run = start({"engine-0": "fatal later"})
    child = await run.ready("engine-0")
    os.kill(child.pid, signal.SIGKILL)
    await until(lambda: child.generation >= 4)
    assert not run.task.done()
    assert run.watcher.told.count(("down", "engine-0", "killed by signal 9")) == 1


async def test_child_that_says_it_is_broken_serves_nobody_while_it_still_runs(start: Start) -> None:
    run = start({"engine-0": "breaks"})
    down = ("down", "engine-0", "its only thread has died")
    await until(lambda: down in run.watcher.told)
    child = run["engine-0"]
    assert child.state == "failed" and child.generation == 1 and is_alive(child.pid)
    os.kill(child.pid, signal.SIGKILL)
    # The next one breaks as well.
    await until(lambda: run.watcher.told.count(down) == 2)
    assert child.generation == 2 and not run.task.done()
    assert run.watcher.told.count(("up", "engine-0")) == 2


async def test_pauses_between_restarts_grow_and_a_good_life_resets_them(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(backoff, "PAUSES_S", (0.001, 0.002, 0.003))
    clock = Clock()
    pauses: list[float] = []
    real_sleep = asyncio.sleep

    async def sleep(seconds: float) -> None:
        if seconds in backoff.PAUSES_S:
            pauses.append(seconds)
        await real_sleep(seconds)

    watcher = Watcher()
    made = supervise(str(tmp_path), {"engine-0": "good"}, watcher)
    monkeypatch.setattr(made, "_clock", clock)
    monkeypatch.setattr("server.front.supervisor.asyncio.sleep", sleep)
    run = Run(made, watcher)
    child = run["engine-0"]
    for generation in (1, 2, 3, 4):
        await run.ready("engine-0", generation)
        os.kill(child.pid, signal.SIGKILL)
    await run.ready("engine-0", 5)
    assert pauses == [0.001, 0.002, 0.003, 0.003]
    clock.now += backoff.GOOD_LIFE_S + 1
    os.kill(child.pid, signal.SIGKILL)
    await run.ready("engine-0", 6)
    assert pauses == [0.001, 0.002, 0.003, 0.003, 0.001]
    await run.close()


async def test_hung_child_is_killed_and_restarted(
    start: Start, quick_backoff: None, quick_watch: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SILENCE_LIMIT_S", 1.0)
    run = start({"engine-0": "good"})
    child = await run.ready("engine-0")
    pid = child.pid
    os.kill(pid, signal.SIGSTOP)
    await run.ready("engine-0", generation=2)
    downs = [told[2] for told in run.watcher.told if told[0] == "down"]
    assert len(downs) == 1 and downs[0].startswith("no sign of life for ")
    assert not is_alive(pid)


async def test_child_that_answers_pings_is_left_alone(
    start: Start, quick_watch: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start({"engine-0": "good"})
    child = await run.ready("engine-0")
    for _ in range(10):
        child.patience.silent_s = module.SILENCE_LIMIT_S - 1.0
        await until(lambda: child.patience.silent_s < 1.0)
    assert child.generation == 1 and child.state == "ready"


class Interrupted(Patience):
    """Before its next check this process stands still; keeps the silence that was found then."""

    def __init__(self, patience: Patience, clock: Clock) -> None:
        vars(self).update(vars(patience))
        self.clock = clock
        self.stand_still_s = 0.0
        self.found_s: float | None = None

    def check(self) -> bool:
        if not self.stand_still_s:
            return super().check()
        self.clock.now += self.stand_still_s
        is_over = super().check()
        self.stand_still_s, self.found_s = 0.0, self.silent_s
        return is_over


async def test_own_standstill_is_not_taken_for_the_childs_death(
    start: Start, quick_watch: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long this process stood still: what the child said meanwhile is still to be read."""
    monkeypatch.setattr(module, "SILENCE_LIMIT_S", 6.0)
    clock = Clock()
    run = start({"engine-0": "good"})
    child = run["engine-0"]
    monkeypatch.setattr(run.supervisor, "_clock", clock)
    await run.ready("engine-0")
    patience = Interrupted(child.patience, clock)
    child.patience = patience
    for stood_still_s in (8.0, 100.0, 3600.0):
        patience.stand_still_s, patience.found_s = stood_still_s, None
        # That check counts two ticks, and the child's next answer makes up for them.
        await until(lambda: patience.found_s is not None)
        assert patience.found_s == 2.0
        await until(lambda: patience.silent_s == 0.0)
    assert (child.generation, child.state) == (1, "ready") and not child.reason


async def test_own_standstill_is_not_taken_for_a_slow_start(
    start: Start, quick_watch: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    run = start({"engine-0": "never ready"}, ready_timeout_s=30.0)
    monkeypatch.setattr(run.supervisor, "_clock", clock)
    child = run["engine-0"]
    await until(lambda: child.peer)
    clock.now += 300.0

    def is_silent() -> bool:
        # On and on: what was under way at the jump may still have been heard after it.
        clock.now += 0.01
        return child.patience.silent_s > 0.0

    await until(is_silent)
    assert child.state == "starting" and not child.reason


# ---------------------------------------------------------------- generations


async def test_stranger_on_the_control_link_is_not_listened_to(
    start: Start, tmp_path: Path
) -> None:
    run = start({"engine-0": "good"})
    await run.ready("engine-0")
    await until(lambda: run.watcher.messages)
    with dealer(run.supervisor.control) as raw:
        raw.say(Hello(VERSION, "somebody"))
        raw.say(stats(666))
        assert b"hello_expected" in (await raw.receive())[-1]
    assert stats(666) not in run.watcher.messages


@pytest.mark.parametrize("said", ["engine-0#1", "engine-0#1:", "engine-0#1:" + "0" * 32])
async def test_who_takes_a_living_childs_name_is_refused_and_the_child_lives_on(
    start: Start, quick_watch: None, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = start({"engine-0": "good"})
    child = await run.ready("engine-0")
    await until(lambda: run.watcher.messages)
    peer, pid = child.peer, child.pid
    with dealer(run.supervisor.control) as raw:
        raw.say(Hello(VERSION, said))
        raw.say(stats(666))
        assert b"hello_expected" in (await raw.receive())[-1]
    assert child.peer == peer and stats(666) not in run.watcher.messages
    assert "a stranger called engine-0#1 dialled" in caplog.text
    child.patience.silent_s = 5.0
    await until(lambda: child.patience.silent_s == 0.0)
    assert (child.pid, child.generation, child.state) == (pid, 1, "ready")


async def test_child_says_hello_once(start: Start) -> None:
    """Even with its secret: who has it twice is not the child, or the child is not well."""
    run = start({"engine-0": "good"})
    child = await run.ready("engine-0")
    peer = child.peer
    with dealer(run.supervisor.control) as raw:
        raw.say(Hello(VERSION, credential(child.link_name, child.secret)))
        raw.say(stats(666))
        assert b"hello_expected" in (await raw.receive())[-1]
    assert child.peer == peer and stats(666) not in run.watcher.messages


async def test_secret_is_new_in_each_life_and_not_in_the_log(
    start: Start, quick_backoff: None, caplog: pytest.LogCaptureFixture
) -> None:
    run = start({"engine-0": "good"})
    child = await run.ready("engine-0")
    first = child.secret
    os.kill(child.pid, signal.SIGKILL)
    await run.ready("engine-0", generation=2)
    assert len(first) == len(child.secret) == 32 and first != child.secret
    with dealer(run.supervisor.control) as raw:
        # A process of the first life that the kill has not reached yet.
        raw.say(Hello(VERSION, credential("engine-0#1", first)))
        raw.say(stats(666))
        assert b"hello_expected" in (await raw.receive())[-1]
    assert stats(666) not in run.watcher.messages
    assert first not in caplog.text and child.secret not in caplog.text


async def test_late_message_of_a_buried_child_is_ignored(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backoff, "PAUSES_S", (60.0,))
    run = start({"engine-0": "silent"})
    child = run["engine-0"]
    await until(lambda: child.secret)
    # It has said hello as this very life, and outlives the process that is watched.
    with dealer(run.supervisor.control) as raw:
        raw.say(Hello(VERSION, credential("engine-0#1", child.secret)))
        raw.say(stats(5))
        await until(lambda: stats(5) in run.watcher.messages)
        os.kill(child.pid, signal.SIGKILL)
        await until(lambda: child.state == "backoff")
        raw.say(stats(666))
        assert b"hello_expected" in (await raw.receive())[-1]
    assert stats(666) not in run.watcher.messages
    assert not run.supervisor.send(child, Ping(1))


async def test_children_can_be_restarted_after_the_sockets_were_deleted(
    start: Start, quick_backoff: None, quick_watch: None, tmp_path: Path
) -> None:
    """As cleaners of temporary folders do; those that are connected notice nothing."""
    run = start({"engine-0": "good", "engine-1": "good"})
    child, other = await run.ready("engine-0"), await run.ready("engine-1")
    pid = other.pid
    (tmp_path / "control").unlink()
    os.kill(child.pid, signal.SIGKILL)
    await run.ready("engine-0", generation=2)
    other.patience.silent_s = 5.0
    await until(lambda: other.patience.silent_s == 0.0)
    assert (other.pid, other.generation) == (pid, 1)


# ---------------------------------------------------------------- the end


def stopped(folder: Path) -> list[tuple[str, float]]:
    """The notes that the children left."""
    return [json.loads(line) for line in (folder / "stopped").read_text().splitlines()]


async def test_stop_ends_every_child_in_order_and_is_no_crash(start: Start, tmp_path: Path) -> None:
    run = start({"engine-0": "good", "worker-0": "good"})
    engine, worker = await run.ready("engine-0"), await run.ready("worker-0")
    pids = engine.pid, worker.pid
    await run.supervisor.stop(10.0)
    await run.task
    assert not any(is_alive(pid) for pid in pids)
    notes = stopped(tmp_path)
    # Media workers end first, to tell their callers.
    assert [name for name, _ in notes] == ["worker-0#1", "engine-0#1"]
    graces = [grace for _, grace in notes]
    assert all(0 < grace < 10 for grace in graces) and sum(graces) < 10
    assert (engine.state, worker.state) == ("stopped", "stopped")
    assert engine.restarts == worker.restarts == 0


async def test_stubborn_child_is_killed_within_the_grace(start: Start) -> None:
    run = start({"engine-0": "stubborn", "worker-0": "stubborn"})
    pids = [(await run.ready(name)).pid for name in ("engine-0", "worker-0")]
    begun = time.monotonic()
    await run.supervisor.stop(0.5)
    await run.task
    took_s = time.monotonic() - begun
    assert took_s > 0.4, "they had no time to end"
    assert not any(is_alive(pid) for pid in pids)


async def test_hung_child_is_ended_too(start: Start) -> None:
    run = start({"worker-0": "good"})
    child = await run.ready("worker-0")
    pid = child.pid
    os.kill(pid, signal.SIGSTOP)
    await run.supervisor.stop(0.5)
    await run.task
    assert not is_alive(pid)


async def test_stop_while_a_child_waits_for_its_restart_starts_none(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backoff, "PAUSES_S", (0.3,))
    run = start({"engine-0": "good"})
    child = await run.ready("engine-0")
    os.kill(child.pid, signal.SIGKILL)
    await until(lambda: child.state == "backoff")
    await run.supervisor.stop(1.0)
    await run.task
    assert child.generation == 1 and child.process is None


async def test_killed_supervisor_leaves_no_child(tmp_path: Path) -> None:
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PARENT, str(tmp_path)), stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    assert parent.stdout is not None
    pids = json.loads(await parent.stdout.readline())
    assert len(pids) == 2 and all(is_alive(pid) for pid in pids)
    parent.kill()
    await parent.wait()
    await until(lambda: not any(is_alive(pid) for pid in pids))
