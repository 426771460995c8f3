"""Facts about a picture that need no neural model. OpenCV runs off the event loop."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Any, Protocol

import cv2
import cv2.data
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from engine.ipc.protocol import INPUT_HZ, ImageIn

Pixels = NDArray[Any]
"""uint8; OpenCV's own annotations leave the type open."""

cv2.setNumThreads(1)

logger = logging.getLogger(__name__)

DIM = 75.0
BRIGHT = 205.0
FLAT = 9.0
"""Standard deviation of a picture that shows nothing: covered, or a blank wall."""
BLURRED = 25.0
MOVING = 6.0
MOTION_SPAN = 3 * INPUT_HZ
FACE_WIDTH = 320
JPEG_WIDTH = 1024
"""Of the camera's pictures."""
MAX_WIDTH = 2048
"""Of those in messages."""
JPEG_QUALITY = 85
MIN_COLOUR_SHARE = 0.18
MAX_QR_CHARS = 200
READ_S = 6.0
"""How long text in a picture is waited for."""

_HUES = (
    (9, "red"),
    (22, "orange"),
    (34, "yellow"),
    (85, "green"),
    (100, "turquoise"),
    (130, "blue"),
    (150, "purple"),
    (170, "pink"),
    (181, "red"),
)


class Facts(Struct, frozen=True):
    """The measurements of one picture."""

    brightness: float
    """0 to 255."""
    contrast: float
    sharpness: float
    colours: tuple[str, ...]
    """Most frequent first."""
    faces: int
    qr_text: str
    moving: bool = False


class CannotRead(RuntimeError):
    """What reads text in pictures does not work on this machine."""


class ReadingFailed(RuntimeError):
    """One picture could not be read."""


class Reads(Protocol):
    """What reads text in pictures."""

    def read(self, rgb: Pixels) -> str:
        """The lines in a picture [height, width, 3]; empty: none could be read. Takes long.

        Raises `TimeoutError`, `CannotRead`, and what its networks raise.
        """


class Camera:
    """Owns a session's newest picture and a light trace of motion."""

    def __init__(
        self, eyes: Executor, reader: Reads | None = None, reading: Executor | None = None
    ) -> None:
        """`reading`: where text is read, which takes long; None: where pictures are looked at."""
        self._eyes = eyes
        self._reader = reader
        self._reading = reading or eyes
        self._image: ImageIn | None = None
        self._thumbnail: NDArray[np.int16] | None = None
        self._motion: deque[tuple[int, float]] = deque(maxlen=16)

    def show(self, image: ImageIn) -> bool:
        """Take a picture, or the news that there is none; False if its size is not as told."""
        if not image.rgb:
            self._image = self._thumbnail = None
            self._motion.clear()
            return True
        if len(image.rgb) != image.width * image.height * 3:
            return False
        self._image = image
        thumbnail = _thumbnail(_as_array(image))
        if self._thumbnail is not None and self._thumbnail.shape == thumbnail.shape:
            change = float(np.abs(thumbnail - self._thumbnail).mean())
            self._motion.append((image.pts, change))
        self._thumbnail = thumbnail
        return True

    async def look(self) -> Facts | None:
        """Measure the newest picture; None while the camera is off."""
        image = self._image
        if image is None:
            return None
        moving = any(
            change > MOVING for pts, change in self._motion if pts >= image.pts - MOTION_SPAN
        )
        facts = await asyncio.get_running_loop().run_in_executor(
            self._eyes, measure, _as_array(image)
        )
        return Facts(**{**_fields(facts), "moving": moving})

    @property
    def can_read(self) -> bool:
        return self._reader is not None

    async def read(self, jpeg: bytes | None = None) -> str | None:
        """Text in a picture that `encode_jpeg` has made, else in the newest one; None while the
        camera is off. Raises `TimeoutError` where others have been reading for long,
        `ReadingFailed` and `CannotRead`."""
        image, reader = self._image, self._reader
        if reader is None or (jpeg is None and image is None):
            return None

        def look() -> str:
            if jpeg is not None:
                return reader.read(_decode_jpeg(jpeg))
            assert image is not None
            return reader.read(_as_array(image))

        try:
            async with asyncio.timeout(READ_S):
                return await asyncio.get_running_loop().run_in_executor(self._reading, look)
        except (TimeoutError, CannotRead):
            raise
        except Exception as error:
            # What networks raise has no class in common, and ends no call.
            logger.exception("text in a picture could not be read")
            raise ReadingFailed from error

    async def jpeg(self) -> bytes | None:
        """The newest picture as a JPEG file at most 1024 wide; None while the camera is off."""
        image = self._image
        if image is None:
            return None
        return await asyncio.get_running_loop().run_in_executor(
            self._eyes, encode_jpeg, _as_array(image), JPEG_WIDTH
        )

    async def look_at(self, jpeg: bytes) -> Facts:
        """Measure a picture that `encode_jpeg` has made."""
        return await asyncio.get_running_loop().run_in_executor(
            self._eyes, lambda: measure(_decode_jpeg(jpeg))
        )


