"""Numbers in e4m3: what is stored, and what it stands for when it is read."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from engine.gpu.kernels.decoder_layer import PackedHeads
from engine.gpu.kernels.e4m3 import LARGEST, LEAST, dequantise, quantise
from engine.gpu.kernels.fp8_kv import Fp8Cells, read8, store8
from engine.gpu.layers.norms import RMSNorm
from engine.gpu.layers.rope import Rope
from engine.gpu.layers.varlen_attention import VarlenLayout

SLOTS, LENGTH = 4, 21
HEADS, KV_HEADS, DIM = 6, 2, 8
ROPE = Rope(DIM, 10_000.0)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def ints(values: list[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


def empty_cells() -> Fp8Cells:
    shape = (SLOTS, LENGTH, KV_HEADS)
    keys, values = (torch.zeros(*shape, DIM, dtype=torch.float8_e4m3fn) for _ in range(2))
    return Fp8Cells(keys, values, torch.zeros(shape), torch.zeros(shape))


def turned(x: Tensor, positions: Tensor) -> Tensor:
    """Rotated pair by pair as complex numbers, float64."""
    pairs = torch.complex(*x.double().chunk(2, dim=-1))
    angles = positions.double()[:, None, None] * ROPE.frequencies(x.device).double()
    pairs = pairs * torch.polar(torch.ones_like(angles), angles)
    return torch.cat((pairs.real, pairs.imag), dim=-1)


# ------------------------------------------------------------------ numbers


def test_the_largest_number_of_a_head_becomes_the_largest_of_the_format() -> None:
    x = drawn(50, 3, 16) * 10 ** drawn(50, 3, 1, seed=1)
    small, scales = quantise(x)
    assert small.dtype == torch.float8_e4m3fn and scales.shape == (50, 3)
    assert (small.float().abs().amax(-1) == LARGEST).all()
    torch.testing.assert_close(scales, x.abs().amax(-1) / 448, rtol=1e-6, atol=0)


def test_what_is_read_is_within_half_a_step_of_what_was_stored() -> None:
    x = drawn(200, 16) * 10 ** drawn(200, 1, seed=1)
    small, scales = quantise(x)
    apart = (dequantise(small, scales) - x).abs()
    # Three bits of mantissa; below 2^-6 of the scale the steps are 2^-9 of it.
    bound = torch.maximum(x.abs() * 2.0**-4, scales[:, None] * 2.0**-10)
    assert (apart <= bound * 1.001).all() and apart.max() > 0
    assert float((apart.square().sum() / x.square().sum()).sqrt()) < 0.03


def test_storing_what_was_read_changes_nothing() -> None:
    small, scales = quantise(drawn(100, 8))
    again, same = quantise(dequantise(small, scales))
    assert torch.equal(again.view(torch.uint8), small.view(torch.uint8))
    assert torch.allclose(same, scales, rtol=1e-6)


def test_zeros_stay_zeros_and_what_is_not_finite_does_not_become_finite() -> None:
    small, scales = quantise(torch.zeros(2, 8))
    assert not small.float().any() and torch.equal(scales, torch.full((2,), LEAST / LARGEST))
    bad = torch.ones(2, 8)
    bad[0, 3], bad[1, 5] = torch.nan, -torch.inf
    read = dequantise(*quantise(bad))
    assert not read.isfinite().all(-1).any()


# ------------------------------------------------------------------ cells


def packed_of(count: int, seed: int) -> Tensor:
    return drawn(count, (HEADS + 2 * KV_HEADS) * DIM, seed=seed)


def norms() -> tuple[RMSNorm, RMSNorm]:
    pair = RMSNorm(DIM, 1e-6).requires_grad_(False), RMSNorm(DIM, 1e-6).requires_grad_(False)
    for seed, norm in enumerate(pair):
        norm.weight.copy_(1 + 0.3 * drawn(DIM, seed=20 + seed))
    return pair


@pytest.mark.parametrize("has_norms", [True, False])
def test_store_keeps_keys_before_the_rotation_and_turns_queries(has_norms: bool) -> None:
    packed, cells = packed_of(5, 2), empty_cells()
    positions, write = ints([0, 7, 3, 4000, 1]), ints([3, 80, 41, 0, 22])
    pair = norms() if has_norms else None
    query = store8(
        PackedHeads(packed, pair, ROPE.frequencies(packed.device), positions, write, HEADS), cells
    )
    parts = torch.split(packed.view(5, -1, DIM), [HEADS, KV_HEADS, KV_HEADS], dim=1)
    queries, keys = parts[:2] if pair is None else (pair[0](parts[0]), pair[1](parts[1]))
    torch.testing.assert_close(query, turned(queries, positions).float(), atol=1e-3, rtol=1e-3)
    for stored, scales, fresh in (
        (cells.keys, cells.key_scales, keys),
        (cells.values, cells.value_scales, parts[2]),
    ):
        small, scale = quantise(fresh)
        places = write.long()
        ours = stored.view(torch.uint8).flatten(0, 1)
        assert torch.equal(ours[places], small.view(torch.uint8))
        assert torch.equal(scales.flatten(0, 1)[places], scale)
        others = torch.ones(SLOTS * LENGTH, dtype=torch.bool)
        others[places] = False
        assert not ours[others].any() and not scales.flatten(0, 1)[others].any()


def test_read_turns_what_rows_see_and_leaves_the_rest() -> None:
    cells = empty_cells()
    raw = drawn(2, SLOTS, LENGTH, KV_HEADS, DIM, seed=3)
    for stored, scales, x in zip(
        (cells.keys, cells.values), (cells.key_scales, cells.value_scales), raw, strict=True
    ):
        small, scale = quantise(x)
        stored.copy_(small)
        scales.copy_(scale)
    layout = VarlenLayout(
        ints([0, 3, 3, 4]), ints([2 * LENGTH, 0, LENGTH, 0]), ints([9, 0, LENGTH]), 3, LENGTH
    )
    keys, values = torch.full((2, SLOTS, LENGTH, KV_HEADS, DIM), 7.0).unbind()
    read8(cells, ROPE.frequencies(keys.device), layout, keys, values)
    for slot, used in ((2, 9), (1, LENGTH)):
        expected = turned(
            dequantise(cells.keys[slot], cells.key_scales[slot]), torch.arange(LENGTH)
        )
        torch.testing.assert_close(keys[slot, :used], expected[:used].float(), atol=1e-4, rtol=1e-4)
        exact = dequantise(cells.values[slot, :used], cells.value_scales[slot, :used])
        assert torch.equal(values[slot, :used], exact)
    for untouched in (keys[[0, 3]], keys[2, 9:], values[[0, 3]], values[2, 9:]):
        assert (untouched == 7).all()
