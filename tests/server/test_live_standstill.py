"""Processes that stand still for seconds, are killed, or lose their sockets, in a running server.

Guarded: whoever stood still 8 s kills nobody when it goes on, and its calls go on; a caller of a
media worker that died is told by the front; calls go on without a front, and the next one has them;
a deleted socket folder costs no restart; children go before the front when memory runs out.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.caller import Caller
from tests.processes import of_role
from tests.server.front import buggy
from tests.serving import Serving
from tests.waiting import PATIENCE_S, until

pytestmark = pytest.mark.loopback

STANDSTILL_S = 8.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    # Short, or the sockets would be elsewhere.
    folder = Path("/tmp") / tmp_path_factory.mktemp("sockets").name
    folder.mkdir(exist_ok=True)
    command = (sys.executable, "-m", buggy.__name__)
    environment = {"TMPDIR": str(folder)}
    with Serving("--engine", "echo", command=command, environment=environment) as serving:
        vars(serving)["folder"] = folder
        yield serving
    shutil.rmtree(folder)


async def processes(server: Serving) -> dict[str, dict[str, Any]]:
    _, stats = await asyncio.to_thread(server.get, "/api/stats")
    return {row["name"]: row for row in stats["processes"]}


def is_new(server: Serving, role: str, pid: int) -> bool:
    """Whether another process has taken over from the one that was killed."""
    row = server.process(role)
    return bool(row["state"] == "ready" and row["pid"] != pid)


@pytest.mark.parametrize("role", ["front", "worker", "engine"])
async def test_standstill_kills_nobody_and_the_call_goes_on(server: Serving, role: str) -> None:
    before = await processes(server)
    pid = server.process(role)["pid"]
    async with Caller(server.url) as caller:
        await caller.hears("session.created")
        late = Caller(server.url)
        os.kill(pid, signal.SIGSTOP)
        try:
            if role == "engine":
                # It gets a slot of an engine that cannot answer, and waits for it.
                await late.accept(await late.offer())
            await asyncio.sleep(STANDSTILL_S)
        finally:
            os.kill(pid, signal.SIGCONT)
        if role == "engine":
            await late.hears("session.created")
        await late.__aexit__(None, None, None)
        # As long as any of those who watch would need to judge.
        await asyncio.sleep(2.5)
        heard = caller.heard_samples
        await until(lambda: caller.heard_samples > heard + 24_000)
        assert server.get(caller.location)[0] == 200
        assert [e for e in caller.events if e["type"] in ("error", "session.ended")] == []
    after = await processes(server)
    assert {n: p["pid"] for n, p in after.items()} == {n: p["pid"] for n, p in before.items()}


async def test_deleted_sockets_cost_no_restart(server: Serving) -> None:
    [folder] = [p for p in os.listdir(vars(server)["folder"]) if p.startswith("omnicall-")]
    async with Caller(server.url) as caller:
        await caller.hears("session.created")
        shutil.rmtree(os.path.join(vars(server)["folder"], folder))
        for role in ("engine", "worker"):
            pid = server.process(role)["pid"]
            os.kill(pid, signal.SIGKILL)
            await until(lambda role=role, pid=pid: is_new(server, role, pid), 30)  # type: ignore[misc]
            async with Caller(server.url) as again:
                await again.hears("session.created")
    assert server.get("/health")[0] == 200


async def test_caller_of_a_dead_media_worker_is_told_by_the_front(server: Serving) -> None:
    async with Caller(server.url) as caller:
        await caller.hears("session.created")
        assert server.get(caller.location)[0] == 200
        pid = server.process("worker")["pid"]
        os.kill(pid, signal.SIGKILL)
        await until(lambda: server.get(caller.location)[0] != 200, 5)
        status, body = server.get(caller.location)
        assert (status, body["error"]["code"]) == (410, "worker_gone")
        await until(lambda: is_new(server, "worker", pid))
        async with Caller(server.url) as again:
            await again.hears("session.created")


async def test_calls_go_on_without_a_front_and_the_next_one_has_them(server: Serving) -> None:
    before = await processes(server)
    async with Caller(server.url) as caller, Caller(server.url) as other:
        await caller.hears("session.created")
        await other.hears("session.created")
        buggy_front = server.front
        os.kill(buggy_front, buggy.WAKES)
        await until(lambda: fronts(server) not in ([], [buggy_front]))
        await is_known(server, caller.location)
        second = server.front
        os.kill(second, signal.SIGKILL)
        await until(lambda: fronts(server) not in ([], [second]))
        [successor] = fronts(server)
        os.kill(successor, signal.SIGSTOP)
        try:
            # Nobody is there to be asked, and sound comes all the same.
            heard = caller.heard_samples
            await until(lambda: caller.heard_samples > heard + 48_000)
        finally:
            os.kill(successor, signal.SIGCONT)
        await is_known(server, caller.location)
        assert server.get("/api/stats")[1]["slots"]["used"] == 2
        await caller.hang_up()
        await until(lambda: server.get("/api/stats")[1]["slots"]["used"] == 1)
        assert server.get(caller.location)[0] == 410
        heard = other.heard_samples
        await until(lambda: other.heard_samples > heard + 24_000)
        assert [e for e in other.events if e["type"] in ("error", "session.ended")] == []
    after = await processes(server)
    assert {name for name in after if after[name]["pid"] != before[name]["pid"]} == {"front"}
    assert after["front"]["restarts"] == 2


async def is_known(server: Serving, location: str) -> None:
    """Ask a front that begins until it knows the call; its start may take long."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with contextlib.suppress(OSError):
                if (await asyncio.to_thread(server.get, location))[0] == 200:
                    return
            await asyncio.sleep(0.1)


def fronts(server: Serving) -> list[int]:
    """Without one the keeper alone looks like it."""
    return [pid for pid in of_role(server.pid, "front") if pid != server.pid]


@pytest.mark.skipif(not Path("/proc/self/oom_score_adj").exists(), reason="Linux only")
async def test_children_go_before_the_front_when_memory_runs_out(server: Serving) -> None:
    def score(pid: int) -> int:
        return int(Path(f"/proc/{pid}/oom_score_adj").read_text())

    front = server.front
    children = {child.pid for child in psutil.Process(server.pid).children()} - {front}
    assert len(children) == 2 and all(score(child) > score(front) for child in children)
    assert score(front) > score(server.pid)