def measure(rgb: Pixels) -> Facts:
    """Look at a picture [height, width, 3]; takes 10 to 30 ms, on one thread at a time."""
    height, width = rgb.shape[:2]
    scale = min(1.0, 640 / max(height, width))
    if scale < 1.0:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        rgb = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    mean, deviation = (float(value[0, 0]) for value in cv2.meanStdDev(grey))
    sees_something = deviation > FLAT
    return Facts(
        brightness=mean,
        contrast=deviation,
        sharpness=float(cv2.Laplacian(grey, cv2.CV_64F).var()),
        colours=name_colours(rgb),
        faces=count_faces(grey) if sees_something else 0,
        qr_text=read_qr(grey) if sees_something else "",
    )


def describe(facts: Facts) -> str:
    """Say it in sentences that claim no more than was measured."""
    if facts.contrast < FLAT and facts.brightness < DIM:
        return "The picture is almost black. Perhaps the camera is covered or the room is dark."
    if facts.contrast < FLAT:
        return f"I see one even {facts.colours[0]} area and nothing else in it."
    light = (
        "dark"
        if facts.brightness < DIM
        else "very bright"
        if facts.brightness > BRIGHT
        else "well lit"
    )
    sharpness = " and blurred" if facts.sharpness < BLURRED else ""
    sentences = [f"The picture is {light}{sharpness}, mostly {_join(facts.colours)}."]
    if facts.faces:
        people = "one face" if facts.faces == 1 else f"{facts.faces} faces"
        sentences.append(f"I think I see {people}.")
    if facts.qr_text:
        sentences.append(f"There is a QR code that says: {facts.qr_text}.")
    if facts.moving:
        sentences.append("Something is moving.")
    sentences.append("I cannot recognise objects or people.")
    return " ".join(sentences)


def name_colours(rgb: Pixels) -> tuple[str, ...]:
    """The one to three colours that fill most of the picture."""
    small = cv2.resize(rgb, (64, 48), interpolation=cv2.INTER_AREA)
    hsv = cv2.cvtColor(small, cv2.COLOR_RGB2HSV).reshape(-1, 3).astype(int)
    hue, saturation, value = hsv[:, 0], hsv[:, 1], hsv[:, 2]
    shares: dict[str, float] = {}
    names = np.array([name for _, name in _HUES])
    named = names[np.searchsorted(np.array([limit for limit, _ in _HUES]), hue, side="right")]
    named = np.where((named == "orange") & (value < 150), "brown", named)
    named = np.where(saturation < 50, "grey", named)
    named = np.where((saturation < 50) & (value > 190), "white", named)
    named = np.where(value < 45, "black", named)
    for name, count in zip(*np.unique(named, return_counts=True), strict=True):
        shares[str(name)] = float(count) / len(named)
    ranked = sorted(shares, key=lambda name: -shares[name])
    return tuple([ranked[0]] + [n for n in ranked[1:3] if shares[n] >= MIN_COLOUR_SHARE])


def count_faces(grey: Pixels) -> int:
    """Frontal faces of a usual size; misses are common, false alarms rare."""
    height, width = grey.shape
    scale = min(1.0, FACE_WIDTH / width)
    small = cv2.resize(grey, (max(1, round(width * scale)), max(1, round(height * scale))))
    found = _face_detector().detectMultiScale(
        cv2.equalizeHist(small), scaleFactor=1.1, minNeighbors=6, minSize=(32, 32)
    )
    return len(found)


def read_qr(grey: Pixels) -> str:
    """The text of a QR code in the picture, printable characters only; empty if none."""
    try:
        text = cv2.QRCodeDetector().detectAndDecode(grey)[0]
    except cv2.error:
        # OpenCV's detector asserts on some degenerate quadrangles: that is "no code".
        return ""
    return "".join(char for char in text if char.isprintable())[:MAX_QR_CHARS]


def encode_jpeg(rgb: Pixels, max_width: int = MAX_WIDTH) -> bytes:
    """A picture [height, width, 3] as a JPEG file at most so wide."""
    height, width = rgb.shape[:2]
    if width > max_width:
        size = (max_width, max(1, round(height * max_width / width)))
        rgb = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    assert done, rgb.shape
    return bytes(data)


def _decode_jpeg(jpeg: bytes) -> Pixels:
    bgr = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert bgr is not None, "no JPEG of ours"
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB))


_DETECTORS: list[Any] = []


def _face_detector() -> Any:
    # Loaded at first use, on the one thread that looks at pictures: 20 ms and 5 MB.
    if not _DETECTORS:
        path = cv2.data.haarcascades + "haarcascade_frontalface_default.xml"
        _DETECTORS.append(cv2.CascadeClassifier(path))
    return _DETECTORS[0]


def _as_array(image: ImageIn) -> Pixels:
    return np.frombuffer(image.rgb, np.uint8).reshape(image.height, image.width, 3)


def _thumbnail(rgb: Pixels) -> NDArray[np.int16]:
    # At most 32 x 24 sampled pixels: this one runs on the event loop, for every picture.
    height, width = rgb.shape[:2]
    rows, columns = max(1, height // 24), max(1, width // 32)
    return rgb[rows // 2 :: rows, columns // 2 :: columns, 1].astype(np.int16)


def _fields(facts: Facts) -> dict[str, Any]:
    return {name: getattr(facts, name) for name in facts.__struct_fields__}


def _join(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
