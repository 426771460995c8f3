"""The keeper: the first process, and the parent of all others. It outlives a front that dies.

The front forks from it, and has it start media workers and engines, so that these have a parent
when the front is gone; the next front forks from it as well and finds what the keeper holds: its
children, with a note about each, and what it was asked to remember. The keeper reads none of that.
When it ends, so do all of them (`engine.ipc.lifeline`). It imports little, and so stays small.
"""

from __future__ import annotations

import contextlib
import os
import resource
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from msgspec import Struct

from server.keeper.messages import (
    ChildExited,
    ChildStarted,
    Forget,
    FromKeeper,
    FrontServes,
    KillChild,
    NoteChild,
    Remember,
    StartChild,
    ToKeeper,
    packet_pair,
    put,
    take,
)

CRASHED = 70
"""The exit code of a front that a bug has ended (EX_SOFTWARE)."""
PAUSES_S = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
GOOD_LIFE_S = 30.0
FRUITLESS_STARTS = 10
"""Of fronts in a row that ended before they served, when one has served before. The first has one
try."""
MAX_MEMORY_BYTES = 16 * 1024 * 1024
STOPS = (signal.SIGINT, signal.SIGTERM)
AT_ONCE = signal.SIGUSR1
"""What the front gets when it is to stop a second time. It may get the first signal twice: service
managers signal every process, and we pass on what we get."""
END_GRACE_S = 2.0
SHORTAGE_PAUSE_S = 0.05


class KeptChild(NamedTuple):
    """A child as the next front finds it."""

    name: str
    pid: int
    is_alive: bool
    note: bytes
    files: tuple[int, ...]
    """Kept for the front."""


class Inheritance(Struct, frozen=True):
    """What a front finds when it begins."""

    keeper: socket.socket
    life: int
    """1 for the first front."""
    ended: str
    """How the last one did."""
    children: tuple[KeptChild, ...]
    memories: Mapping[str, bytes]
    files: Mapping[str, int]
    """Descriptors that are remembered."""


class _Child:
    """The latest life of a child."""

    def __init__(self, told: StartChild, process: subprocess.Popen[bytes], files: tuple[int, ...]):
        self.name = told.name
        self.note = told.note
        self.ends_first = bool(told.passed)
        """It is handed clients' connections (a media worker): it tells them while engines live."""
        self.process = process
        self.files = files
        self.code: int | None = None

    def bury(self) -> None:
        for file in self.files:
            os.close(file)
        self.files = ()


