"""Start, watch, restart and end the child processes.

A child proves its life twice: its process must exist (the kernel tells at once) and its event
loop must answer pings (a hung kernel call closes nothing). One that fails is restarted with
back-off; one that says `Fatal` before it was ever ready is not. Who calls itself a child proves
that by a secret, new for each life, that only the true one was told.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from engine.ipc.patience import TICK_S, Patience, patiently
from engine.ipc.protocol import Hello, Message, Ping, Pong
from engine.ipc.supervision import EXIT_FATAL, Fatal, Progress, Ready, Shutdown, credential_parts
from engine.ipc.transport import Listener
from server.front.backoff import Backoff
from server.front.processes import ChildProcess, OwnProcesses, Processes

log = logging.getLogger(__name__)

Role = Literal["engine", "worker"]

ROOT = Path(__file__).resolve().parents[2]
SILENCE_LIMIT_S = 12.0
"""A machine may pause for some seconds and its calls go on; one that hangs must end some time."""
FIRST_START_TRIES = 3
LAST_WORDS_S = 2.0
"""For so long the reason of a child that has ended is awaited: its death is known at once, what it
said last may be on its way."""

State = Literal["starting", "ready", "backoff", "failed", "stopped"]


class ChildSpec(Struct, frozen=True):
    """How to start a child. `payload(generation, secret)` is the line it gets on stdin."""

    role: Role
    name: str
    module: str
    payload: Callable[[int, str], bytes]
    ready_timeout_s: float


class ChildLife(Struct, frozen=True):
    """What a front that comes after this one needs to know a child again."""

    generation: int
    secret: str
    started_at: float
    restarts: int
    is_ready: bool
    """This life has been."""
    was_ready: bool
    """One of its lives has been."""


class ChildFailed(Exception):
    """A child cannot start; the text is for people."""


class Supervised:
    """One child over all its lives. Only the supervisor changes it."""

    def __init__(self, spec: ChildSpec) -> None:
        self.spec = spec
        self.state: State = "starting"
        self.generation = 0
        self.restarts = 0
        self.pid = 0
        self.started_at = 0.0
        self.ready: Ready | None = None
        self.endpoint = ""
        self.reason = ""
        self.peer = b""
        self.secret = ""
        self.patience = Patience(spec.ready_timeout_s)
        """First with each step of its start, then with its silence."""
        self.progress: Progress | None = None
        """The step of its start that is under way."""
        self.step_at = 0.0
        """When it began that."""
        self.is_ready = asyncio.Event()
        self.has_failed = asyncio.Event()
        """It has said why it cannot go on."""
        self.was_ready = False
        """In one of its lives: a start that fails is not the end of the server."""
        self.is_taken_over = False
        """A front that died has started it."""
        self.may_have_calls = False
        """It was ready for that front."""
        self.process: ChildProcess | None = None
        self.handover: socket.socket | None = None
        """Takes sockets for it (`server.handover`); media workers only."""

    @property
    def link_name(self) -> str:
        """Differs between lives, so that an earlier one's messages are not taken for this one's."""
        return f"{self.spec.name}#{self.generation}"

    def note(self) -> bytes:
        """For a front that comes after this one."""
        is_ready = self.ready is not None
        return msgspec.msgpack.encode(
            ChildLife(
                *(self.generation, self.secret, self.started_at, self.restarts),
                is_ready=is_ready,
                was_ready=self.was_ready,
            )
        )


class Observer:
    """The events of a supervisor for its owner; override what matters."""

    def progress(self, child: Supervised, progress: Progress) -> None:
        """`child.progress` is still the one before."""

    def up(self, child: Supervised) -> None: ...

    def down(self, child: Supervised, reason: str) -> None: ...

    def message(self, child: Supervised, message: Any) -> None: ...


class Supervisor:
    """Owns the child processes and the control link."""

    def __init__(
        self,
        specs: list[ChildSpec],
        control: str,
        inbound: Any,
        observer: Observer,
        *,
        processes: Processes | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`processes`: how they are started; None: as children of this process."""
        self.children = {spec.name: Supervised(spec) for spec in specs}
        self.gone: tuple[str, ...] = ()
        """The link names of media workers of the front before that have died."""
        self._processes = processes or OwnProcesses()
        self._observer = observer
        self._clock = clock
        self._by_peer: dict[bytes, Supervised] = {}
        self._stopping = False
        self._listener: Listener[Any] = Listener(
            control, inbound, on_message=self._receive, on_peer=self._hello
        )
        self.control = self._listener.endpoint
        for child in self.children.values():
            self._take_over(child)

    def of_role(self, role: Role) -> list[Supervised]:
        """The children that are media workers, or engines."""
        return [child for child in self.children.values() if child.spec.role == role]

    async def run(self) -> None:
        """Keep every child alive until `stop`; raises `ChildFailed` if one can never start.

        Who is cancelled leaves them alive: another front may take them over.
        """
        async with asyncio.TaskGroup() as tasks:
            for child in self.children.values():
                tasks.create_task(self._keep(child), name=child.spec.name)

    async def stop(self, grace_s: float) -> None:
        """End every child: media workers first, so that callers are told while engines live."""
        self._stopping = True
        begun = self._clock()
        shares: tuple[tuple[Role, float], ...] = (("worker", 0.6), ("engine", 0.4))
        for role, share in shares:
            children = [child for child in self.of_role(role) if child.process]
            for child in children:
                self.send(child, Shutdown(grace_s * share * 0.8))
            # Engines have as well what media workers left of their time.
            left_s = 0.0 if role == "worker" else grace_s - (self._clock() - begun)
            await self._await_exit(children, max(left_s, grace_s * share))
        self.kill()

    def kill(self) -> None:
        """End every child at once."""
        self._stopping = True
        for child in self.children.values():
            if child.process is not None and child.process.returncode is None:
                child.process.kill()

    def close(self) -> None:
        self._listener.close()

    def send(self, child: Supervised, message: Message) -> bool:
        """Queue a message to a child that has said hello."""
        return bool(child.peer) and self._listener.send(child.peer, message)

    async def _await_exit(self, children: list[Supervised], timeout_s: float) -> None:
        waits = [asyncio.create_task(_ended(c.process)) for c in children if c.process]
        if not waits:
            return
        _, pending = await asyncio.wait(waits, timeout=timeout_s)
        for child in children:
            if child.process is not None and child.process.returncode is None:
                log.warning("%s did not end in %.1f s, killing it", child.spec.name, timeout_s)
                child.process.kill()
        if pending:
            await asyncio.wait(pending, timeout=1.0)

    async def _keep(self, child: Supervised) -> None:
        backoff = Backoff()
        while not self._stopping:
            await self._live(child)
            lived_s = self._clock() - child.started_at
            was_ready = child.ready is not None
            self._buried(child)
            if self._stopping:
                break
            backoff.ended(lived_s, was_ready)
            is_hopeless = child.state == "failed" or backoff.failures >= FIRST_START_TRIES
            if not child.was_ready and is_hopeless:
                raise ChildFailed(f"{child.spec.name}: {child.reason}")
            pause_s = backoff.pause_s
            child.state, child.restarts = "backoff", child.restarts + 1
            log.error("%s: %s; restart in %.1f s", child.spec.name, child.reason, pause_s)
            await asyncio.sleep(pause_s)
        child.state = "stopped"

    def _take_over(self, child: Supervised) -> None:
        """Go on with a child of the front before, if there is one."""
        left = self._processes.left(child.spec.name)
        if left is None:
            return
        life = msgspec.msgpack.decode(left.note, type=ChildLife)
        child.generation, child.restarts = life.generation, life.restarts
        child.was_ready = life.was_ready
        if left.process is None:
            child.restarts += 1
            if child.spec.role == "worker":
                self.gone += (child.link_name,)
            return
        child.is_taken_over, child.may_have_calls = True, life.is_ready
        child.secret = life.secret
        child.started_at, child.step_at = life.started_at, self._clock()
        child.patience = Patience(SILENCE_LIMIT_S, clock=self._clock)
        child.process, child.pid, child.handover = left.process, left.process.pid, left.way

    async def _live(self, child: Supervised) -> None:
        """One life of a child, from its start, or from when it was taken over, to its exit."""
        try:
            process = child.process or await self._start(child)
        except OSError as error:
            child.reason = f"it cannot be started: {error}"
            return
        child.process, child.pid = process, process.pid
        watch = asyncio.create_task(self._watch(child), name=f"watch {child.spec.name}")
        try:
            code = await process.wait()
        finally:
            watch.cancel()
        if code == EXIT_FATAL and child.peer:
            await self._last_words(child)
        if not child.reason:
            child.reason = f"exit code {code}" if code >= 0 else f"killed by signal {-code}"

    async def _last_words(self, child: Supervised) -> None:
        said = asyncio.ensure_future(child.has_failed.wait())
        try:
            await patiently(said, LAST_WORDS_S)
        except TimeoutError:
            log.warning("%s did not say why it has ended", child.spec.name)
        finally:
            said.cancel()

    async def _start(self, child: Supervised) -> ChildProcess:
        self._listener.mend()
        child.state, child.ready, child.reason, child.progress = "starting", None, "", None
        child.patience = Patience(child.spec.ready_timeout_s, clock=self._clock)
        child.generation += 1
        child.is_taken_over = child.may_have_calls = False
        child.has_failed.clear()
        child.started_at = child.step_at = self._clock()
        child.secret = secrets.token_hex(16)
        code = (
            f"import sys; sys.path.insert(0, {str(ROOT)!r}); "
            f"from {child.spec.module} import main; main()"
        )
        process, child.handover = await self._processes.start(
            child.spec.name,
            (sys.executable, "-P", "-c", code),
            child.spec.payload(child.generation, child.secret) + b"\n",
            child.note(),
            has_way=child.spec.role == "worker",
        )
        return process

    async def _watch(self, child: Supervised) -> None:
        """Kill a child that is not ready in time or stops answering."""
        n = 0
        while child.process is not None:
            await asyncio.sleep(TICK_S)
            n += 1
            self._listener.mend()
            self.send(child, Ping(n))
            if child.progress is not None and child.progress.is_download:
                child.patience.sign()
            if not child.patience.check():
                continue
            child.reason = f"no sign of life for {child.patience.silent_s:.1f} s"
            if child.ready is None:
                child.reason = f"no progress for {child.spec.ready_timeout_s:g} s"
                if child.progress is not None:
                    child.reason += f" after: {child.progress.text}"
            child.process.kill()
            return

    def _buried(self, child: Supervised) -> None:
        child.ready = child.progress = None
        if child.handover is not None:
            child.handover.close()
            child.handover = None
        self._by_peer.pop(child.peer, None)
        self._listener.forget(child.peer)
        child.peer, child.secret, child.process, child.pid = b"", "", None, 0
        self._down(child)

    def _down(self, child: Supervised) -> None:
        """Report once that a child that was ready serves no more, or will not tell what it has."""
        if not child.is_ready.is_set() and not child.is_taken_over:
            return
        if child.is_taken_over and child.spec.role == "worker":
            # Engines that have not come yet are told when they do.
            self.gone += (child.link_name,)
        child.is_taken_over = False
        child.is_ready.clear()
        self._observer.down(child, child.reason)

    def _hello(self, peer: bytes, hello: Hello) -> None:
        name, secret = credential_parts(hello.name)
        for child in self.children.values():
            if child.link_name == name and child.secret and not child.peer:
                if not hmac.compare_digest(child.secret.encode(), secret.encode()):
                    break
                child.peer = peer
                self._by_peer[peer] = child
                if child.is_taken_over:
                    # It lives; it may still be starting.
                    child.patience = Patience(child.spec.ready_timeout_s, clock=self._clock)
                return
        log.warning("a stranger called %s dialled the control link", name)
        self._listener.forget(peer)

    def _receive(self, peer: bytes, message: Any) -> None:
        child = self._by_peer.get(peer)
        if child is None:
            return
        if child.ready is not None:
            child.patience.sign()
        match message:
            case Progress():
                self._observer.progress(child, message)
                if child.progress is None or child.progress.text != message.text:
                    child.step_at = self._clock()
                child.progress = message
                child.patience.sign()
            case Ready():
                child.ready, child.state, child.progress = message, "ready", None
                child.patience = Patience(SILENCE_LIMIT_S, clock=self._clock)
                child.endpoint = message.endpoint
                child.was_ready = True
                child.is_ready.set()
                self._processes.note(child.spec.name, child.note())
                self._observer.up(child)
            case Fatal():
                child.state, child.reason = "failed", message.reason
                child.has_failed.set()
                # It may take a while to end; no call may be sent to it meanwhile.
                self._down(child)
            case Pong():
                pass
            case _:
                self._observer.message(child, message)


async def _ended(process: ChildProcess) -> None:
    await process.wait()
