"""Both ends of the link to one recogniser: of whom a failure is told, and when it is free."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, cast

from engine.builtin.recogniser_link import (
    Failed,
    Finish,
    FromRecogniser,
    Result,
    Unpacker,
    from_recogniser,
    pack,
)
from engine.builtin.recogniser_process import RecogniserProcess
from engine.builtin.recogniser_worker import Recognising
from tests.waiting import until


class BrokenEar:
    def finish(self, utterance: int) -> Result:
        raise RuntimeError("no memory")

    def begin(self, *_: object) -> None: ...


def test_failure_at_the_end_is_told_of_its_utterance() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        recognising = Recognising(cast("Any", BrokenEar()), theirs)
        recognising._utterance = 7
        recognising._take(Finish(7))
        assert [from_recogniser.decode(b) for b in Unpacker().push(ours.recv(4096))] == [
            Failed(7, "no memory")
        ]


async def test_process_is_free_once_it_has_answered_whoever_waits_for_that() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    process = RecogniserProcess()
    process.pid = 1
    heard: list[FromRecogniser] = []
    running = asyncio.create_task(process.run(ours, heard.append))
    with theirs:
        await until(lambda: process._writer)
        process.send(Finish(3))
        assert not process.is_free
        for second in range(1, 11):
            is_stuck = process.is_stuck(1.0, 0.0)
            assert is_stuck == (second == 10), "nobody waits for it, but it hangs"
        theirs.sendall(pack(Result(3, "late", "")))
        await until(lambda: heard)
        assert process.is_free
    await running
