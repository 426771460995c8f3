"""The kernels for weights in 4 bits beside the same in torch operations, on a CUDA device."""

from __future__ import annotations

import pytest
import torch

from engine.gpu.kernels.int4 import Int4Values, Int4Weight
from tests.engine.gpu.cuda_rig import (
    BF16,
    cuda_only,
    drawn,
    relative,
    skip_without_kernels,
    without_kernels,
)

pytestmark = cuda_only()

SHAPES = (
    (128, 64),
    (48, 192),
    (384, 192),
    (4096, 4096),
    (6144, 4096),
    (24_576, 4096),
    (4096, 12_288),
)
"""Outputs and inputs: some that no block divides evenly, and those of the released model."""
ROUNDING = 6e-3
"""Relative, of sums in another order, rounded to bfloat16."""


def laid(outputs: int, inputs: int) -> Int4Weight:
    return Int4Weight.of(Int4Values.of(drawn(outputs, inputs, seed=outputs + inputs)))


@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
def test_products_are_those_of_the_widened_weight(outputs: int, inputs: int) -> None:
    skip_without_kernels()
    weight = laid(outputs, inputs)
    wide = weight.widened(torch.float32)
    for rows in (1, 3, 8, 9, 16, 31, 64, 65, 200):
        x = drawn(rows, inputs, seed=rows)
        found = weight.product(x)
        exact = x.float() @ wide.t()
        assert found.shape == (rows, outputs) and found.dtype is BF16
        assert relative(found, exact) < ROUNDING, rows
        for row in (0, rows - 1):
            assert relative(found[row], exact[row]) < ROUNDING, (rows, row)


@pytest.mark.parametrize(("outputs", "inputs"), SHAPES[:5])
def test_many_rows_see_the_same_values_as_few(outputs: int, inputs: int) -> None:
    """Of the unit matrix the products are the weight itself, by either way, to the bit."""
    skip_without_kernels()
    weight = laid(outputs, inputs)
    unit = torch.eye(inputs, device="cuda", dtype=BF16)
    wide = weight.widened(BF16)
    assert torch.equal(weight.product(unit), wide.t())
    assert torch.equal(weight.product(unit[:64].contiguous()), wide.t()[:64])
    assert torch.equal(weight.product(unit[:5].contiguous()), wide.t()[:5])


def test_without_kernels_it_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    skip_without_kernels()
    weight, x = laid(384, 192), drawn(5, 192)
    ours = weight.product(x)
    without_kernels(monkeypatch)
    assert relative(ours, weight.product(x)) < ROUNDING
