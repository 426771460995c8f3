"""The flow's kernels on CUDA against the torch operations that they replace."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from engine.gpu.kernels import flow_block as flow_fused
from engine.gpu.kernels.flow_block import Columns, Gated, Norm
from engine.minicpmo.models.flow.config import FlowConfig
from engine.minicpmo.models.flow.flow import Flow
from engine.minicpmo.models.flow.state import Window
from tests.engine.gpu.cuda_rig import cuda_only, skip_without_kernels, without_kernels
from tests.speech_assets import random_flow

pytestmark = [
    *cuda_only(),
    pytest.mark.usefixtures("kernels"),
]

SIZES = pytest.mark.parametrize("size", [64, 264, 512, 1024])
STEP = 2e-3
"""Two of the last digits of float16, relative."""


@pytest.fixture
def kernels() -> None:
    """Without them torch would be compared with itself."""
    skip_without_kernels()


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float16) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to("cuda", dtype)


def norm(size: int) -> Norm:
    return Norm(drawn(size, seed=7), drawn(size, seed=8) + 1, 1e-5)


@SIZES
@pytest.mark.parametrize("adds", [True, False])
def test_a_gated_norm(monkeypatch: pytest.MonkeyPatch, size: int, adds: bool) -> None:
    x, more = drawn(77, size), Gated(drawn(77, size, seed=1), drawn(size, seed=2))
    ours = flow_fused.gated_norm(x, more if adds else None, norm(size))
    without_kernels(monkeypatch)
    theirs = flow_fused.gated_norm(x, more if adds else None, norm(size))
    assert torch.equal(ours[0], theirs[0])
    torch.testing.assert_close(ours[1], theirs[1], rtol=STEP, atol=STEP)


@SIZES
@pytest.mark.parametrize("width", [1, 2, 3, 50])
@pytest.mark.parametrize("is_mish", [True, False])
def test_columns_and_tails(
    monkeypatch: pytest.MonkeyPatch, size: int, width: int, is_mish: bool
) -> None:
    rows = 5
    x = drawn(rows * width, size)
    more = None if is_mish else Gated(drawn(rows * width, size, seed=1), drawn(size, seed=2))
    old = drawn(rows, 2, size, seed=3)
    valid = torch.tensor([0, 1, 2, width - 1, width], device="cuda").clamp(0, width)
    firsts = torch.arange(rows, device="cuda") * (width + 2) + valid
    last = (firsts[:, None] + torch.arange(2, device="cuda")).flatten()

    def run() -> Columns:
        return flow_fused.gated_columns(x, more, norm(size), old, last, is_mish=is_mish)

    ours = run()
    without_kernels(monkeypatch)
    theirs = run()
    assert torch.equal(ours.sum, theirs.sum)
    torch.testing.assert_close(ours.columns, theirs.columns, rtol=STEP, atol=STEP)
    torch.testing.assert_close(ours.tail, theirs.tail, rtol=STEP, atol=STEP)


@pytest.mark.parametrize(("heads", "dim"), [(8, 64), (3, 32), (2, 8), (5, 128), (1, 256)])
def test_stored_heads(monkeypatch: pytest.MonkeyPatch, heads: int, dim: int) -> None:
    count = 37
    packed = drawn(count, 3 * heads * dim)
    both = Norm(drawn(2, 1, dim, seed=1), drawn(2, 1, dim, seed=2), 1e-5)
    write = torch.randperm(4 * 16, generator=torch.Generator().manual_seed(3))[:count].cuda()

    def run() -> tuple[Tensor, ...]:
        keys = torch.zeros(4, 16, heads, dim, device="cuda", dtype=torch.float16)
        values = torch.zeros_like(keys)
        return flow_fused.store_heads(packed, both, write, keys, values, heads), keys, values

    ours = run()
    without_kernels(monkeypatch)
    for mine, other in zip(ours, run(), strict=True):
        torch.testing.assert_close(mine, other, rtol=STEP, atol=STEP)


def test_a_stream_of_mel_frames_is_that_of_float32_without_kernels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def frames(dtype: torch.dtype) -> list[Tensor]:
        flow: Flow = random_flow(FlowConfig(), device="cuda").to(dtype).prepare(3)
        state = flow.new_state(2, 150)
        for slot in range(2):
            state.open(slot, 0, drawn(80, seed=slot, dtype=dtype))
        found = []
        for unit in range(3):
            codes = torch.randint(6561, (28,), generator=torch.Generator().manual_seed(unit))
            own = codes.tolist()
            windows = [Window(0, own), Window(1, own[: 12 + unit])]
            found += [chunk.mel.float().clone() for chunk in flow(windows, state)]
        return found

    ours = frames(torch.float16)
    without_kernels(monkeypatch)
    for mine, other in zip(ours, frames(torch.float32), strict=True):
        assert float((mine - other).norm() / other.norm()) < 1e-2
