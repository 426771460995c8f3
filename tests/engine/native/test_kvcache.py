"""Slot rows: positions of ragged batches, what masked rows keep, and keys that move."""

from __future__ import annotations

import pytest
import torch

from engine.kvcache import SlotKV
from engine.layers.rope import Rope, rotate


def filled(lengths: list[int], max_len: int = 12) -> SlotKV:
    kv = SlotKV(2, len(lengths), max_len, num_kv_heads=2, head_dim=4)
    generator = torch.Generator().manual_seed(1)
    for tensor in (*kv.keys, *kv.values):
        tensor.copy_(torch.randn(tensor.shape, generator=generator))
    kv.lengths = list(lengths)
    return kv


def test_plan_lays_ragged_rows_end_to_end_behind_what_is_cached() -> None:
    plan = filled([2, 0, 5]).plan([2, 0], [1, 3])
    assert plan.token_slot.tolist() == [2, 0, 0, 0]
    assert plan.token_position.tolist() == [5, 2, 3, 4]
    assert plan.last.tolist() == [0, 3]
    assert (plan.num_rows, plan.width, plan.context) == (2, 3, 6)
    assert plan.visible[1, 0, 1].tolist() == [True, True, True, True, False, False]
    assert not plan.is_dense


def test_plan_refuses_what_does_not_fit_and_names_the_slot() -> None:
    with pytest.raises(OverflowError, match="slot 1 holds 11 positions, 2 more exceed 12"):
        filled([0, 11]).plan([1], [2])


def test_consecutive_slots_are_read_without_a_copy() -> None:
    kv = filled([3, 3, 3])
    keys, _ = kv.rows(0, kv.plan([1, 2], [1, 1]))
    assert keys.data_ptr() == kv.keys[0][1].data_ptr()
    copied, _ = kv.rows(0, kv.plan([2, 0], [1, 1]))
    assert torch.equal(copied[1], kv.keys[0][0, :4])


def test_masked_decode_writes_only_active_rows() -> None:
    kv = filled([3, 12, 5])
    before = kv.keys[0].clone()
    plan = kv.decode_plan(torch.tensor([True, False, False]), torch.tensor(kv.lengths), 12)
    fresh = torch.ones(3, 2, 4)
    kv.append(0, plan, fresh, fresh)
    assert torch.equal(kv.keys[0][0, 3], fresh[0])
    before[0, 3] = fresh[0]
    assert torch.equal(kv.keys[0][:, :12], before[:, :12])


def test_remove_slides_left_and_rotates_keys_to_their_new_positions() -> None:
    kv, rope = SlotKV(1, 2, 12, 2, 4), Rope(4, 10_000.0)
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
    kv, rope = SlotKV(1, 1, 12, 1, 4), Rope(4, 10_000.0)
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
