"""Logs: a file that cannot be written costs one line on the terminal and never a call.

Nor does one grow without end, however many processes write to it.

`log_to` changes the root logger for good, so each test runs it in a process of its own.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT

LOGGING = """
import logging, os, sys
from engine.ipc.logs import log_to

path, level = sys.argv[1:3]
log_to("worker-0", level, path)
log = logging.getLogger("some.module")
for n in range(200):
    log.warning("line %d %s", n, "x" * 100)
log.info("an info line")
logging.getLogger("aioice.ice").info("candidate 10.0.0.1")
logging.getLogger("aiohttp.access").info("GET /")
ROTATE
print("survived")
"""


def logged(path: str, level: str = "warning", rotate: str = "") -> tuple[str, list[str]]:
    """Stdout, and the lines of stderr, of a process that logs to `path`."""
    done = subprocess.run(
        [sys.executable, "-c", LOGGING.replace("ROTATE", rotate), path, level],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr.splitlines()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_is_complained_of_once_and_never_raises() -> None:
    stdout, stderr = logged("/dev/full")
    complaints = [line for line in stderr if "some.module: line" not in line]
    assert stdout == "survived\n"
    assert len(complaints) == 1, complaints
    assert "cannot write the log file /dev/full" in complaints[0]
    assert "No space left on device" in complaints[0]
    assert len(stderr) == 201, "the terminal still gets every line"


def test_folder_that_does_not_exist_is_complained_of_once(tmp_path: Path) -> None:
    stdout, stderr = logged(str(tmp_path / "no" / "log.txt"))
    complaints = [line for line in stderr if "some.module: line" not in line]
    assert stdout == "survived\n"
    assert len(complaints) == 1 and "No such file or directory" in complaints[0]


def test_lines_go_to_the_file_and_to_the_terminal(tmp_path: Path) -> None:
    _, stderr = logged(str(tmp_path / "log.txt"))
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert lines == stderr and len(lines) == 200
    assert lines[7].endswith("WARNING worker-0 some.module: line 7 " + "x" * 100)


def test_rotated_file_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    rotate = "os.rename(path, path + '.1'); log.warning('after the rotation')"
    logged(str(path), rotate=rotate)
    assert len((tmp_path / "log.txt.1").read_text().splitlines()) == 200
    assert path.read_text().endswith("after the rotation\n")
    assert len(path.read_text().splitlines()) == 1


SHARED = """
import logging, sys
from engine.ipc import logs

path, name, lines = sys.argv[1:4]
logs.MB = 1000
logs.log_to(name, "warning", path, 20)
logging.getLogger().handlers[0].setLevel(100)
for n in range(int(lines)):
    logging.getLogger("some.module").warning("line %d %s", n, "x" * 100)
"""


def write(path: Path, name: str, lines: int) -> subprocess.Popen[str]:
    """A process called `name` that logs with a bound of 20 kB."""
    return subprocess.Popen(
        [sys.executable, "-c", SHARED, str(path), name, str(lines)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_full_file_is_put_aside_and_only_one_old_one_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    _, errors = write(path, "worker-0", 1000).communicate()
    assert errors == ""
    assert sorted(file.name for file in tmp_path.iterdir()) == ["log.txt", "log.txt.1"]
    before, now = ((tmp_path / name).read_text() for name in ("log.txt.1", "log.txt"))
    assert 20_000 <= len(before) < 20_200 and len(now) < 20_200
    numbers = [int(line.split("line ")[1].split()[0]) for line in (before + now).splitlines()]
    assert numbers == list(range(numbers[0], 1000)), "nothing is lost on the way"


def test_processes_that_share_a_file_put_it_aside_once(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    writers = [write(path, f"worker-{n}", 400) for n in range(4)]
    assert [writer.communicate()[1] for writer in writers] == [""] * 4
    sizes = {file.name: file.stat().st_size for file in tmp_path.iterdir()}
    # Nobody waits for whoever puts it aside: while that one is held up, the others write on.
    assert sizes.pop("log.txt.1") >= 20_000, "put aside twice in a row"
    sizes.pop("log.txt", 0)
    assert sizes == {}, "the last line may have filled the file, then there is no new one yet"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_device_is_never_put_aside(tmp_path: Path) -> None:
    (tmp_path / "log").symlink_to("/dev/null")
    _, errors = write(tmp_path / "log", "worker-0", 400).communicate()
    assert errors == "" and [file.name for file in tmp_path.iterdir()] == ["log"]


def test_info_is_written_at_that_level_without_the_chatty_libraries() -> None:
    _, stderr = logged("", level="info")
    assert stderr[-1].endswith("INFO    worker-0 some.module: an info line")
    assert not any("candidate" in line or "GET" in line for line in stderr)
