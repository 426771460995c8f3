"""What is said about synthetic pictures. Faces are not tested: none could be made honestly."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from engine.builtin.picture_facts import Camera, describe, encode_jpeg, measure
from engine.ipc.protocol import ImageIn


@pytest.fixture
def camera() -> Iterator[Camera]:
    with ThreadPoolExecutor(1) as eyes:
        yield Camera(eyes)


def checks(first: tuple[int, int, int], second: tuple[int, int, int], shift: int = 0) -> Any:
    rows, columns = np.mgrid[0:240, 0:320]
    picture = np.empty((240, 320, 3), np.uint8)
    picture[:] = first
    picture[((rows // 40 + (columns + shift) // 40) % 2).astype(bool)] = second
    return picture


def shown(camera: Camera, picture: NDArray[Any], pts: int = 0) -> bool:
    height, width = picture.shape[:2]
    return camera.show(ImageIn("s", pts, width, height, picture.astype(np.uint8).tobytes()))


def test_colours_are_named() -> None:
    assert set(measure(checks((210, 20, 20), (20, 30, 200))).colours) == {"red", "blue"}
    assert set(measure(checks((250, 250, 250), (5, 5, 5))).colours) == {"white", "black"}
    assert measure(checks((20, 160, 30), (30, 170, 40))).colours == ("green",)


def test_dark_bright_and_covered_pictures_are_told_apart() -> None:
    assert "covered" in describe(measure(np.full((240, 320, 3), 6, np.uint8)))
    assert "even white area" in describe(measure(np.full((240, 320, 3), 250, np.uint8)))
    assert "is dark" in describe(measure(checks((10, 10, 10), (60, 60, 60))))
    assert "very bright" in describe(measure(checks((255, 255, 255), (190, 190, 190))))
    assert "well lit" in describe(measure(checks((200, 200, 200), (50, 50, 50))))


def test_blur_is_noticed() -> None:
    sharp = checks((200, 200, 200), (50, 50, 50))
    assert "blurred" not in describe(measure(sharp))
    assert "blurred" in describe(measure(cv2.GaussianBlur(sharp, (61, 61), 25)))


def test_a_qr_code_is_read() -> None:
    code = cv2.QRCodeEncoder.create().encode("omnicall says hello")
    picture = np.full((480, 640, 3), 255, np.uint8)
    size = code.shape[0] * 8
    large = cv2.resize(code, (size, size), interpolation=cv2.INTER_NEAREST)
    picture[60 : 60 + size, 100 : 100 + size] = large[:, :, None]
    facts = measure(picture)
    assert facts.qr_text == "omnicall says hello"
    assert "QR code that says: omnicall says hello." in describe(facts)


def test_no_face_is_seen_where_there_is_none() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (240, 320, 3)).astype(np.uint8)
    assert measure(noise).faces == 0
    assert measure(checks((200, 200, 200), (50, 50, 50))).faces == 0


def test_nothing_is_claimed_beyond_what_was_measured() -> None:
    assert "cannot recognise objects or people" in describe(
        measure(checks((200, 20, 20), (20, 20, 20)))
    )


async def test_motion_is_told_while_it_is_recent(camera: Camera) -> None:
    for index in range(4):
        shown(camera, checks((200, 200, 200), (50, 50, 50), shift=index * 20), index * 8_000)
    facts = await camera.look()
    assert facts is not None and facts.moving
    for index in range(4, 14):
        shown(camera, checks((200, 200, 200), (50, 50, 50), shift=60), index * 8_000)
    facts = await camera.look()
    assert facts is not None and not facts.moving


async def test_the_newest_picture_counts_and_sizes_may_change(camera: Camera) -> None:
    assert shown(camera, checks((210, 20, 20), (210, 20, 20)))
    assert shown(camera, np.full((33, 17, 3), 250))
    facts = await camera.look()
    assert facts is not None and facts.colours == ("white",)
    assert shown(camera, np.full((1, 1, 3), 250))
    assert await camera.look() is not None


async def test_a_camera_switched_off_shows_nothing(camera: Camera) -> None:
    shown(camera, checks((210, 20, 20), (20, 20, 20)))
    assert await camera.look() is not None
    camera.show(ImageIn("s", 0, 1, 1, b""))
    assert await camera.look() is None
    assert await camera.jpeg() is None


class SlowReader:
    def __init__(self) -> None:
        self.go = threading.Event()

    def read(self, rgb: Any) -> str:
        self.go.wait()
        return "read"


async def test_who_looks_does_not_wait_for_who_reads() -> None:
    reader = SlowReader()
    with ThreadPoolExecutor(1) as eyes, ThreadPoolExecutor(1) as reading:
        camera = Camera(eyes, reader, reading)
        shown(camera, np.full((33, 17, 3), 250))
        read = asyncio.create_task(camera.read())
        try:
            # The task has handed its picture over before anything else is looked at.
            await asyncio.sleep(0)
            assert await camera.look() is not None and not read.done()
        finally:
            reader.go.set()
        assert await read == "read"


def test_a_picture_of_the_wrong_size_is_refused(camera: Camera) -> None:
    assert not camera.show(ImageIn("s", 0, 10, 10, bytes(299)))


async def test_a_picture_becomes_a_jpeg_of_bounded_size(camera: Camera) -> None:
    shown(camera, np.full((1_500, 2_000, 3), 100))
    data = await camera.jpeg()
    assert data is not None and data.startswith(b"\xff\xd8")
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None and picture.shape == (768, 1_024, 3)


async def test_kept_pictures_are_looked_at(camera: Camera) -> None:
    facts = await camera.look_at(encode_jpeg(checks((210, 20, 20), (200, 20, 20))))
    assert facts.colours == ("red",)
