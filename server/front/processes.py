"""How the front starts child processes: by itself, or by the keeper, which outlives it."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import tempfile
from collections import deque
from typing import Protocol

from msgspec import Struct

from server.keeper.keeper import Inheritance, KeptChild
from server.keeper.messages import (
    ChildExited,
    Forget,
    FromKeeper,
    FrontServes,
    KillChild,
    NoteChild,
    Remember,
    StartChild,
    packet_pair,
    put,
    take,
)

log = logging.getLogger(__name__)

MAX_WAITING = 1000
"""Messages for a keeper that is busy."""
NAMES_AT_ONCE = 500
"""In one message to the keeper; a name has up to 100 characters."""


class ChildProcess(Protocol):
    """What the supervisor needs of a process; `asyncio.subprocess.Process` has it."""

    @property
    def pid(self) -> int: ...

    @property
    def returncode(self) -> int | None: ...

    async def wait(self) -> int: ...

    def kill(self) -> None: ...


class LeftChild(Struct, frozen=True):
    """A child of a front that died."""

    process: ChildProcess | None
    """None: it is dead as well."""
    note: bytes
    way: socket.socket | None


class Processes(Protocol):
    """Starts child processes."""

    async def start(
        self, name: str, command: tuple[str, ...], line: bytes, note: bytes, *, has_way: bool
    ) -> tuple[ChildProcess, socket.socket | None]:
        """Start one that reads `line` from its stdin. Its last arguments are its parent's pid and,
        if `has_way`, the descriptor of a way to it, of which the other end is returned; `note` is
        for a front that comes after this one. Raises OSError.
        """

    def note(self, name: str, note: bytes) -> None:
        """Replace what a front that comes after this one is told about a child."""

    def left(self, name: str) -> LeftChild | None:
        """The child of that name of the front before; asked for once."""


class OwnProcesses:
    """Children of this process, which end with it."""

    async def start(
        self, name: str, command: tuple[str, ...], line: bytes, note: bytes, *, has_way: bool
    ) -> tuple[ChildProcess, socket.socket | None]:
        ours, theirs = packet_pair() if has_way else (None, None)
        passed = [] if theirs is None else [theirs.fileno()]
        try:
            process = await asyncio.create_subprocess_exec(
                *(*command, str(os.getpid()), *map(str, passed)),
                stdin=asyncio.subprocess.PIPE,
                # Its own session: Ctrl-C in the terminal reaches only the parent.
                start_new_session=True,
                pass_fds=passed,
            )
        finally:
            if theirs is not None:
                theirs.close()
        assert process.stdin is not None
        process.stdin.write(line)
        return process, ours

    def note(self, name: str, note: bytes) -> None: ...

    def left(self, name: str) -> LeftChild | None:
        return None


class KeeperLine:
    """The front's end of the line to the keeper. What that cannot take yet waits, in order."""

    def __init__(self, keeper: socket.socket) -> None:
        self.socket = keeper
        self._waiting: deque[tuple[Struct, tuple[int, ...]]] = deque()
        """Each with copies of its descriptors."""

    def put(self, message: Struct, files: tuple[int, ...] = ()) -> None:
        """Raises OSError where the keeper is gone, or takes nothing any more."""
        if not self._waiting:
            try:
                put(self.socket, message, files)
                return
            except BlockingIOError:
                asyncio.get_running_loop().add_writer(self.socket.fileno(), self._flush)
        if len(self._waiting) == MAX_WAITING:
            raise OSError("too much waits for the keeper")
        self._waiting.append((message, tuple(map(os.dup, files))))

    def _flush(self) -> None:
        while self._waiting:
            message, files = self._waiting[0]
            try:
                put(self.socket, message, files)
            except BlockingIOError:
                return
            except OSError as error:
                log.warning("the keeper cannot be told: %s", error)
            self._waiting.popleft()
            for file in files:
                os.close(file)
        asyncio.get_running_loop().remove_writer(self.socket.fileno())


class KeptProcess:
    """A child of the keeper."""

    def __init__(self, name: str, pid: int, line: KeeperLine) -> None:
        self.name = name
        self.pid = pid
        self.returncode: int | None = None
        self._line = line
        self._over = asyncio.Event()

    async def wait(self) -> int:
        await self._over.wait()
        assert self.returncode is not None
        return self.returncode

    def kill(self) -> None:
        self._line.put(KillChild(self.name, self.pid))

    def ended(self, code: int) -> None:
        self.returncode = code
        self._over.set()


