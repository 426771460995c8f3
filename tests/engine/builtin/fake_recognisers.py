"""Recogniser processes that only take time: tasks behind real sockets, in virtual time."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket

import pytest

from engine.builtin import recogniser_process
from engine.builtin.recogniser_link import (
    TAKEN_BYTES,
    Begin,
    FeedAudio,
    Finish,
    FromRecogniser,
    Result,
    Taken,
    ToRecogniser,
    Unpacker,
    Up,
    pack,
    to_recogniser,
)

BYTES_PER_S = 32_000
CPU_PER_S = 0.55
"""CPU seconds that a second of sound costs."""
SLICE_S = 0.01


class Machine:
    """Some cores, of which others leave `share`; implements `recogniser.Forker`."""

    def __init__(self, cores: int) -> None:
        self.share = 1.0
        self.words = "understood"
        self.forks = 0
        self.kills: list[int] = []
        self.begun: list[Begin] = []
        self.dies_at_once = False
        self.forks_nothing = False
        self.forkserver_ended = asyncio.Event()
        self.cpu_s: dict[int, float] = {}
        self.stopped: set[int] = set()
        self.spinning: set[int] = set()
        self.tasks: dict[int, asyncio.Task[None]] = {}
        self._cores = asyncio.Semaphore(cores)
        self._pids = itertools.count(1000)
        self._waiting_room: list[socket.socket] = []

    def patch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let nobody kill processes of this machine in earnest."""

        def kill(pid: int, number: int) -> None:
            assert number == signal.SIGKILL
            self.kills.append(pid)
            self.tasks[pid].cancel()

        fake_os = type("fake_os", (), {"kill": staticmethod(kill), "sysconf": os.sysconf})
        monkeypatch.setattr(recogniser_process, "os", fake_os)

    async def start(self) -> Machine:
        self.forkserver_ended = asyncio.Event()
        return self

    def cpu_of(self, pid: int) -> float:
        return self.cpu_s.get(pid, 0.0)

    def spawn(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self.forks += 1
        if self.forks_nothing:
            self._waiting_room.append(theirs)
            return ours
        pid = next(self._pids)
        self.cpu_s[pid] = 0.0
        self.tasks[pid] = asyncio.get_running_loop().create_task(self._live(pid, theirs))
        return ours

    def kill(self) -> None:
        for end in self._waiting_room:
            end.close()
        self._waiting_room.clear()
        self.forks_nothing = False
        self.forkserver_ended.set()

    async def wait(self) -> int:
        await self.forkserver_ended.wait()
        return -9

    async def close(self) -> None:
        if self.forkserver_ended.is_set():
            return
        for task in self.tasks.values():
            task.cancel()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)

    async def _live(self, pid: int, end: socket.socket) -> None:
        reader, writer = await asyncio.open_unix_connection(sock=end)
        try:
            await asyncio.sleep(0.1)
            if self.dies_at_once:
                return
            writer.write(pack(Up(pid)))
            unpacker = Unpacker()
            fed: dict[int, int] = {}
            while data := await reader.read(65_536):
                for body in unpacker.push(data):
                    answer = await self._take(pid, to_recogniser.decode(body), fed)
                    if answer is not None:
                        writer.write(pack(answer))
        except ConnectionError:
            return
        finally:
            writer.close()

    async def _take(
        self, pid: int, message: ToRecogniser, fed: dict[int, int]
    ) -> FromRecogniser | None:
        match message:
            case Begin(utterance=utterance):
                self.begun.append(message)
                fed.clear()
                fed[utterance] = 0
            case FeedAudio(pcm=pcm) if fed:
                (utterance,) = fed
                before = fed[utterance]
                await self._work(pid, len(pcm) / BYTES_PER_S * CPU_PER_S)
                fed[utterance] += len(pcm)
                if before // TAKEN_BYTES != fed[utterance] // TAKEN_BYTES:
                    return Taken(utterance, fed[utterance])
            case Finish(utterance=utterance) if utterance in fed:
                await self._work(pid, 0.01)
                fed.clear()
                return Result(utterance, self.words, "")
        return None

    async def _work(self, pid: int, cpu_s: float) -> None:
        """Use CPU, with others on these cores, in small slices."""
        while cpu_s > 0 or pid in self.spinning or pid in self.stopped:
            if pid in self.stopped:
                await asyncio.sleep(SLICE_S)
                continue
            async with self._cores:
                part = SLICE_S if pid in self.spinning else min(SLICE_S, cpu_s)
                await asyncio.sleep(part / self.share)
                self.cpu_s[pid] += part
                cpu_s -= part
