"""Engine processes, real ones: ready, alive, ended in order, and never orphaned.

Guarded: `Ready` with what the engine is; pings and figures; a session served over the link; the end
by `Shutdown`, by SIGTERM, by a closed control link, and with a parent that was killed; `Fatal` with
a reason; nothing that was said in the log.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from engine.config import BuiltinConfig, EngineConfig
from engine.ipc.engine_client import EngineClient
from engine.ipc.protocol import (
    INPUT_HZ,
    AudioIn,
    CreateResponse,
    Hello,
    ItemIn,
    Ping,
    Pong,
    ResponseDone,
    SessionConfig,
    SessionEnded,
    TextOut,
    TextPart,
)
from engine.ipc.supervision import (
    EXIT_FATAL,
    EngineStats,
    Fatal,
    FromChild,
    Progress,
    Ready,
    Shutdown,
)
from engine.ipc.transport import Listener
from tests import ROOT
from tests.waiting import PATIENCE_S, until

pytestmark = pytest.mark.loopback

START = "from engine.process import main; main()"
WATCHED = """
import gc, sys, weakref
from engine import process
from engine.builtin.engine import BuiltinEngine
from engine.ipc import cycles
gc.disable()
cycles.COLLECT_AFTER_S = 0.0
opens = BuiltinEngine.open
def watched(*about):
    session = opens(*about)
    weakref.finalize(session, print, "freed", file=sys.stderr, flush=True)
    return session
BuiltinEngine.open = watched
process.main()
"""
"""An engine of which only its own collections free cycles, and which tells when a session is."""

BEHIND = """
from engine import process
from tests.engine.fakes import FakeEngine
class Behind(FakeEngine):
    is_behind_ingest = True