class KeptProcesses:
    """Children of the keeper, and what it remembers. Made on the running loop."""

    def __init__(self, found: Inheritance) -> None:
        self._line = KeeperLine(found.keeper)
        self._memories = dict(found.memories)
        self._files = dict(found.files)
        self._starting: dict[str, asyncio.Future[KeptProcess]] = {}
        self._processes: dict[int, KeptProcess] = {}
        self._left = {child.name: self._survivor(child) for child in found.children}
        asyncio.get_running_loop().add_reader(found.keeper.fileno(), self._hear)

    async def start(
        self, name: str, command: tuple[str, ...], line: bytes, note: bytes, *, has_way: bool
    ) -> tuple[ChildProcess, socket.socket | None]:
        ours, theirs = packet_pair() if has_way else (None, None)
        told = StartChild(name, command, note, passed=int(has_way))
        self._starting[name] = asyncio.get_running_loop().create_future()
        try:
            with (
                tempfile.TemporaryFile()
                if not hasattr(os, "memfd_create")
                else os.fdopen(os.memfd_create(name), "wb") as stdin
            ):
                stdin.write(line)
                stdin.flush()
                stdin.seek(0)
                ends = (theirs, ours) if theirs is not None and ours is not None else ()
                self._line.put(told, (stdin.fileno(), *(end.fileno() for end in ends)))
                return await self._starting[name], ours
        except BaseException:
            if ours is not None:
                ours.close()
            raise
        finally:
            del self._starting[name]
            if theirs is not None:
                theirs.close()

    def left(self, name: str) -> LeftChild | None:
        return self._left.pop(name, None)

    def serves(self) -> None:
        """The start has succeeded."""
        self._line.put(FrontServes())

    def remember(self, name: str, data: bytes, file: int | None = None) -> None:
        """For a front that comes after this one; what cannot be left to it is not."""
        self._leave(Remember(name, data), () if file is None else (file,))

    def forget(self, *names: str) -> None:
        for at in range(0, len(names), NAMES_AT_ONCE):
            self._leave(Forget(names[at : at + NAMES_AT_ONCE]))

    def note(self, name: str, note: bytes) -> None:
        self._leave(NoteChild(name, note))

    def _leave(self, message: Remember | Forget | NoteChild, files: tuple[int, ...] = ()) -> None:
        try:
            self._line.put(message, files)
        except OSError as error:
            log.warning("what another front needs cannot be left to it: %s", error)

    def memory(self, name: str) -> bytes | None:
        """What the front before had remembered."""
        return self._memories.get(name)

    def memories(self, prefix: str) -> dict[str, bytes]:
        """All that begins so, in the order of its coming."""
        return {name: data for name, data in self._memories.items() if name.startswith(prefix)}

    def file(self, name: str) -> int | None:
        """A descriptor that the front before had remembered."""
        return self._files.get(name)

    def _survivor(self, child: KeptChild) -> LeftChild:
        way = socket.socket(fileno=child.files[0]) if child.files else None
        if not child.is_alive:
            if way is not None:
                way.close()
            return LeftChild(None, child.note, None)
        process = self._processes[child.pid] = KeptProcess(child.name, child.pid, self._line)
        return LeftChild(process, child.note, way)

    def _hear(self) -> None:
        try:
            while (heard := take(self._line.socket, FromKeeper)) is not None:
                self._told(heard[0])
        except EOFError:
            # This process ends with the keeper: any moment now.
            asyncio.get_running_loop().remove_reader(self._line.socket.fileno())

    def _told(self, message: FromKeeper) -> None:
        if isinstance(message, ChildExited):
            process = self._processes.pop(message.pid, None)
            if process is not None:
                process.ended(message.code)
            return
        starting = self._starting.get(message.name)
        if message.pid:
            process = KeptProcess(message.name, message.pid, self._line)
            self._processes[message.pid] = process
            if starting is not None and not starting.done():
                starting.set_result(process)
        elif starting is not None and not starting.done():
            starting.set_exception(OSError(message.reason))
