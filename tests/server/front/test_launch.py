"""run.py as its user sees it: real processes from the first line to the last signal.

Guarded: clear single lines and exit codes for what cannot start; the end by one signal, by two, and
with nobody left after kill -9; an engine that comes back; a log file on a full disk; keys and TLS
off loopback. The echo engine answers, because it starts at once.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import psutil
import pytest

from server.config import Config
from server.config_loader import load, parser
from server.front import entrance, launch
from server.front.entrance import StartError, certificate_folder, listen, url
from server.front.launch import num_workers, specs
from tests import ROOT
from tests.serving import Serving
from tests.waiting import PATIENCE_S, until_blocking

RUN = (sys.executable, str(ROOT / "run.py"))
ECHO = ("--engine", "echo")


def run(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A run that must end by itself."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("OMNICALL_")}
    return subprocess.run(
        [*RUN, *options],
        cwd=ROOT,
        env=inherited | environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )


def is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def tree(pid: int) -> list[psutil.Process]:
    """A process and everything below it."""
    top = psutil.Process(pid)
    return [top, *top.children(recursive=True)]


def left(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [process for process in processes if is_alive(process)]


class Started(Serving):
    """A server whose complaints go to a file, and whose processes are remembered."""

    def __init__(self, folder: Path, *options: str, environment: dict[str, str] | None = None):
        self.stderr = folder / "stderr.txt"
        shell = f'exec "$0" "$@" 2>"{self.stderr}"'
        super().__init__(*options, command=("/bin/sh", "-c", shell, *RUN), environment=environment)
        self.tree: list[psutil.Process] = []

    def __enter__(self) -> Started:
        super().__enter__()
        self.tree = tree(self.pid)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self.tree:
            if is_alive(process):
                process.resume()
        super().__exit__(kind, error, trace)

    def complaints(self) -> list[str]:
        return self.stderr.read_text().splitlines()

    def wait(self) -> int:
        assert self._process is not None
        return self._process.wait(PATIENCE_S)

    def folders(self) -> list[str]:
        """Where its sockets are."""
        sockets = [s for p in left(self.tree) for s in p.net_connections("unix")]
        found = {str(Path(str(s.laddr)).parent) for s in sockets}
        return sorted(folder for folder in found if "omnicall-" in folder)


# ---------------------------------------------------------------- what cannot start


@pytest.mark.loopback
def test_busy_port_is_one_clear_line_and_exit_code_1() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("--port", str(port), *ECHO)
    assert done.returncode == 1 and done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line == (
        f"omnicall: cannot listen on 127.0.0.1 port {port}: Address already in use "
        "(choose another with --port)"
    )


@pytest.mark.loopback
def test_bad_configuration_is_one_clear_line_and_exit_code_2(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("[engine]\nslots = 0\n")
    cases = [
        (("--port", "99999"), {}, "--port: server.port = '99999': expected a whole number"),
        (("--config", str(file)), {}, f"{file}: engine.slots = 0: expected a whole number from 1"),
        ((), {"OMNICALL_ENGINE_KIND": "gpt"}, "OMNICALL_ENGINE_KIND: engine.kind = 'gpt'"),
    ]
    for options, environment, expected in cases:
        done = run(*options, **environment)
        assert done.returncode == 2 and done.stdout == ""
        [line] = done.stderr.splitlines()
        assert line.startswith(f"omnicall: {expected}"), line


@pytest.mark.loopback
def test_host_that_is_not_ours_is_one_clear_line(tmp_path: Path) -> None:
    done = run("--host", "192.0.2.1", "--port", "0", "--no-tls", *ECHO)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("omnicall: cannot listen on 192.0.2.1 port 0: ")


@pytest.mark.loopback
def test_engine_that_cannot_start_is_one_clear_line_and_leaves_nothing(tmp_path: Path) -> None:
    done = run(
        *("--port", "0", "--engine", "minicpmo", "--model", str(tmp_path)), TMPDIR=str(tmp_path)
    )
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    why = "config.json" if importlib.util.find_spec("torch") is not None else "torch is missing"
    assert line.startswith("omnicall: engine-0: ") and why in line
    assert list(tmp_path.glob("omnicall-*")) == []


@pytest.mark.loopback
def test_unusable_certificate_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "c.pem").write_text("nonsense")
    pem = str(tmp_path / "c.pem")
    done = run("--port", "0", "--tls", "--set", f"tls.cert={pem}", "--set", f"tls.key={pem}")
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("omnicall: cannot use the TLS certificate: ")


@pytest.mark.loopback
def test_version_and_configuration_are_printed_without_starting_anything() -> None:
    version = run("--version")
    assert version.returncode == 0 and version.stdout.startswith("omnicall ")
    printed = run("--print-config", "--port", "1234", OMNICALL_AUTH_KEY="0123456789abcdef")
    assert printed.returncode == 0 and printed.stderr == ""
    assert "port = 1234\n" in printed.stdout and "0123456789abcdef" not in printed.stdout


# ---------------------------------------------------------------- serving


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    with Started(tmp_path_factory.mktemp("served"), *ECHO) as server:
        yield server


@pytest.mark.loopback
def test_start_tells_what_it_does_and_where_to_go(served: Started) -> None:
    text = "\n".join(served.lines)
    assert ", engine echo" in served.lines[0]
    assert "engine-0: ready in" in text and "worker-0: ready in" in text
    assert served.lines[-1].endswith(f"open {served.url}")
    assert served.url.startswith("http://localhost:")


@pytest.mark.loopback
def test_ready_server_is_healthy_and_needs_no_key_on_loopback(served: Started) -> None:
    for path in ("/health", "/api/info", "/api/stats", "/metrics", "/", "/admin"):
        assert served.get(path)[0] == 200, path
    _, health = served.get("/health")
    assert health["processes"] == {"engine-0": "ready", "worker-0": "ready"}


@pytest.mark.loopback
def test_processes_are_those_that_the_statistics_tell(served: Started) -> None:
    _, stats = served.get("/api/stats")
    told = {row["pid"] for row in stats["processes"]}
    [keeper, *others] = served.tree
    assert told == {process.pid for process in others} and len(told) == 3
    # It serves nobody: it is there to be the parent of all others, and is small.
    assert keeper.memory_info().rss < psutil.Process(served.front).memory_info().rss / 2
    for process in others:
        soft, hard = process.rlimit(psutil.RLIMIT_NOFILE)
        assert soft == hard, "each call takes several descriptors"


@pytest.mark.loopback
def test_running_processes_have_mapped_only_what_is_theirs(served: Started) -> None:
    mapped = {
        role: " ".join(m.path for m in psutil.Process(served.process(role)["pid"]).memory_maps())
        for role in ("front", "worker", "engine")
    }
    assert not any("libtorch" in paths for paths in mapped.values())
    # OpenCV, in the engine, brings a libavcodec of its own.
    assert "libavcodec" not in mapped["front"] and "/av.libs/" not in mapped["engine"]
    assert "/av.libs/libavcodec" in mapped["worker"], "the names looked for do occur"
    assert all("zmq" in paths for paths in mapped.values())


@pytest.mark.loopback
def test_sockets_are_in_a_folder_of_ours_alone(served: Started) -> None:
    [folder] = served.folders()
    assert os.stat(folder).st_mode & 0o077 == 0


# ---------------------------------------------------------------- the end


@pytest.mark.loopback
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_every_process_in_silence(tmp_path: Path, number: signal.Signals) -> None:
    with Started(tmp_path, *ECHO) as server:
        [folder] = server.folders()
        if number == signal.SIGINT:
            # A service manager may signal every process; the keeper passes on its own besides.
            os.kill(server.front, number)
        server.stop(number)
        assert server.wait() == 0
        assert left(server.tree) == []
        assert server.complaints() == [] and not os.path.exists(folder)


@pytest.mark.loopback
def test_signal_while_starting_ends_everything(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*RUN, "--port", "0"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    until_blocking(lambda: len(psutil.Process(process.pid).children()) == 3)
    processes = tree(process.pid)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0 and left(processes) == []
    assert "Traceback" not in stderr


@pytest.mark.loopback
def test_server_whose_output_nobody_reads_any_more_ends_in_order() -> None:
    process = subprocess.Popen(
        [*RUN, "--port", "0"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None and process.stderr is not None
    until_blocking(lambda: len(psutil.Process(process.pid).children()) == 3)
    processes = tree(process.pid)
    process.stdout.close()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=PATIENCE_S) == 0 and left(processes) == []
    assert b"BrokenPipe" not in process.stderr.read()
    process.stderr.close()


@pytest.mark.loopback
def test_hung_processes_do_not_delay_the_end(tmp_path: Path) -> None:
    with Started(tmp_path, *ECHO) as server:
        for role in ("engine", "worker"):
            psutil.Process(server.process(role)["pid"]).suspend()
        server.stop()
        assert server.wait() == 0 and left(server.tree) == []
        assert len([line for line in server.complaints() if "did not end in" in line]) == 2


@pytest.mark.loopback
def test_second_signal_ends_at_once(tmp_path: Path) -> None:
    with Started(tmp_path, *ECHO) as server:
        [folder] = server.folders()
        # A worker that does not end keeps the first signal waiting for its grace.
        psutil.Process(server.process("worker")["pid"]).suspend()
        os.kill(server.pid, signal.SIGTERM)
        until_blocking(lambda: server.url and refuses_calls(server))
        assert is_alive(psutil.Process(server.pid))
        os.kill(server.pid, signal.SIGTERM)
        assert server.wait() == 1
        until_blocking(lambda: not left(server.tree))
        assert not os.path.exists(folder)


def refuses_calls(server: Serving) -> bool:
    """Whether the server has begun to stop."""
    try:
        return server.get("/health")[0] == 503
    except urllib.error.URLError:
        return True


@pytest.mark.loopback
def test_killed_server_leaves_no_process(tmp_path: Path) -> None:
    with Started(tmp_path, *ECHO, "--set", "media.workers=2") as server:
        assert len(server.tree) == 5
        os.kill(server.pid, signal.SIGKILL)
        server.wait()
        until_blocking(lambda: not left(server.tree))


# ---------------------------------------------------------------- faults


@pytest.mark.loopback
def test_killed_engine_is_back_and_health_with_it(tmp_path: Path) -> None:
    with Started(tmp_path, *ECHO) as server:
        before = server.process("engine")
        os.kill(before["pid"], signal.SIGKILL)
        until_blocking(lambda: server.get("/health")[0] == 503)
        until_blocking(lambda: server.get("/health")[0] == 200)
        after = server.process("engine")
        assert after["pid"] != before["pid"] and after["restarts"] == 1
        assert server.process("worker")["restarts"] == 0
        server.tree = tree(server.pid)
        server.stop()
        assert left(server.tree) == []
        assert len(server.complaints()) == 1
        assert "engine-0: killed by signal 9; restart in" in server.complaints()[0]


@pytest.mark.loopback
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_of_the_log_is_complained_of_once_by_each_process(tmp_path: Path) -> None:
    full = ("--set", "log.file=/dev/full", "--set", "log.level=info")
    with Started(tmp_path, *ECHO, *full) as server:
        for life in range(3):
            until_blocking(lambda: server.get("/health")[0] == 200)
            os.kill(server.process("engine")["pid"], signal.SIGKILL)
            until_blocking(lambda n=life: server.process("engine")["restarts"] == n + 1)  # type: ignore[misc]
        until_blocking(lambda: server.get("/health")[0] == 200)
        server.tree = tree(server.pid)
        server.stop()
        assert server.wait() == 0 and left(server.tree) == []
        complaints = [line for line in server.complaints() if "cannot write the log" in line]
        assert len(complaints) == 1, "only the front had something to log"
        killed = [line for line in server.complaints() if "killed by signal 9" in line]
        assert len(killed) == 3
        assert "Traceback" not in server.stderr.read_text()


@pytest.mark.loopback
def test_long_temporary_folder_is_no_obstacle(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    with Started(tmp_path, *ECHO, environment={"TMPDIR": str(long)}) as server:
        assert server.get("/health")[0] == 200


# ---------------------------------------------------------------- off loopback


@pytest.mark.loopback
def test_off_loopback_there_is_tls_and_a_key_that_is_printed_once(tmp_path: Path) -> None:
    certs = ("--set", f"tls.dir={tmp_path}/certs")
    with Started(tmp_path, *ECHO, "--host", "0.0.0.0", *certs) as server:
        address, _, key = server.url.partition("/?key=")
        assert address.startswith("https://") and len(key) >= 24
        assert sum(key in line for line in server.lines) == 1
        assert any("made the self-signed certificate" in line for line in server.lines)
        trusting = ssl.create_default_context(cafile=str(tmp_path / "certs" / "omnicall.crt"))
        port = address.rpartition(":")[2]

        def status(path: str, **headers: str) -> int:
            request = urllib.request.Request(f"https://localhost:{port}{path}", headers=headers)
            try:
                with urllib.request.urlopen(request, context=trusting, timeout=10) as answer:
                    return int(answer.status)
            except urllib.error.HTTPError as error:
                return error.code

        assert status("/health") == 200 and status("/") == 200
        assert status("/api/stats") == 401 and status("/metrics") == 401
        assert status("/api/stats", Authorization=f"Bearer {key}") == 200
        assert os.stat(tmp_path / "certs" / "omnicall.key").st_mode & 0o777 == 0o600


# ---------------------------------------------------------------- parts


def config_of(*options: str) -> Config:
    return load(parser().parse_args(options), {})


@pytest.mark.parametrize(
    ("options", "key", "expected"),
    [
        ((), "", "http://localhost:8006/"),
        (("--host", "::1"), "", "http://localhost:8006/"),
        (("--host", "127.0.0.2"), "k", "http://127.0.0.2:8006/?key=k"),
        (("--host", "call.example"), "k", "https://call.example:8006/?key=k"),
        (("--host", "2001:db8::1"), "", "https://[2001:db8::1]:8006/"),
        (("--host", "call.example", "--no-tls"), "", "http://call.example:8006/"),
    ],
)
def test_address_to_open(options: tuple[str, ...], key: str, expected: str) -> None:
    assert url(config_of(*options), 8006, key) == expected


def test_address_of_a_server_that_listens_everywhere_is_one_that_can_be_opened(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = {"127.0.0.1", "::1", "192.0.2.8", "2001:db8::9"}
    monkeypatch.setattr("server.front.certificates.host_names", lambda _: (set(), known))
    for host in ("0.0.0.0", "::", ""):
        assert url(config_of("--host", host), 1, "") == "https://192.0.2.8:1/"
    known.clear()
    assert url(config_of("--host", "0.0.0.0"), 1, "") == "https://localhost:1/"


def test_free_port_is_taken_when_asked_for() -> None:
    with listen("127.0.0.1", 0) as one, listen("127.0.0.1", 0) as two:
        assert 0 < one.getsockname()[1] != two.getsockname()[1]
        with pytest.raises(StartError, match="Address already in use"):
            listen("127.0.0.1", one.getsockname()[1])


def test_name_that_does_not_exist_is_a_start_error() -> None:
    with pytest.raises(StartError, match="cannot listen on no.such.host.invalid port 1"):
        listen("no.such.host.invalid", 1)


def test_each_life_of_a_child_has_a_name_and_an_address_of_its_own(tmp_path: Path) -> None:
    made = specs(config_of("--set", "engine.count=2", "--set", "media.workers=3"), tmp_path)
    assert [spec.name for spec in made] == [
        *("engine-0", "engine-1", "worker-0", "worker-1", "worker-2"),
    ]
    payloads = {spec.payload(generation, "") for spec in made for generation in (1, 2)}
    assert len(payloads) == 10
    assert f"ipc://{tmp_path}/engine-0.2".encode() in made[0].payload(2, "")


@pytest.mark.parametrize(
    ("settings", "cores", "workers"),
    [
        ((), 16, 1),
        (("engine.slots=17",), 16, 2),
        (("engine.slots=64",), 16, 4),
        (("engine.slots=64", "engine.count=4"), 16, 8),
        (("engine.slots=64",), 1, 1),
        (("engine.slots=64", "media.workers=3"), 16, 3),
    ],
)
def test_there_are_media_workers_for_all_calls_and_not_more_than_the_cores_carry(
    settings: tuple[str, ...], cores: int, workers: int
) -> None:
    given = [part for setting in settings for part in ("--set", setting)]
    assert num_workers(config_of(*given), cores) == workers


def test_configuration_travels_to_the_children_in_one_line() -> None:
    tricky = config_of("--set", "builtin.chat.model=line\nbreak")
    for spec in specs(tricky, Path("/x")):
        assert b"\n" not in spec.payload(1, "")


def test_certificates_go_to_the_configured_folder_or_the_users_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert certificate_folder(config_of("--set", f"tls.dir={tmp_path}")) == tmp_path
    assert certificate_folder(config_of()) == ROOT / "certs"
    monkeypatch.setattr(entrance, "ROOT", tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert certificate_folder(config_of()) == Path("/data/omnicall/certs")
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert certificate_folder(config_of()) == Path("/home/me/.local/share/omnicall/certs")


def test_time_limits_leave_room_for_three_seconds_in_all() -> None:
    assert launch.STOP_GRACE_S + launch.HTTP_GRACE_S < 3.0
