"""Memory on its way to the device: no part is handed out again before its copy is done."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from engine.gpu.staging import ALIGNMENT, SEGMENTS, Staging, fetched


class Mark:
    """Stands for a CUDA event."""

    log: list[tuple[str, int]] = []
    made = 0

    def __init__(self) -> None:
        self.number = Mark.made
        Mark.made += 1

    def record(self) -> None:
        Mark.log.append(("sent", self.number))

    def synchronize(self) -> None:
        Mark.log.append(("waited", self.number))


@pytest.fixture
def staging(monkeypatch: pytest.MonkeyPatch) -> Staging:
    """Four segments of 1024 bytes in ordinary memory."""
    zeros = torch.zeros

    def unpinned(*size: Any, pin_memory: bool = False, **others: Any) -> Tensor:
        del pin_memory
        return zeros(*size, **others)

    monkeypatch.setattr(torch, "zeros", unpinned)
    monkeypatch.setattr(torch.cuda, "Event", Mark)
    Mark.log, Mark.made = [], 0
    return Staging(torch.device("cuda"), SEGMENTS * 1024)


def start(tensor: Tensor, base: Tensor) -> int:
    return tensor.data_ptr() - base.data_ptr()


def test_parts_follow_each_other_and_are_aligned(staging: Staging) -> None:
    first = staging.take((10,), torch.float32)
    second = staging.take((3, 2), torch.int64)
    assert (first.shape, second.shape, second.dtype) == ((10,), (3, 2), torch.int64)
    assert start(second, first) == ALIGNMENT
    staging.sent()
    assert Mark.log == [("sent", 0)]


def test_a_segment_is_waited_for_when_it_comes_round_again(staging: Staging) -> None:
    first = staging.take((1024,), torch.uint8)
    staging.sent()
    for _ in range(SEGMENTS - 1):
        staging.take((600,), torch.uint8)
        staging.sent()
    Mark.log.clear()
    again = staging.take((600,), torch.uint8)
    assert start(again, first) == 0
    assert Mark.log == [("waited", 0)]


def test_parts_of_one_sending_may_lie_in_two_segments(staging: Staging) -> None:
    staging.take((1000,), torch.uint8)
    staging.take((1000,), torch.uint8)
    Mark.log.clear()
    staging.sent()
    assert sorted(Mark.log) == [("sent", 0), ("sent", 1)]


def test_more_at_once_than_fits_is_a_bug(staging: Staging) -> None:
    with pytest.raises(AssertionError, match="more is staged at once"):
        for _ in range(SEGMENTS + 1):
            staging.take((1000,), torch.uint8)


def test_a_larger_tensor_makes_the_buffer_grow(staging: Staging) -> None:
    staging.take((10,), torch.uint8)
    staging.sent()
    large = staging.take((5000,), torch.uint8)
    assert large.shape == (5000,)
    assert [kind for kind, _ in Mark.log].count("waited") == SEGMENTS


def test_what_is_larger_is_copied_in_parts(staging: Staging) -> None:
    source = torch.arange(9_000, dtype=torch.int16).view(90, 100)
    target = torch.zeros_like(source)
    staging.copy(target, source)
    assert torch.equal(target, source)
    assert Mark.made == SEGMENTS, "the buffer has grown"


def test_on_a_cpu_nothing_is_staged() -> None:
    plain = Staging(torch.device("cpu"), 1 << 20)
    taken = plain.take((2, 2), torch.float32)
    plain.sent()
    assert taken.shape == (2, 2) and fetched(taken) is taken
