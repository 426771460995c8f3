"""Weights in 4 bits: the numbers, how they are laid out, and the products with them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine.gpu.kernels.int4 import GROUPS, Int4Values, Int4Weight, group_of

BF16 = torch.bfloat16
GAUSSIAN_ERROR = 0.1
"""Of normal values in groups of 128; four bits between a group's ends give 0.1006."""


def weight(outputs: int, inputs: int, seed: int = 0) -> Tensor:
    return torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(seed))


def plain(values: Int4Values) -> Tensor:
    """(number - zero) * scale, rounded to bfloat16, one group after another."""
    parts = []
    for place, numbers in enumerate(torch.split(values.numbers, values.group, dim=1)):
        zero, scale = values.zeros[:, place, None], values.scales[:, place, None]
        parts.append(((numbers.float() - zero.float()) * scale.float()).to(BF16))
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize(("outputs", "inputs"), [(16, 64), (48, 192), (128, 128), (32, 1024)])
def test_what_is_laid_out_is_read_back_exactly(outputs: int, inputs: int) -> None:
    values = Int4Values.of(weight(outputs, inputs))
    laid = Int4Weight.of(values)
    assert torch.equal(laid.widened(BF16), plain(values))
    assert laid.group == values.group == group_of(inputs)
    assert laid.cells.dtype is torch.int32 and laid.cells.numel() * 8 == outputs * inputs


@settings(max_examples=20)
@given(st.integers(0, 2**31), st.sampled_from(GROUPS))
def test_any_numbers_scales_and_zeros_are_kept(seed: int, group: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = Int4Values(
        torch.randint(16, (32, 256), generator=generator, dtype=torch.uint8),
        torch.randn(32, 256 // group, generator=generator).to(BF16),
        torch.randint(16, (32, 256 // group), generator=generator, dtype=torch.uint8),
    )
    assert torch.equal(Int4Weight.of(values).widened(BF16), plain(values))


def test_a_lane_has_what_the_kernels_expect() -> None:
    """As int4.cuh says it, number by number."""
    values = Int4Values.of(weight(32, 128))
    cells = Int4Weight.of(values).cells
    for tile, piece, lane, word, number in ((0, 0, 0, 0, 0), (1, 1, 13, 2, 5), (1, 0, 31, 3, 6)):
        output = 16 * tile + lane // 4 + 8 * (word // 2)
        given_input = 64 * piece + 16 * (lane % 4) + 8 * (word % 2) + number
        shift = 4 * (number // 2) + 16 * (number % 2)
        found = (int(cells[tile, piece, lane, word]) >> shift) & 15
        assert found == values.numbers[output, given_input]


def test_the_error_of_normal_weights() -> None:
    given_weight = weight(256, 1024)
    found = Int4Weight.of(Int4Values.of(given_weight)).widened(torch.float32)
    error = float((found - given_weight).norm() / given_weight.norm())
    assert 0.05 < error < GAUSSIAN_ERROR


@pytest.mark.parametrize("value", [0.0, 1.0, -3.0, 1e-30, 3e4])
def test_groups_of_one_value_are_nearly_exact(value: float) -> None:
    found = Int4Weight.of(Int4Values.of(torch.full((16, 128), value))).widened(torch.float32)
    assert found.isfinite().all()
    assert (found - value).abs().max() <= 0.005 * abs(value)


def test_a_rare_large_value_does_not_flatten_its_group() -> None:
    given_weight = weight(16, 128)
    given_weight[:, 7] = 12.0
    found = Int4Weight.of(Int4Values.of(given_weight)).widened(torch.float32)
    assert (found[:, 7] - 12).abs().max() < 2.5
    assert float((found - given_weight).norm() / given_weight.norm()) < 0.25


def test_products_are_those_of_the_widened_weight() -> None:
    laid = Int4Weight.of(Int4Values.of(weight(64, 128)))
    for rows in (1, 5, 70):
        x = weight(rows, 128, seed=rows)
        assert torch.equal(laid.product(x), x @ laid.widened(torch.float32).t())


@pytest.mark.parametrize(("outputs", "inputs"), [(8, 64), (16, 32)])
def test_a_weight_without_whole_tiles_is_refused(outputs: int, inputs: int) -> None:
    with pytest.raises(ValueError, match=rf"\[{outputs}, {inputs}\] is no whole number of tiles"):
        Int4Weight.of(Int4Values.of(weight(outputs, inputs)))
    with pytest.raises(ValueError, match="40 inputs cannot be quantised"):
        group_of(40)
