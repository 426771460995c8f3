"""What a supervisor makes of the children of a front that died, and what it leaves to the next one.
The processes are on paper."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from engine.ipc.supervision import EXIT_FATAL, Fatal, Ready
from server.front import backoff
from server.front.processes import LeftChild
from server.front.supervisor import (
    ChildFailed,
    ChildLife,
    ChildSpec,
    Observer,
    Supervised,
    Supervisor,
)
from tests.waiting import until


class PaperProcess:
    """Lives until the test ends it."""

    pid = 4711

    def __init__(self) -> None:
        self.returncode: int | None = None
        self.kills = 0
        self._over = asyncio.Event()

    async def wait(self) -> int:
        await self._over.wait()
        assert self.returncode is not None
        return self.returncode

    def kill(self) -> None:
        self.kills += 1
        self.end()

    def end(self, code: int = -9) -> None:
        self.returncode = code
        self._over.set()


class PaperKeeper:
    """Has one child left; starts others, or cannot."""

    def __init__(self, life: ChildLife | None, process: PaperProcess | None) -> None:
        note = b"" if life is None else msgspec.msgpack.encode(life)
        self._left = None if life is None else LeftChild(process, note, None)
        self.lives: list[ChildLife] = []
        self.started: list[PaperProcess] = []
        self.has_room = False

    async def start(
        self, name: str, command: tuple[str, ...], line: bytes, note: bytes, *, has_way: bool
    ) -> tuple[PaperProcess, socket.socket | None]:
        self.note(name, note)
        if not self.has_room:
            raise OSError("no room")
        self.started.append(PaperProcess())
        return self.started[-1], None

    def note(self, name: str, note: bytes) -> None:
        self.lives.append(msgspec.msgpack.decode(note, type=ChildLife))

    def left(self, name: str) -> LeftChild | None:
        return self._left


class Downs(Observer):
    def __init__(self) -> None:
        self.names: list[str] = []

    def down(self, child: Supervised, reason: str) -> None:
        self.names.append(child.link_name)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(backoff, "PAUSES_S", (0.0,))
    yield


def life(*, is_ready: bool = True, was_ready: bool = True) -> ChildLife:
    return ChildLife(3, "secret", 0.0, restarts=2, is_ready=is_ready, was_ready=was_ready)


class Taking:
    """A supervisor with one child that was left to it."""

    def __init__(self, folder: Path, keeper: PaperKeeper, role: str = "engine") -> None:
        spec = ChildSpec(role, "child", "nothing", lambda generation, secret: b"", 60.0)  # type: ignore[arg-type]
        self.downs = Downs()
        self.supervisor = Supervisor(
            [spec], f"ipc://{folder}/control", Ready | Fatal, self.downs, processes=keeper
        )
        self.child = self.supervisor.children["child"]
        self.task = asyncio.create_task(self.supervisor.run())

    async def close(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])
        self.supervisor.close()

    def says(self, message: Ready | Fatal) -> None:
        self.supervisor._by_peer[b"peer"] = self.child
        self.supervisor._receive(b"peer", message)


async def test_child_that_has_served_is_tried_again_however_often_its_start_fails(
    tmp_path: Path,
) -> None:
    keeper = PaperKeeper(life(is_ready=False), None)
    taking = Taking(tmp_path, keeper, "worker")
    assert taking.supervisor.gone == ("child#3",)
    await until(lambda: len(keeper.lives) > 5)
    # An offer waits for it, as it does for one that is restarted by the same front.
    assert keeper.lives[0].restarts == 3 and keeper.lives[5].restarts == 8
    keeper.has_room = True
    await until(lambda: keeper.started)
    taking.says(Fatal("no memory"))
    keeper.started[0].end()
    await until(lambda: len(keeper.started) == 2)
    taking.says(Ready(4711))
    noted = keeper.lives[-1]
    assert noted.is_ready and noted.was_ready and noted.generation == taking.child.generation
    await taking.close()
    assert keeper.started[1].kills == 0, "the next front may have it"


@pytest.mark.parametrize("left", [None, life(is_ready=False, was_ready=False)])
async def test_child_that_never_served_and_cannot_start_ends_the_server(
    tmp_path: Path, left: ChildLife | None
) -> None:
    taking = Taking(tmp_path, PaperKeeper(left, None))
    with pytest.RaisesGroup(pytest.RaisesExc(ChildFailed, match="no room")):
        await taking.task
    await taking.close()


async def test_child_that_dies_before_it_tells_what_it_has_is_reported_once(tmp_path: Path) -> None:
    process = PaperProcess()
    taking = Taking(tmp_path, PaperKeeper(life(), process), "worker")
    assert taking.child.is_taken_over and taking.child.may_have_calls
    process.end()
    await until(lambda: taking.child.restarts > 4)
    assert taking.downs.names == ["child#3"] and taking.supervisor.gone == ("child#3",)
    await taking.close()


async def test_reason_of_a_child_is_heard_behind_its_death(tmp_path: Path) -> None:
    keeper = PaperKeeper(None, None)
    keeper.has_room = True
    taking = Taking(tmp_path, keeper)
    await until(lambda: keeper.started)
    taking.child.peer = b"peer"
    keeper.started[0].end(EXIT_FATAL)
    await asyncio.sleep(0)
    taking.says(Fatal("the model folder is empty"))
    with pytest.RaisesGroup(pytest.RaisesExc(ChildFailed, match="the model folder is empty")):
        await taking.task
    assert len(keeper.started) == 1
    await taking.close()


async def test_child_that_was_still_starting_has_no_calls(tmp_path: Path) -> None:
    taking = Taking(tmp_path, PaperKeeper(life(is_ready=False), PaperProcess()))
    assert taking.child.is_taken_over and not taking.child.may_have_calls
    await taking.close()
