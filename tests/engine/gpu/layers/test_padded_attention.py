"""Attention over the first keys of rows by heads with one more dimension."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from engine.gpu.layers.padded_attention import WideHeads, behind_ends

ROWS, LENGTH, HEADS, DIM = 4, 12, 3, 8


def test_wide_heads_attend_to_the_first_keys_of_each_row() -> None:
    torch.manual_seed(0)
    size = HEADS * DIM
    weight, bias = torch.randn(3 * size, size), torch.randn(3 * size)
    out_weight, out_bias = torch.randn(size, size), torch.randn(size)
    x = 3 * torch.randn(ROWS, LENGTH, size)
    counts = torch.tensor([12, 7, 1, 11])
    wide = WideHeads.of(HEADS, (weight, bias), out_weight, out_bias)
    ours = wide(x, behind_ends(counts, LENGTH, x.dtype))
    for row, count in enumerate(counts.tolist()):
        own = F.linear(x[row, :count], weight, bias).view(count, 3, HEADS, DIM)
        query, keys, values = own.permute(1, 2, 0, 3)
        mixed = F.scaled_dot_product_attention(query, keys, values)
        wanted = F.linear(mixed.transpose(0, 1).flatten(1), out_weight, out_bias)
        torch.testing.assert_close(ours[row, :count], wanted, rtol=1e-4, atol=1e-3)


def test_a_row_without_keys_is_finite() -> None:
    size = HEADS * DIM
    packed = torch.randn(3 * size, size), torch.randn(3 * size)
    wide = WideHeads.of(HEADS, packed, torch.randn(size, size), None)
    counts = torch.tensor([0, 3])
    assert (
        wide(torch.randn(2, LENGTH, size), behind_ends(counts, LENGTH, torch.float32))
        .isfinite()
        .all()
    )
