"""Messages on their way to the model's thread: files are decoded meanwhile, the order is kept.

Guards: what depends on an item waits for it, what does not passes; a file that cannot be read
costs its message only, and is told; bounds; nothing after the end.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from engine.base import SessionMessage
from engine.ipc import protocol as p
from engine.minicpmo.session import inbox as module
from engine.minicpmo.session.inbox import Intake
from engine.minicpmo.session.item_decoding import ModelMessage, ReadItem, read_item
from tests.waiting import until

VIDEO = p.ItemIn("s", "video", "user", (p.VideoPart(b"a file"),))
TEXT = p.ItemIn("s", "text", "user", (p.TextPart("hello"),))
SOUND = p.AudioIn("s", 0, b"\x00\x00")


class Desk:
    """An intake whose files are read when the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.posted: list[ModelMessage] = []
        self.told: list[p.FromEngine] = []
        self.may_read = threading.Event()
        self.error: Exception | None = None
        monkeypatch.setattr(module, "read_item", self.read)
        self._threads = ThreadPoolExecutor(1)
        self.intake = Intake("s", self.posted.append, self.told.append, self._threads)

    def read(self, item: p.ItemIn, keep_going: object = None) -> ReadItem:
        if item.item == "text":
            return read_item(item)
        assert self.may_read.wait(5)
        if self.error is not None:
            raise self.error
        return ReadItem("s", item.item, "user", ())

    def push(self, *messages: SessionMessage) -> None:
        for message in messages:
            self.intake.push(message)

    @property
    def order(self) -> list[str]:
        return [m.item if isinstance(m, ReadItem) else type(m).__name__ for m in self.posted]

    def close(self) -> None:
        self.may_read.set()
        self.intake.close()
        self._threads.shutdown()


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    desk = Desk(monkeypatch)
    yield desk
    desk.close()


async def test_text_goes_at_once(desk: Desk) -> None:
    desk.push(TEXT, p.CreateResponse("s"), SOUND)
    assert desk.order == ["text", "CreateResponse", "AudioIn"]


async def test_what_depends_on_an_item_waits_for_it_and_sound_does_not(desk: Desk) -> None:
    desk.push(VIDEO, SOUND, p.Heard("s", 1, 5), TEXT, SOUND, p.CreateResponse("s"))
    desk.push(p.CommitAudio("s"), SOUND, p.CancelResponse("s", 1))
    await asyncio.sleep(0.02)
    passed = ["AudioIn", "Heard", "AudioIn", "CancelResponse"]
    assert desk.order == passed
    desk.may_read.set()
    await until(lambda: len(desk.posted) == 9)
    behind = ["video", "text", "CreateResponse", "CommitAudio", "AudioIn"]
    assert desk.order == [*passed, *behind]
    desk.push(TEXT)
    assert desk.order[-1] == "text"


async def test_file_that_cannot_be_read_is_told_and_left_out(desk: Desk) -> None:
    desk.error = ValueError("the video is no MP4")
    desk.may_read.set()
    desk.push(VIDEO, p.CreateResponse("s"))
    await until(lambda: desk.posted)
    assert desk.order == ["CreateResponse"]
    [warning] = desk.told
    assert isinstance(warning, p.SessionWarning)
    assert warning.code == "bad_item" and "no MP4" in warning.message


async def test_bug_ends_the_session(desk: Desk) -> None:
    desk.error = RuntimeError("bug")
    desk.may_read.set()
    desk.push(VIDEO)
    await until(lambda: desk.told)
    assert isinstance(desk.told[0], p.SessionEnded) and desk.told[0].reason == "failed"


async def test_files_that_wait_are_bounded(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_HELD_BYTES", 2 * len(b"a file"))
    desk.push(VIDEO, VIDEO, VIDEO)
    [warning] = desk.told
    assert isinstance(warning, p.SessionWarning) and warning.code == "overloaded"
    desk.may_read.set()
    await until(lambda: desk.order == ["video", "video"])


async def test_nothing_comes_after_the_end(desk: Desk) -> None:
    desk.push(VIDEO, TEXT)
    desk.intake.close()
    desk.may_read.set()
    desk.push(TEXT)
    await asyncio.sleep(0.05)
    assert desk.posted == [] and desk.told == []
