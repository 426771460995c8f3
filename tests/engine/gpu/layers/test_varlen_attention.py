"""Attention over cache rows: ragged rows equal each row alone, in whatever slots they lie."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from engine.gpu.layers.varlen_attention import VarlenLayout, varlen_attention

SLOTS, LENGTH, DIM = 4, 20, 8


def ints(values: list[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


def plain(query: Tensor, keys: Tensor, values: Tensor, causal: bool) -> Tensor:
    """[T, H, D] over [K, Hkv, D], written out."""
    groups = query.shape[1] // keys.shape[1]
    keys, values = (x.repeat_interleave(groups, dim=1) for x in (keys, values))
    scores = torch.einsum("thd,khd->htk", query, keys) / DIM**0.5
    if causal:
        reach = len(keys) - len(query) + torch.arange(len(query))
        scores = scores.masked_fill(torch.arange(len(keys)) > reach[:, None], -torch.inf)
    return torch.einsum("htk,khd->thd", scores.softmax(-1), values)


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 2), (3, 3), (6, 1)])
@pytest.mark.parametrize("causal", [True, False])
def test_each_row_sees_its_slot_up_to_what_is_used(heads: int, kv_heads: int, causal: bool) -> None:
    torch.manual_seed(1)
    keys, values = torch.randn(2, SLOTS, LENGTH, kv_heads, DIM)
    query = torch.randn(9, heads, DIM)
    slots, counts, used = [2, 0, 3], [1, 5, 2], [15, 5, 20]
    layout = VarlenLayout(
        ints([0, 1, 6, 8]), ints([s * LENGTH for s in slots] + [0]), ints(used), 5, LENGTH
    )
    ours = varlen_attention(query, keys, values, layout, causal=causal)
    start = 0
    for slot, count, known in zip(slots, counts, used, strict=True):
        own = plain(query[start : start + count], keys[slot, :known], values[slot, :known], causal)
        assert torch.allclose(ours[start : start + count], own, atol=1e-6)
        start += count


def test_a_row_without_keys_gets_zeros() -> None:
    keys = torch.randn(SLOTS, LENGTH, 2, DIM)
    layout = VarlenLayout(ints([0, 1]), ints([0, 0]), ints([0]), 1, LENGTH)
    ours = varlen_attention(torch.randn(1, 2, DIM), keys, keys, layout, causal=True)
    assert not ours.any()