class Keeper:
    """Owns the front and its children; `run` is to be called from the main thread."""

    def __init__(self) -> None:
        self._children: dict[str, _Child] = {}
        self._memories: dict[str, bytes] = {}
        self._memory_bytes = 0
        self._files: dict[str, int] = {}
        self._stops = 0
        """How often this was told to stop."""
        self._passed_on = 0
        """How many of these the front was told."""
        self._has_served = False
        """This front."""
        self._is_trusted = False
        """One of them has served."""
        self._is_full = False
        self._life = 0
        self._front = 0
        self._link: socket.socket | None = None
        self._unsent: list[FromKeeper] = []
        self._selector = selectors.DefaultSelector()
        self._awake, self._wake = socket.socketpair()

    def run(self) -> int | Inheritance:
        """Keep a front until it ends; the exit code. Returns in each front, too, as fork(2) does:
        with what that finds."""
        self._catch_signals()
        _raise_file_limit()
        fruitless, shorts, ended = 0, 0, ""
        while True:
            begun = time.monotonic()
            try:
                found = self._fork(ended)
            except OSError as error:
                _say(f"no front can be started: {error}")
                code = CRASHED
            else:
                if found is not None:
                    return found
                code = self._attend()
            if self._stops:
                # Below 0 it was stopped before it could know how to.
                return self._end(max(code, 0))
            self._is_trusted = self._is_trusted or self._has_served
            is_fruitless = self._is_trusted and not self._has_served
            if code == 0 or (0 < code != CRASHED and not is_fruitless):
                return self._end(code)
            ended = _how(code)
            fruitless = 0 if self._has_served else fruitless + 1
            if not self._is_trusted or fruitless == FRUITLESS_STARTS:
                _say(f"the front was {ended}")
                return self._end(1)
            is_short = time.monotonic() - begun < GOOD_LIFE_S
            shorts = shorts + 1 if is_short else 0
            pause_s = PAUSES_S[min(shorts, len(PAUSES_S)) - 1] if shorts else 0.0
            _say(f"the front was {ended}; another takes its place")
            if self._pause(pause_s):
                return self._end(0)

    # ------------------------------------------------------------------ a front's life

    def _fork(self, ended: str) -> Inheritance | None:
        """Begin a front; in it, what it finds. Raises OSError where the system has no room."""
        self._has_served, self._passed_on, keeper = False, 0, os.getpid()
        self._unsent.clear()
        ours, theirs = packet_pair()
        # What came before the front has its own handlers would be heard by ours in there.
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
        try:
            self._front = os.fork()
        except OSError:
            ours.close()
            theirs.close()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
            raise
        self._life += 1
        if self._front == 0:
            ours.close()
            return self._in_front(keeper, theirs, ended)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
        theirs.close()
        self._link = ours
        self._selector.register(ours, selectors.EVENT_READ)
        return None

    def _in_front(self, keeper: int, link: socket.socket, ended: str) -> Inheritance:
        signal.set_wakeup_fd(-1)
        for number in (*STOPS, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
        self._selector.close()
        self._awake.close()
        self._wake.close()
        # Ctrl-C in the terminal reaches only the keeper, which passes it on.
        os.setsid()
        from engine.ipc.lifeline import OOM_FRONT, die_with_parent, go_before_parent

        die_with_parent(keeper)
        go_before_parent(OOM_FRONT)
        children = tuple(
            KeptChild(one.name, one.process.pid, one.code is None, one.note, one.files)
            for one in self._children.values()
        )
        return Inheritance(link, self._life, ended, children, self._memories, self._files)

    def _attend(self) -> int:
        """Serve the front until it is dead; how it ended, as `subprocess.Popen` says it."""
        while True:
            self._pass_signals_on()
            self._reap()
            self._send_unsent()
            pid, status = os.waitpid(self._front, os.WNOHANG)
            if pid:
                break
            self._select(None)
        self._front = 0
        self._hear()
        assert self._link is not None
        self._unregister(self._link)
        self._link.close()
        self._link = None
        return os.waitstatus_to_exitcode(status)

    def _select(self, timeout_s: float | None) -> None:
        for key, _ in self._selector.select(timeout_s):
            if key.fileobj is self._awake:
                with contextlib.suppress(BlockingIOError):
                    self._awake.recv(4096)
            else:
                self._hear()

    def _pause(self, pause_s: float) -> bool:
        """Wait; return whether the server is to stop."""
        self._wait(pause_s, lambda: self._stops > 0)
        return self._stops > 0

    def _wait(self, longest_s: float, is_over: Callable[[], bool]) -> None:
        until = time.monotonic() + longest_s
        while not is_over() and (left_s := until - time.monotonic()) > 0:
            self._select(left_s)
            self._reap()

    def _end(self, code: int) -> int:
        """End what is left: in order, unless that was asked for twice."""
        for is_first in (True, False):
            self._ask_to_end([one for one in self._living() if one.ends_first == is_first])
        for child in self._living():
            child.process.kill()
        for child in self._children.values():
            child.process.wait()
        return code

    def _ask_to_end(self, some: list[_Child]) -> None:
        if self._stops > 1:
            return
        for child in some:
            child.process.terminate()
        self._wait(
            END_GRACE_S / 2,
            lambda: self._stops > 1 or all(child.code is not None for child in some),
        )

    def _living(self) -> list[_Child]:
        self._reap()
        return [child for child in self._children.values() if child.code is None]

    # ------------------------------------------------------------------ signals

    def _catch_signals(self) -> None:
        self._awake.setblocking(False)
        self._wake.setblocking(False)
        self._selector.register(self._awake, selectors.EVENT_READ)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        for number in STOPS:
            signal.signal(number, lambda number, frame: self._stop())

    def _stop(self) -> None:
        self._stops += 1

    def _pass_signals_on(self) -> None:
        while self._passed_on < self._stops:
            # It is not reaped yet: the pid is still its own.
            os.kill(self._front, AT_ONCE if self._passed_on else signal.SIGTERM)
            self._passed_on += 1

    # ------------------------------------------------------------------ the children

    def _reap(self) -> None:
        for child in self._children.values():
            if child.code is None and (code := child.process.poll()) is not None:
                child.code = code
                self._tell(ChildExited(child.name, child.process.pid, code))
        if os.getpid() == 1:
            self._bury_orphans()

    def _bury_orphans(self) -> None:
        """As the first process of a container this one inherits whoever loses its parent."""
        ours = {self._front, *(child.process.pid for child in self._children.values())}
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        with contextlib.suppress(ChildProcessError):
            while (found := os.waitid(os.P_ALL, 0, flags)) is not None:
                if found.si_pid in ours:
                    # Looked after elsewhere; whoever is behind it is seen when it is gone.
                    return
                os.waitpid(found.si_pid, 0)

    def _start(self, told: StartChild, files: list[int]) -> None:
        if len(files) <= told.passed:
            # This process has no room for more descriptors.
            for file in files:
                os.close(file)
            self._tell(ChildStarted(told.name, 0, "too many open files"))
            return
        stdin, passed, kept = files[0], files[1 : 1 + told.passed], files[1 + told.passed :]
        before = self._children.get(told.name)
        try:
            process = subprocess.Popen(
                [*told.arguments, str(os.getpid()), *map(str, passed)],
                stdin=stdin,
                # Its own session: Ctrl-C in the terminal reaches only the keeper.
                start_new_session=True,
                pass_fds=passed,
            )
        except OSError as error:
            for file in kept:
                os.close(file)
            self._tell(ChildStarted(told.name, 0, str(error)))
            return
        finally:
            for file in (stdin, *passed):
                os.close(file)
        if before is not None:
            before.bury()
        self._children[told.name] = _Child(told, process, tuple(kept))
        self._tell(ChildStarted(told.name, process.pid))

    def _kill(self, told: KillChild) -> None:
        child = self._children.get(told.name)
        if child is None or child.process.pid != told.pid:
            return
        if child.code is None:
            child.process.kill()
        else:
            self._tell(ChildExited(told.name, told.pid, child.code))

    # ------------------------------------------------------------------ the front

    def _hear(self) -> None:
        """Do all that the front asks for."""
        link = self._link
        assert link is not None
        try:
            while (heard := take(link, ToKeeper)) is not None:
                self._do(*heard)
        except EOFError:
            # How it ended is seen soon.
            self._unregister(link)
        except OSError:
            # The system is short of something: tried again, as what was said still waits.
            time.sleep(SHORTAGE_PAUSE_S)

    def _unregister(self, link: socket.socket) -> None:
        with contextlib.suppress(KeyError):
            self._selector.unregister(link)

    def _do(self, told: ToKeeper, files: list[int]) -> None:
        match told:
            case StartChild():
                self._start(told, files)
            case KillChild():
                self._kill(told)
            case Remember():
                self._remember(told, files)
            case NoteChild():
                self._note(told)
            case Forget():
                for name in told.names:
                    self._forget(name)
            case FrontServes():
                self._has_served = True

    def _remember(self, told: Remember, files: list[int]) -> None:
        self._forget(told.name)
        if self._memory_bytes + len(told.data) <= MAX_MEMORY_BYTES:
            self._memories[told.name] = told.data
            self._memory_bytes += len(told.data)
        elif not self._is_full:
            self._is_full = True
            _say("too much is to be kept for another front; what comes now is not")
        for file in files:
            before = self._files.pop(told.name, None)
            if before is not None:
                os.close(before)
            self._files[told.name] = file

    def _note(self, told: NoteChild) -> None:
        child = self._children.get(told.name)
        if child is not None:
            child.note = told.note

    def _forget(self, name: str) -> None:
        self._memory_bytes -= len(self._memories.pop(name, b""))

    def _tell(self, message: FromKeeper) -> None:
        self._unsent.append(message)
        self._send_unsent()

    def _send_unsent(self) -> None:
        while self._unsent and self._link is not None:
            try:
                put(self._link, self._unsent[0])
            except BlockingIOError:
                # Tried again with what happens next; a front that waits for it asks again.
                return
            except OSError:
                self._unsent.clear()
                return
            self._unsent.pop(0)


def _how(code: int) -> str:
    """In words, how a front ended that has a successor."""
    if code < 0:
        return f"killed by signal {-code}"
    return "ended by a bug" if code == CRASHED else f"ended with exit code {code}"


def _raise_file_limit() -> None:
    """Let all that is started from here open as many files as the system allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _say(text: str) -> None:
    """There is no log in here, and stderr may be read by nobody."""
    with contextlib.suppress(OSError):
        sys.stderr.write(f"omnicall: {text}\n")
