"""Camera pictures in messages: the newest is shown now and then, and damage harms nothing."""

from __future__ import annotations

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from media.picture import CameraPicture
from media.shownpictures import ShownPictures
from tests.waiting import Clock, until


def jpeg(colour: str, size: tuple[int, int] = (64, 48)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


async def test_the_newest_picture_is_shown_at_most_so_often(threads: ThreadPoolExecutor) -> None:
    seen: list[CameraPicture] = []
    clock = Clock()
    shown = ShownPictures(seen.append, executor=threads, max_fps=1, max_side=32, clock=clock)
    shown.show(jpeg("red"))
    for colour in ("green", "blue"):
        shown.show(jpeg(colour))
    await until(lambda: seen)
    shown.tick()
    assert len(seen) == 1 and (seen[0].width, seen[0].height) == (32, 24)
    red, green, blue = seen[0].rgb[:3]
    assert red > 240 and green < 15 and blue < 15
    clock.now += 0.8
    shown.tick()
    await until(lambda: len(seen) == 2)
    assert seen[1].rgb[2] > 240, "of those that waited the newest"
    clock.now += 5
    shown.tick()
    assert shown.received == 3 and shown.unreadable == 0


async def test_files_that_are_no_pictures_are_counted(threads: ThreadPoolExecutor) -> None:
    seen: list[CameraPicture] = []
    clock = Clock()
    shown = ShownPictures(seen.append, executor=threads, max_fps=1, max_side=64, clock=clock)
    whole = jpeg("red")
    for number, file in enumerate((b"no picture", whole[:20], b"\xff\xd8\xff\xd9"), 1):
        clock.now += 1
        shown.show(file)
        expected = number
        await until(lambda: shown.unreadable == expected)  # noqa: B023 - awaited at once
    clock.now += 1
    shown.show(whole)
    await until(lambda: seen)
    shown.close()
    clock.now += 1
    shown.show(whole)
    assert len(seen) == 1
