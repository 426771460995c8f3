"""The processes that read files: what is read, what is refused, whose file costs whom.

Guards: shares of an item's pixels; a file that takes too long or kills its reader costs only
itself; a caller who leaves; queues with a deadline; the engine goes on while files are read.
"""

from __future__ import annotations

import asyncio
import io
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest
from PIL import Image

from engine.files import decoder as decoder_module
from engine.files import file as file_module
from engine.files import process as process_module
from engine.files.decoder import BusyError, FileDecoder
from engine.files.file import PICTURE_PIXELS, File, Film, PictureFile, UnreadableError, files_of
from engine.files.worker import MEMORY_BYTES, answer_to
from engine.ipc.protocol import AudioPart, ImagePart, ItemIn, TextPart, VideoPart
from tests.engine.minicpmo.videos import film
from tests.waiting import until


def png(size: tuple[int, int] = (64, 48), mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.new(mode, size, "red" if mode == "RGB" else 200).save(file, "PNG")
    return file.getvalue()


def picture(data: bytes = b"") -> File:
    return File("picture", data or png(), PICTURE_PIXELS)


@pytest.fixture
async def decoder() -> AsyncIterator[FileDecoder]:
    made = FileDecoder(1)
    yield made
    made.close()


def child_of(decoder: FileDecoder) -> Any:
    child = decoder._all[0]._child
    assert child is not None
    return child


def test_files_of_an_item_share_its_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    item = ItemIn(
        "s", "i", "user", (TextPart("a"), ImagePart(b"b"), AudioPart(b"c"), ImagePart(b"d"))
    )
    files = files_of(item)
    assert {index: file.kind for index, file in files.items()} == {
        1: "picture",
        2: "recording",
        3: "picture",
    }
    assert files[1].pixels == PICTURE_PIXELS
    many = files_of(ItemIn("s", "i", "user", (ImagePart(b"b"), VideoPart(b"c")) * 16))
    kept = sum(f.pixels * (1 if f.kind == "picture" else 60) for f in many.values())
    assert 0.99 * file_module.ITEM_PIXELS < kept <= file_module.ITEM_PIXELS


@pytest.mark.loopback
async def test_files_are_read_in_a_process_of_their_own(decoder: FileDecoder) -> None:
    seen = await decoder.read(picture())
    assert isinstance(seen, PictureFile) and seen.rgb.shape == (48, 64, 3)
    assert seen.rgb[9, 9].tolist() == [255, 0, 0]
    shown = await decoder.read(File("video", film(2.0, fps=5), 1_000))
    assert isinstance(shown, Film) and len(shown.shown) == 2 and shown.sound is not None
    assert abs(len(shown.sound) - 32_000) < 1_000
    heard = await decoder.read(File("recording", bytes(48_000), 0))
    assert isinstance(heard, Film) and heard.sound is not None
    with pytest.raises(UnreadableError, match="no JPEG"):
        await decoder.read(picture(b"nothing"))
    ours = os.getpriority(os.PRIO_PROCESS, 0)
    assert os.getpriority(os.PRIO_PROCESS, child_of(decoder).pid) > ours


@pytest.mark.loopback
async def test_the_engine_goes_on_while_a_bomb_is_read(decoder: FileDecoder) -> None:
    bomb = png((4_000, 4_000), "L")
    before = os.times()
    await decoder.read(picture(bomb))
    after = os.times()
    assert (after.user + after.system) - (before.user + before.system) < 1.0


@pytest.mark.loopback
async def test_a_file_that_takes_too_long_costs_only_itself(
    decoder: FileDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    await decoder.read(picture())
    os.kill(child_of(decoder).pid, signal.SIGSTOP)
    monkeypatch.setitem(process_module.READ_LIMITS_S, "picture", 0.05)
    with pytest.raises(
        UnreadableError, match=r"picture cannot be read: it takes longer than 0.05 s"
    ):
        await decoder.read(picture())
    monkeypatch.undo()
    assert isinstance(await decoder.read(picture()), PictureFile)


@pytest.mark.loopback
async def test_a_reader_that_dies_is_started_anew(decoder: FileDecoder) -> None:
    await decoder.read(picture())
    child = child_of(decoder)
    os.kill(child.pid, signal.SIGSTOP)
    reading = asyncio.ensure_future(decoder.read(picture()))
    await asyncio.sleep(0.02)
    child.kill()
    with pytest.raises(UnreadableError, match="damaged or needs too much memory"):
        await reading
    assert isinstance(await decoder.read(picture()), PictureFile)


@pytest.mark.loopback
async def test_who_leaves_frees_the_reader_at_once(decoder: FileDecoder) -> None:
    await decoder.read(picture())
    os.kill(child_of(decoder).pid, signal.SIGSTOP)
    leaving = asyncio.ensure_future(decoder.read(picture()))
    await asyncio.sleep(0.02)
    leaving.cancel()
    assert isinstance(await decoder.read(picture()), PictureFile)
    assert leaving.cancelled()


@pytest.mark.loopback
async def test_waiting_for_a_reader_has_an_end(
    decoder: FileDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    await decoder.read(picture())
    os.kill(child_of(decoder).pid, signal.SIGSTOP)
    first = asyncio.ensure_future(decoder.read(picture()))
    await asyncio.sleep(0.02)
    monkeypatch.setattr(decoder_module, "WAIT_LIMIT_S", 0.05)
    with pytest.raises(BusyError, match="too many files are being read; send it again later"):
        await decoder.read(picture())
    os.kill(child_of(decoder).pid, signal.SIGCONT)
    assert isinstance(await first, PictureFile)


@pytest.mark.loopback
async def test_readers_end_with_the_decoder(decoder: FileDecoder) -> None:
    await decoder.read(picture())
    child = child_of(decoder)
    decoder.close()
    await until(lambda: child.poll() is not None)


def test_what_needs_too_much_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def starve(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("engine.files.picture._load", starve)
    answer, arrays = answer_to("picture", png(), 100)
    assert "too much memory" in answer.error and not arrays
    assert MEMORY_BYTES <= 2 * 1024**3
