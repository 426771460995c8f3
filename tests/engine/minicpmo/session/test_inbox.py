"""Messages on their way to the model's thread: files are decoded meanwhile, the order is kept.

Guards: what depends on an item waits for it, what does not passes; a file that cannot be read
costs its message only, and is told; bounds; nothing after the end.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest

from engine.files.decoder import BusyError, FileDecoder
from engine.files.file import File, Film, PictureFile, UnreadableError
from engine.ipc import protocol as p
from engine.minicpmo.session import inbox as module
from engine.minicpmo.session.inbox import Inbox
from engine.minicpmo.session.item_decoding import DecodedItem, ModelMessage
from tests.waiting import until

VIDEO = p.ItemIn("s", "video", "user", (p.VideoPart(b"a file"),))
TEXT = p.ItemIn("s", "text", "user", (p.TextPart("hello"),))
SOUND = p.AudioIn("s", 0, b"\x00\x00")


class Reader(FileDecoder):
    """Reads when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.may_read = asyncio.Event()
        self.error: Exception | None = None

    async def read(self, file: File) -> PictureFile | Film:
        self.asked += 1
        await self.may_read.wait()
        if self.error is not None:
            raise self.error
        return Film((), (), np.zeros(16, np.float32))


class Desk:
    """An intake and all that came of it."""

    def __init__(self) -> None:
        self.posted: list[ModelMessage] = []
        self.told: list[p.FromEngine] = []
        self.decoder = Reader()
        self.intake = Inbox("s", self.posted.append, self.told.append, self.decoder)

    def push(self, *messages: p.SessionMessage) -> None:
        for message in messages:
            self.intake.push(message)

    @property
    def order(self) -> list[str]:
        return [m.item if isinstance(m, DecodedItem) else type(m).__name__ for m in self.posted]

    def close(self) -> None:
        self.intake.close()
        self.decoder.close()


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    desk = Desk()
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
    desk.decoder.may_read.set()
    await until(lambda: len(desk.posted) == 9)
    behind = ["video", "text", "CreateResponse", "CommitAudio", "AudioIn"]
    assert desk.order == [*passed, *behind]
    desk.push(TEXT)
    assert desk.order[-1] == "text"


async def test_file_that_cannot_be_read_is_told_and_left_out(desk: Desk) -> None:
    desk.decoder.error = UnreadableError("the video is no MP4")
    desk.decoder.may_read.set()
    mixed = p.ItemIn("s", "mixed", "user", (p.VideoPart(b"a file"), p.TextPart("hello")))
    desk.push(mixed, p.CreateResponse("s"))
    await until(lambda: len(desk.posted) == 2)
    assert desk.order == ["mixed", "CreateResponse"]
    assert isinstance(desk.posted[0], DecodedItem) and desk.posted[0].parts == ("hello",)
    assert desk.told == [p.PartLeftOut("s", "mixed", 0, "the video is no MP4")]


async def test_a_busy_decoder_is_asked_once_for_a_message(desk: Desk) -> None:
    desk.decoder.error = BusyError("too many files")
    desk.decoder.may_read.set()
    desk.push(p.ItemIn("s", "many", "user", (p.VideoPart(b"a"), p.VideoPart(b"b"))))
    await until(lambda: desk.posted)
    assert desk.decoder.asked == 1
    assert [told.part for told in desk.told if isinstance(told, p.PartLeftOut)] == [0, 1]


async def test_bug_ends_the_session(desk: Desk) -> None:
    desk.decoder.error = RuntimeError("bug")
    desk.decoder.may_read.set()
    desk.push(VIDEO)
    await until(lambda: desk.told)
    assert isinstance(desk.told[0], p.SessionEnded) and desk.told[0].reason == "failed"


async def test_files_that_wait_are_bounded(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_HELD_BYTES", 2 * len(b"a file"))
    first, *rest = (p.ItemIn("s", f"{n}", "user", (p.VideoPart(b"a file"),)) for n in range(5))
    desk.push(first, *rest)
    [warning] = desk.told
    assert isinstance(warning, p.SessionWarning) and warning.code == "overloaded"
    desk.decoder.may_read.set()
    # What is being read is read; of those that wait the newest counts.
    await until(lambda: desk.order == ["0", "4"])


async def test_nothing_comes_after_the_end(desk: Desk) -> None:
    desk.push(VIDEO, TEXT)
    desk.intake.close()
    desk.decoder.may_read.set()
    desk.push(TEXT)
    await asyncio.sleep(0.05)
    assert desk.posted == [] and desk.told == []
