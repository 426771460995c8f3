"""Slot rows: positions of ragged batches, what masked rows keep, and keys that move."""

from __future__ import annotations

import pytest
import torch

from engine.gpu.kv.cache import CacheSpec, NativeKV
from engine.gpu.layers.rope import Rope, rotate


def filled(lengths: list[int], max_len: int = 12) -> NativeKV:
    kv = NativeKV(CacheSpec(2, max_len, num_kv_heads=2, head_dim=4), len(lengths))
    generator = torch.Generator().manual_seed(1)
    for tensor in (*kv.keys, *kv.values):
        tensor.copy_(torch.randn(tensor.shape, generator=generator))
    kv.lengths = list(lengths)
    return kv


def test_plan_lays_ragged_rows_end_to_end_behind_what_is_cached() -> None:
    plan = filled([2, 0, 5]).plan([2, 0], [1, 3])
    assert plan.positions.tolist() == [5, 2, 3, 4]
    assert plan.write.tolist() == [2 * 13 + 5, 2, 3, 4]
    assert (plan.last.tolist(), plan.slots.tolist()) == ([0, 3], [2, 0])
    layout = plan.layout
    assert layout.query_starts.tolist() == [0, 1, 4]
    assert (layout.key_starts.tolist()[:2], layout.used.tolist()) == ([26, 0], [6, 5])
    assert (plan.max_query, plan.max_keys) == (3, 12)


def test_a_padded_plan_writes_its_padding_where_nobody_looks() -> None:
    plan = filled([2, 0, 5]).plan([2], [2], num_tokens=4, num_rows=3, max_query=8)
    assert plan.write.tolist() == [31, 32, 12, 12]
    assert plan.layout.query_starts.tolist() == [0, 2, 2, 2]
    assert (plan.layout.used.tolist(), plan.slots.tolist()) == ([7, 0, 0], [2, 3, 3])


def test_plan_refuses_what_does_not_fit_and_names_the_slot() -> None:
    with pytest.raises(OverflowError, match="slot 1 holds 11 positions, 2 more exceed 12"):
        filled([0, 11]).plan([1], [2])


def test_remove_slides_left_and_rotates_keys_to_their_new_positions() -> None:
    kv, rope = NativeKV(CacheSpec(1, 12, 2, 4), 2), Rope(4, 10_000.0)
    raw = torch.randn(8, 2, 4, generator=torch.Generator().manual_seed(3))
    kv.keys[0][1, :8] = rotate(raw, *rope(torch.arange(8)))
    kv.values[0][1, :8] = raw
    kv.lengths[1] = 8
    kv.remove(1, 2, 3, rope)
    assert kv.lengths == [0, 5]
    kept = raw[[0, 1, 5, 6, 7]]
    expected = rotate(kept, *rope(torch.arange(5)))
    assert torch.allclose(kv.keys[0][1, :5], expected, atol=1e-6)
    assert torch.equal(kv.values[0][1, :5], kept)


def test_move_to_the_right_may_overlap() -> None:
    kv, rope = NativeKV(CacheSpec(1, 12, 1, 4), 1), Rope(4, 10_000.0)
    raw = torch.randn(6, 1, 4, generator=torch.Generator().manual_seed(4))
    kv.keys[0][0, :6] = rotate(raw, *rope(torch.arange(6)))
    kv.values[0][0, :6] = raw
    kv.move(0, 2, 4, 4, rope)
    expected = rotate(raw[2:], *rope(torch.arange(4, 8)))
    assert torch.allclose(kv.keys[0][0, 4:8], expected, atol=1e-6)
    assert torch.equal(kv.values[0][0, 4:8], raw[2:])


def test_reset_clears_the_row_and_truncate_keeps_its_start() -> None:
    kv = filled([4, 4])
    kv.reset([0])
    kv.truncate(1, 2)
    assert kv.lengths == [0, 2]
    assert not kv.keys[1][0].any() and not kv.values[0][0].any()
    assert kv.keys[1][1].any()


def test_copy_shares_a_prefix_with_another_slot() -> None:
    kv = filled([6, 0])
    kv.copy(0, 1, 4)
    assert kv.lengths == [6, 4]
    assert torch.equal(kv.keys[1][1, :4], kv.keys[1][0, :4])