process.build = lambda config, fetching: Behind()
process.main()
"""
"""An engine that wants an ingest process before it."""


class Parent:
    """What a supervisor is to an engine process."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.messages: list[Any] = []
        self.hellos: list[Hello] = []
        self.peer = b""
        self._control = f"ipc://{folder}/control"
        self.listen()
        fields: dict[str, Any] = {"kind": "echo", "name": "engine-0#1", "slots": 2} | options
        self.config = EngineConfig(
            **fields, endpoint=f"ipc://{folder}/engine", control=self.listener.endpoint
        )
        self.process: asyncio.subprocess.Process | None = None
        self.stderr = b""

    def listen(self) -> None:
        self.listener: Listener[Any] = Listener(
            self._control, FromChild, on_message=self._hear, on_peer=self._meet
        )

    def _hear(self, peer: bytes, message: Any) -> None:
        self.messages.append(message)

    def _meet(self, peer: bytes, hello: Hello) -> None:
        self.peer = peer
        self.hellos.append(hello)

    async def start(
        self, parent_pid: int | None = None, program: str = START
    ) -> asyncio.subprocess.Process:
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", program, str(parent_pid or os.getpid())),
            stdin=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=ROOT,
        )
        assert self.process.stdin is not None
        self.process.stdin.write(msgspec.json.encode(self.config) + b"\n")
        return self.process

    async def ready(self) -> Ready:
        await until(lambda: self.said(Ready))
        ready: Ready = self.said(Ready)[0]
        return ready

    def said(self, kind: type) -> list[Any]:
        return [message for message in self.messages if isinstance(message, kind)]

    def tell(self, message: Any) -> None:
        assert self.listener.send(self.peer, message)

    async def exit_code(self) -> int:
        """Of the process, which must end by itself."""
        assert self.process is not None and self.process.stderr is not None
        async with asyncio.timeout(PATIENCE_S):
            self.stderr = await self.process.stderr.read()
            return await self.process.wait()

    async def close(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()
        self.listener.close()


@pytest.fixture
async def parent(tmp_path: Path) -> AsyncIterator[Parent]:
    parent = Parent(tmp_path)
    yield parent
    await parent.close()


async def test_engine_says_what_it_is_and_then_that_it_is_ready(parent: Parent) -> None:
    process = await parent.start()
    ready = await parent.ready()
    assert [hello.name for hello in parent.hellos] == ["engine-0#1"]
    assert [type(message) for message in parent.messages[:2]] == [Progress, Ready]
    assert ready.pid == process.pid and ready.endpoint == parent.config.endpoint
    assert ready.welcome is not None
    assert (ready.welcome.kind, ready.welcome.slots) == ("echo", 2)
    assert ready.build_ms > 0


async def test_engine_answers_pings_and_reports_its_figures(parent: Parent) -> None:
    await parent.start()
    await parent.ready()
    parent.tell(Ping(41))
    await until(lambda: parent.said(Pong) and parent.said(EngineStats))
    assert parent.said(Pong) == [Pong(41)]
    stats: EngineStats = parent.said(EngineStats)[0]
    assert (stats.slots, stats.slots_used, stats.units) == (2, 0, 0)
    assert (stats.capacity, stats.unit_p99_ms, stats.late_share) == (2, 0, 0)
    assert stats.rss_bytes > 10_000_000 and stats.cpu_s > 0


async def test_engine_serves_a_session_and_tells_it_of_the_shutdown(parent: Parent) -> None:
    await parent.start()
    ready = await parent.ready()
    heard: list[Any] = []
    client = EngineClient(ready.endpoint, name="worker-0")
    assert await client.connect() == ready.welcome
    config = SessionConfig(mode="turn_based", modalities=("text",))
    line = await client.open("call", config, on_message=heard.append, on_gone=heard.append)
    line.send(ItemIn("call", "item_1", "user", (TextPart("echo these words"),)))
    line.send(CreateResponse("call", modalities=("text",)))
    await until(lambda: any(isinstance(message, ResponseDone) for message in heard))
    said = "".join(message.text for message in heard if isinstance(message, TextOut))
    assert said.strip() == "echo these words"
    await until(lambda: any(stats.slots_used == 1 for stats in parent.said(EngineStats)))
    parent.tell(Shutdown(1.0))
    assert await parent.exit_code() == 0
    await until(lambda: not line.is_open)
    ended = SessionEnded("call", "shutdown", "the engine is stopping")
    assert ended in heard
    client.close()


async def test_session_that_is_over_is_freed_without_waiting_for_hundreds_of_others(
    tmp_path: Path,
) -> None:
    parent = Parent(tmp_path, kind="builtin", builtin=BuiltinConfig(speech="basic"))
    process = await parent.start(program=WATCHED)
    client = EngineClient((await parent.ready()).endpoint, name="worker-0")
    await client.connect()
    heard: list[Any] = []
    line = await client.open("call", SessionConfig(), on_message=heard.append, on_gone=print)
    line.send(CreateResponse("call", modalities=("text",)))
    await until(lambda: any(isinstance(message, ResponseDone) for message in heard))
    await line.close()
    assert process.stderr is not None
    async with asyncio.timeout(PATIENCE_S):
        while (said := await process.stderr.readline()) != b"freed\n":
            assert said, "the engine ended"
    client.close()
    await parent.close()


async def test_an_engine_behind_its_ingest_process_serves_and_ends_with_it(
    tmp_path: Path,
) -> None:
    parent = Parent(tmp_path)
    process = await parent.start(program=BEHIND)
    ready = await parent.ready()
    assert ready.endpoint == parent.config.endpoint
    client = EngineClient(ready.endpoint, name="worker-0")
    assert await client.connect() == ready.welcome
    heard: list[Any] = []
    await client.open("call", SessionConfig(), on_message=heard.append, on_gone=heard.append)
    (ingest,) = psutil.Process(process.pid).children()
    ingest.kill()
    assert await parent.exit_code() == EXIT_FATAL
    await until(lambda: parent.said(Fatal))
    assert "ingest process" in parent.said(Fatal)[0].reason
    await until(lambda: heard and client.is_gone)
    client.close()
    await parent.close()


async def test_no_ingest_process_outlives_its_engine(tmp_path: Path) -> None:
    parent = Parent(tmp_path)
    process = await parent.start(program=BEHIND)
    await parent.ready()
    (ingest,) = psutil.Process(process.pid).children()
    parent.tell(Shutdown(1.0))
    assert await parent.exit_code() == 0
    await until(lambda: not ingest.is_running() or ingest.status() == psutil.STATUS_ZOMBIE)
    await parent.close()


async def test_sigterm_ends_in_order_and_sigint_is_left_to_the_parent(parent: Parent) -> None:
    process = await parent.start()
    await parent.ready()
    process.send_signal(signal.SIGINT)
    parent.tell(Ping(1))
    await until(lambda: parent.said(Pong))
    process.send_signal(signal.SIGTERM)
    assert await parent.exit_code() == 0
    assert parent.stderr == b""


async def test_engine_introduces_itself_to_the_supervisors_successor(parent: Parent) -> None:
    await parent.start()
    ready = await parent.ready()
    [hello] = parent.hellos
    parent.listener.close()
    parent.messages.clear()
    parent.listen()
    assert await parent.ready() == ready and parent.hellos == [hello, hello]
    parent.tell(Ping(7))
    await until(lambda: parent.said(Pong))
    await parent.close()


async def test_engine_without_a_supervisor_ends_after_a_while(parent: Parent) -> None:
    await parent.start(program="import engine.ipc.child_process as c; c.ALONE_S = 0.0; " + START)
    await parent.ready()
    parent.listener.close()
    assert await parent.exit_code() == 0
    assert b"no other supervisor came" in parent.stderr


async def test_engine_that_cannot_be_built_says_why_and_exits(tmp_path: Path) -> None:
    parent = Parent(tmp_path, kind="minicpmo", model="/nowhere")
    await parent.start()
    assert await parent.exit_code() == EXIT_FATAL
    await until(lambda: parent.said(Fatal))
    has_torch = importlib.util.find_spec("torch") is not None
    why = "/nowhere is not a folder" if has_torch else "torch is missing"
    assert why in parent.said(Fatal)[0].reason
    assert parent.said(Ready) == [] and b"Traceback" not in parent.stderr
    await parent.close()


async def test_a_script_that_cannot_be_played_stops_the_start(tmp_path: Path) -> None:
    script = tmp_path / "script.toml"
    script.write_text("[[cue]]\nat = 1\nsay = 2\n")
    parent = Parent(tmp_path, kind="scripted", script=str(script))
    await parent.start()
    assert await parent.exit_code() == EXIT_FATAL
    await until(lambda: parent.said(Fatal))
    told = "script.toml: line 3: cue[0].say: expected str, got int"
    assert parent.said(Fatal)[0].reason.endswith(told)
    await parent.close()


async def test_engine_started_for_a_dead_parent_exits_at_once(parent: Parent) -> None:
    await parent.start(parent_pid=1)
    assert await parent.exit_code() == 1
    assert parent.hellos == []


INTERMEDIATE = """
import os, subprocess, sys
child = subprocess.Popen(
    [sys.executable, "-c", sys.argv[1], str(os.getpid())], stdin=subprocess.PIPE)
child.stdin.write(sys.stdin.buffer.readline())
child.stdin.flush()
print(child.pid, flush=True)
child.wait()
"""


async def test_engine_dies_with_a_parent_that_was_killed(parent: Parent) -> None:
    """The control link stays open here, so that only the kernel can have told the engine."""
    between = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", INTERMEDIATE, START),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    assert between.stdin is not None and between.stdout is not None
    between.stdin.write(msgspec.json.encode(parent.config) + b"\n")
    pid = int(await between.stdout.readline())
    ready = await parent.ready()
    assert ready.pid == pid and psutil.pid_exists(pid)
    between.kill()
    await between.wait()
    await until(lambda: not is_alive(pid))


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that nobody has waited for yet does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


async def test_log_holds_nothing_that_was_said(tmp_path: Path) -> None:
    log_file = tmp_path / "engine.log"
    parent = Parent(tmp_path, log_level="info", log_file=str(log_file))
    await parent.start()
    ready = await parent.ready()
    heard: list[Any] = []
    client = EngineClient(ready.endpoint, name="worker-0")
    await client.connect()
    config = SessionConfig(mode="turn_based", instructions="be heliotrope")
    line = await client.open("call", config, on_message=heard.append, on_gone=heard.append)
    for n in range(10):
        line.send(AudioIn("call", n * 320, b"\x11\x22" * (INPUT_HZ // 50)))
    line.send(ItemIn("call", "item_1", "user", (TextPart("the heliotrope word"),)))
    line.send(CreateResponse("call"))
    await until(lambda: any(isinstance(message, TextOut) for message in heard))
    parent.tell(Shutdown(1.0))
    assert await parent.exit_code() == 0
    log = log_file.read_text()
    assert "media worker worker-0 connected" in log
    assert "heliotrope" not in log and b"heliotrope" not in parent.stderr
    assert len(log.splitlines()) <= 10
    client.close()
    await parent.close()


async def test_settings_travel_whole_on_standard_input(parent: Parent) -> None:
    """The line on stdin is JSON of the whole configuration, bounds and unknown fields checked."""
    line = msgspec.json.encode(parent.config)
    assert msgspec.json.decode(line, type=EngineConfig) == parent.config
    with pytest.raises(msgspec.ValidationError, match="slots"):
        msgspec.json.decode(json.dumps({"slots": 0}), type=EngineConfig)
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        msgspec.json.decode(json.dumps({"slotz": 1}), type=EngineConfig)
