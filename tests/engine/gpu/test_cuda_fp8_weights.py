"""Products in 8 bits and what narrows their rows, beside torch operations, on a CUDA device."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from engine.gpu.kernels.decoder_layer import add_norm, silu_mul
from engine.gpu.kernels.e4m3 import dequantise
from engine.gpu.kernels.fp8_weights import Fp8Rows, Fp8Weight, multiplies, narrow_rows, narrowed
from engine.gpu.layers.norms import RMSNorm
from tests.engine.gpu.cuda_rig import (
    BF16,
    cuda_only,
    drawn,
    relative,
    skip_without_kernels,
    without_kernels,
)

pytestmark = cuda_only()

SHAPES = ((32, 64), (6144, 4096), (4096, 4096), (24_576, 4096), (4096, 12_288))
ROUNDING = 6e-3


def widened(rows: Fp8Rows) -> Tensor:
    return dequantise(rows.numbers, rows.scales[:, 0])


def assert_alike(ours: object, theirs: object) -> None:
    """Hardly a number is rounded to its neighbour: what is narrowed was rounded before."""
    assert isinstance(ours, Fp8Rows) and isinstance(theirs, Fp8Rows)
    assert relative(ours.scales, theirs.scales) < 0.005
    assert relative(widened(ours), widened(theirs)) < 0.005


@pytest.mark.parametrize("size", [8, 24, 1000, 4096, 12_288, 16_384])
def test_rows_are_narrowed_as_by_torch(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    skip_without_kernels()
    x, both = drawn(37, size, seed=1), drawn(37, 2 * size, seed=2)
    x[3], x[5, 1], x[7, 0] = 0, torch.nan, 3e38
    ours = narrow_rows(x), silu_mul(both, narrow=True)
    without_kernels(monkeypatch)
    exact = narrowed(x)
    assert ours[0] is not None
    assert torch.equal(ours[0].scales.nan_to_num(7), exact.scales.nan_to_num(7))
    numbers = ours[0].numbers.view(torch.uint8), exact.numbers.view(torch.uint8)
    finite = exact.scales[:, 0].isfinite()
    assert torch.equal(numbers[0][finite], numbers[1][finite])
    assert_alike(ours[1], silu_mul(both, narrow=True))


@pytest.mark.parametrize("size", [24, 264, 4096, 8200])
@pytest.mark.parametrize("adds", [True, False])
def test_a_narrow_norm(monkeypatch: pytest.MonkeyPatch, size: int, adds: bool) -> None:
    skip_without_kernels()
    norm = RMSNorm(size, 1e-6).requires_grad_(False).to("cuda", BF16)
    norm.weight.copy_(1 + 0.2 * drawn(size, seed=9))
    x, delta = drawn(7, size, seed=1), drawn(7, size, seed=2) if adds else None
    total, ours = add_norm(x, delta, norm, narrow=True)
    without_kernels(monkeypatch)
    plain_total, plain = add_norm(x, delta, norm, narrow=True)
    assert torch.equal(total, plain_total)
    assert_alike(ours, plain)


@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
def test_products_are_those_of_the_same_numbers(outputs: int, inputs: int) -> None:
    skip_without_kernels()
    if not multiplies(torch.device("cuda")):
        pytest.skip("no tensor cores for e4m3")
    weight = Fp8Weight.of(drawn(outputs, inputs, seed=outputs))
    wide = weight.widened(torch.float32)
    for count in (1, 2, 8, 31, 64, 200, 632):
        x = drawn(count, inputs, seed=count)
        rows = narrowed(x)
        found = weight.product(rows)
        assert found.dtype is BF16 and found.shape == (count, outputs)
        assert relative(found, widened(rows) @ wide.t()) < ROUNDING, count
        assert torch.equal(found, weight.product(x))
