"""Text in pictures: where it is, in which order, what is believed; read with the weights."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from engine.builtin.picture_facts import CannotRead
from engine.builtin.text_reader import (
    BUDGET_S,
    MOST_LINES,
    MOST_SIDE,
    ReadingModels,
    TextReader,
    bounded,
    cut_out,
    decoded,
    find_reader,
    in_reading_order,
    joined,
    lines_in,
)
from engine.config import BuiltinConfig

CHARACTERS = ["", "a", "b", "\u200b"]


def box(left: float, top: float, width: float, height: float) -> Any:
    right, bottom = left + width, top + height
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]], np.float32)


def steps(*best: int, sure: float = 0.9) -> Any:
    found = np.full((len(best), len(CHARACTERS)), (1 - sure) / 3, np.float32)
    found[np.arange(len(best)), best] = sure
    return found


def test_what_is_said_again_at_once_is_one_character() -> None:
    assert decoded(steps(1, 1, 0, 1, 2, 2), CHARACTERS) == "aab"
    assert decoded(steps(3, 1), CHARACTERS) == "a"
    assert decoded(steps(0, 0), CHARACTERS) == ""
    assert decoded(steps(1, 2, sure=0.5), CHARACTERS) == ""


def test_lines_are_read_from_the_top_and_from_the_left() -> None:
    right, left, below = box(200, 12, 80, 20), box(10, 10, 80, 20), box(10, 50, 80, 20)
    ordered = in_reading_order([below, right, left])
    assert [line[0, 0] for line in ordered] == [10, 200, 10]
    assert joined(list(zip(ordered, ("one", "two", "three"), strict=True))) == "one two\nthree"


def test_marked_stretches_are_lines_a_little_larger_than_marked() -> None:
    marked = np.zeros((200, 400), np.float32)
    marked[50:60, 100:300] = 0.9
    marked[120:130, 100:300] = 0.4
    marked[180:182, 10:12] = 0.9
    (line,) = lines_in(marked)
    assert line[:, 0].min() < 100 and line[:, 0].max() > 300
    assert 20 < np.ptp(line[:, 1]) < 40


def test_of_very_many_lines_only_the_largest_are_looked_at() -> None:
    marked = np.zeros((960, 960), np.float32)
    for at in range(100):
        marked[8 * at : 8 * at + 5, 10 : 400 + at] = 0.9
    assert len(lines_in(marked)) == MOST_LINES


def test_what_stands_upright_is_laid_level() -> None:
    picture = np.zeros((200, 200, 3), np.uint8)
    height, width = cut_out(picture, box(20, 20, 30, 120)).shape[:2]
    assert width > height


@pytest.mark.parametrize(
    ("corners", "right_way_up"),
    [
        ([[0, 10], [10, 0], [30, 20], [20, 30]], [[10, 0], [30, 20]]),
        ([[0, 20], [20, 0], [30, 10], [10, 30]], [[0, 20], [20, 0]]),
    ],
)
def test_what_runs_aslant_is_cut_out_whole(corners: Any, right_way_up: Any) -> None:
    """Two corners are equally far to the top left."""
    picture = np.zeros((40, 40, 3), np.uint8)
    start, end = np.array(right_way_up, np.float32)
    across = np.array([start[1] - end[1], end[0] - start[0]]) / 28 * 3
    place = [tuple(int(value) for value in point + across) for point in (start, end)]
    cv2.line(picture, place[0], place[1], (255, 255, 255), 2)
    for turn in range(4):
        line = cut_out(picture, np.roll(np.array(corners, np.float32), turn, axis=0))
        height, width = line.shape[:2]
        assert (height, width) == (14, 28)
        assert line[: height // 2].mean() > 2 * line[height // 2 :].mean()


def test_of_a_very_wide_picture_lines_can_be_cut_out() -> None:
    picture = bounded(np.zeros((64, 33_000, 3), np.uint8))
    assert picture.shape == (16, MOST_SIDE, 3)
    assert cut_out(picture, box(8_000, 2, 100, 10)).shape == (10, 100, 3)
    small = np.zeros((64, 100, 3), np.uint8)
    assert bounded(small) is small


def test_networks_that_cannot_be_loaded_are_tried_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "file"
    path.write_text("no network")
    broken = TextReader(ReadingModels(path, path, path), lambda: 0.0)
    for _ in range(2):
        with pytest.raises(CannotRead):
            broken.read(np.zeros((40, 40, 3), np.uint8))
    assert caplog.text.count("text in pictures is not read") == 1


class Clock:
    """Stands still unless it is told otherwise."""

    def __init__(self) -> None:
        self.times: Iterator[float] = itertools.repeat(0.0)

    def __call__(self) -> float:
        return next(self.times)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def loaded() -> TextReader:
    found = find_reader(BuiltinConfig())
    if found is None:
        pytest.skip("needs omnicall[voice]")
    return found


@pytest.fixture
def reader(loaded: TextReader, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> TextReader:
    monkeypatch.setattr(loaded, "_clock", clock)
    return loaded


def test_the_base_install_reads_nothing() -> None:
    assert find_reader(BuiltinConfig(speech="basic")) is None


def sign() -> Any:
    picture = np.full((360, 640, 3), 210, np.uint8)
    for at, words in enumerate(("OPEN DAILY", "from 9 to 17:30")):
        place = (60, 120 + 110 * at)
        cv2.putText(picture, words, place, cv2.FONT_HERSHEY_DUPLEX, 1.6, (30, 30, 60), 3)
    return picture


def test_a_sign_is_read(reader: TextReader) -> None:
    assert reader.read(sign()).replace(" ", "").split("\n") == ["OPENDAILY", "from9to17:30"]


def test_where_nothing_is_written_nothing_is_read(reader: TextReader) -> None:
    assert reader.read(np.full((240, 320, 3), 90, np.uint8)) == ""


def test_reading_ends_when_its_time_is_over(reader: TextReader, clock: Clock) -> None:
    """The first look at the clock is its beginning, the others are each before a line."""
    over = 1.0 + BUDGET_S
    clock.times = iter([0.0, 1.0, over, 0.0, over])
    assert reader.read(sign()).replace(" ", "") == "OPENDAILY"
    with pytest.raises(TimeoutError):
        reader.read(sign())
