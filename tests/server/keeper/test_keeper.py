"""The keeper with real processes: what it passes on, what outlives a front, and that nothing else
outlives itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests import ROOT
from tests.waiting import PATIENCE_S, until_blocking

pytestmark = pytest.mark.loopback


ENDS = """
import os, pathlib, signal, sys, time
from server.keeper import keeper as module
from server.keeper.messages import StartChild
folder, number = pathlib.Path(sys.argv[1]), int(sys.argv[2])
module.END_GRACE_S = 600.0
keeper = module.Keeper()
keeper._catch_signals()
shell = 'trap "echo $0; exit" TERM; touch "$1/$0"; while :; do sleep 0.02; done'
for name, passed in (("engine", 0), ("worker", 1)):
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(1 + passed)]
    told = StartChild(name, ("sh", "-c", shell, name, str(folder)), b"", passed)
    keeper._start(told, files)
orphan = os.spawnlp(os.P_NOWAIT, "true", "true")
while len(list(folder.iterdir())) < 2:
    time.sleep(0.01)
os.waitid(os.P_PID, orphan, os.WEXITED | os.WNOWAIT)
keeper._bury_orphans()
try:
    os.waitpid(orphan, os.WNOHANG)
except ChildProcessError:
    print("buried", flush=True)
for _ in range(number):
    os.kill(os.getpid(), signal.SIGTERM)
    keeper._select(0.0)
sys.exit(keeper._end(4))
"""
"""A keeper without a front, told so often to stop."""


class Kept:
    """The keeper's process, and the fronts that answer on its stdout."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.server.keeper.program"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.front = self.answer()

    def say(self, *command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()

    def ask(self, *command: str) -> dict[str, Any]:
        self.say(*command)
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """The next line of a front; a child says on the same stdout what it was told."""
        assert self.process.stdout is not None
        while not (line := self.process.stdout.readline()).startswith("{"):
            assert line, "the keeper has ended"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def start(self, name: str) -> int:
        return int(self.ask("start", name)["pid"])

    def ended(self) -> int:
        return self.process.wait(PATIENCE_S)

    def complaints(self) -> list[str]:
        assert self.process.stderr is not None
        return self.process.stderr.read().splitlines()


@pytest.fixture
def kept() -> Iterator[Kept]:
    made = Kept()
    yield made
    made.process.kill()
    with made.process:
        pass


def is_alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_front_that_dies_has_a_successor_who_finds_all_that_was_kept(kept: Kept) -> None:
    assert kept.front["life"] == 1 and kept.front["parent"] == kept.process.pid
    one, two = kept.start("one"), kept.start("two")
    assert "No such file" in kept.ask("start nothing")["error"]
    kept.say("remember", "name", "value")
    kept.ask("serve")
    os.kill(kept.front["pid"], signal.SIGKILL)
    again = kept.answer()
    assert (again["life"], again["ended"]) == (2, "killed by signal 9")
    assert is_alive(one) and psutil.Process(one).ppid() == kept.process.pid
    assert kept.ask("take", "one") == {"alive": True, "note": "note one", "way": True}
    assert kept.ask("recall", "name") == {"memory": "value", "is_stdout": True}
    assert kept.ask("end", "one") == {"code": -9}, "the one that was started by the first front"
    kept.ask("serve")
    # A bug ends this one, and a child while there is none.
    os.kill(again["pid"], signal.SIGSTOP)
    os.kill(two, signal.SIGKILL)
    until_blocking(lambda: not psutil.pid_exists(two))
    os.kill(again["pid"], signal.SIGKILL)
    assert kept.answer()["life"] == 3
    for name in ("one", "two"):
        assert kept.ask("take", name) == {"alive": False, "note": f"note {name}", "way": False}
    # What it could not say before, it may say the next time: a file is being edited, say.
    kept.say("exit", "1")
    fourth = kept.answer()
    assert (fourth["life"], fourth["ended"]) == (4, "ended with exit code 1")
    three = kept.start("one")
    os.kill(kept.process.pid, signal.SIGTERM)
    assert kept.answer() == {"stopped": True} and kept.ended() == 0
    assert not is_alive(three), "what the front has left does not outlive the keeper"
    assert [line.partition(";")[0] for line in kept.complaints()] == [
        "omnicall: the front was killed by signal 9",
        "omnicall: the front was killed by signal 9",
        "omnicall: the front was ended with exit code 1",
    ]


def test_front_that_says_why_it_ends_has_no_successor(kept: Kept) -> None:
    one = kept.start("one")
    kept.ask("serve")
    kept.say("exit", "2")
    assert kept.ended() == 2 and kept.complaints() == []
    assert not is_alive(one)


def test_front_that_dies_before_it_serves_ends_all(kept: Kept) -> None:
    one = kept.start("one")
    kept.say("exit", "70")
    assert kept.ended() == 1 and kept.complaints() == ["omnicall: the front was ended by a bug"]
    assert not is_alive(one)


def test_front_does_not_outlive_a_keeper_that_is_killed(kept: Kept) -> None:
    kept.process.kill()
    until_blocking(lambda: not is_alive(kept.front["pid"]))


@pytest.mark.parametrize(("stops", "said"), [(1, "buried worker engine"), (2, "buried")])
def test_what_is_left_without_a_front_ends_in_order_unless_it_must_at_once(
    tmp_path: Path, stops: int, said: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ENDS, str(tmp_path), str(stops)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert (done.returncode, done.stdout.split()) == (4, said.split()), done.stderr
