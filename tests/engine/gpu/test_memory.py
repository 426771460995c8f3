"""What a process may take of a GPU: reckoned from what CUDA and torch say."""

from __future__ import annotations

import pytest
import torch

from engine.gpu import memory
from engine.gpu.memory import GIB, MemoryLimitError

DEVICE = torch.device("cuda")


class Gpu:
    """80 GiB, of which CUDA itself has taken some; answers by number only, as torch does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fraction, self.reserved, self.allocated, self.context = 1.0, 0, 0, GIB // 2
        for name in ("get_per_process_memory_fraction", "set_per_process_memory_fraction"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda place: (self.free, 80 * GIB))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: self.reserved)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: self.allocated)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)

    @property
    def free(self) -> int:
        return 80 * GIB - self.context - self.reserved

    def get_per_process_memory_fraction(self, place: int) -> float:
        assert place == 0
        return self.fraction

    def set_per_process_memory_fraction(self, fraction: float, place: int) -> None:
        assert place == 0
        self.fraction = fraction


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    return Gpu(monkeypatch)


def test_a_limit_counts_what_cuda_takes(gpu: Gpu) -> None:
    memory.limit(DEVICE, 12)
    assert round(gpu.fraction * 80 * GIB) == 12 * GIB - gpu.context
    gpu.reserved, gpu.allocated = 9 * GIB, 8 * GIB
    assert memory.left(DEVICE) == pytest.approx(12 * GIB - gpu.context - 9 * GIB, abs=8)
    assert memory.unused(DEVICE) == pytest.approx(12 * GIB - gpu.context - 8 * GIB, abs=8)


def test_without_a_limit_all_that_is_free_can_be_taken(gpu: Gpu) -> None:
    gpu.reserved, gpu.allocated = 30 * GIB, 20 * GIB
    assert memory.left(DEVICE) == gpu.free and memory.unused(DEVICE) == gpu.free + 10 * GIB


def test_a_limit_beyond_the_device_is_none(gpu: Gpu) -> None:
    memory.limit(DEVICE, 500)
    assert gpu.fraction == 1 and memory.left(torch.device("cuda", 0)) == gpu.free


def test_another_process_does_not_count_as_what_cuda_takes(gpu: Gpu) -> None:
    gpu.context = 40 * GIB
    memory.limit(DEVICE, 12)
    assert round(gpu.fraction * 80) == 11


def test_a_limit_that_leaves_nothing_is_refused_by_its_setting(gpu: Gpu) -> None:
    with pytest.raises(MemoryLimitError, match=r"engine\.gpu_memory_gib = 0\.4: CUDA alone takes"):
        memory.limit(DEVICE, 0.4)
