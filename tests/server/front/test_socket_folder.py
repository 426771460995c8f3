"""The sockets' folder: short, private, held by a lock, cleared up after a kill, made anew."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from server.front import socket_folder
from server.front.socket_folder import SocketFolder, clear_up
from tests import ROOT
from tests.waiting import until

HOLD = """
import sys, tempfile
tempfile.tempdir = sys.argv[1]
from server.front import socket_folder
socket_folder.MAX_TEMP_CHARS = 1000
print(socket_folder.SocketFolder().path, flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(socket_folder, "MAX_TEMP_CHARS", 1000)


def put_socket(folder: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(folder / "control"))
    return folder / "control"


def test_addresses_stay_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket_folder, "MAX_TEMP_CHARS", 64)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / ("x" * 100)))
    os.makedirs(tmp_path / ("x" * 100))
    folder = SocketFolder()
    assert len(f"{folder.path}/engine-63.99999") < 104
    folder.remove()
    assert not folder.path.exists()


def test_folder_is_private_and_goes_with_what_is_in_it(tmp_path: Path) -> None:
    folder = SocketFolder()
    assert folder.path.parent == tmp_path
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    put_socket(folder.path)
    folder.remove()
    folder.remove()
    assert list(tmp_path.iterdir()) == []


def test_folder_of_a_killed_server_is_removed_and_that_of_a_living_one_is_kept(
    tmp_path: Path,
) -> None:
    holders = [
        subprocess.Popen(
            [sys.executable, "-c", HOLD, str(tmp_path)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    killed, living = (Path(holder.stdout.readline().strip()) for holder in holders if holder.stdout)
    put_socket(killed)
    put_socket(living)
    holders[0].send_signal(signal.SIGKILL)
    holders[0].wait()
    assert killed.exists(), "nobody could remove it"
    mine = SocketFolder()
    assert not killed.exists() and (living / "control").exists() and mine.path.exists()
    mine.remove()
    holders[1].communicate()


def test_only_what_can_be_ours_is_cleared_up(tmp_path: Path) -> None:
    readable = tmp_path / "omnicall-readable"
    readable.mkdir(mode=0o755)
    full = tmp_path / "omnicall-full"
    full.mkdir(mode=0o700)
    (full / "notes.txt").write_text("mine")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    link = tmp_path / "omnicall-link"
    link.symlink_to(elsewhere)
    file = tmp_path / "omnicall-file"
    file.write_text("")
    left = tmp_path / "omnicall-left"
    left.mkdir(mode=0o700)
    clear_up(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        *("elsewhere", "omnicall-file", "omnicall-full", "omnicall-link", "omnicall-readable")
    ]


def test_folder_that_was_left_is_made_anew_and_its_lock_left_to_the_next(tmp_path: Path) -> None:
    locks: list[int | None] = []
    first = SocketFolder(on_lock=lambda path, lock: locks.append(lock))
    [held] = locks
    assert held is not None
    left = [os.dup(held), os.dup(held)]
    SocketFolder(first.path, left[0], on_lock=lambda path, lock: locks.append(lock))
    assert len(locks) == 1, "it is there and locked"
    first.path.rmdir()
    third = SocketFolder(first.path, left[1], on_lock=lambda path, lock: locks.append(lock))
    assert len(locks) == 2 and stat.S_IMODE(third.path.stat().st_mode) == 0o700
    clear_up(tmp_path)
    assert third.path.exists(), "the new one is held"
    third.remove()


async def test_deleted_folder_is_made_anew_and_held_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket_folder, "KEEP_INTERVAL_S", 0.005)
    locks: list[int | None] = []
    folder = SocketFolder(on_lock=lambda path, lock: locks.append(lock))
    keeping = asyncio.create_task(folder.keep())
    shutil.rmtree(folder.path)
    await until(folder.path.exists)
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    await until(lambda: len(locks) == 2)
    clear_up(tmp_path)
    assert folder.path.exists(), "the new one is held, too"
    keeping.cancel()
    folder.remove()
