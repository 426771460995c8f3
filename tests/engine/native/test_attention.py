"""Grouped attention against the plain formula, and rotary embedding."""

from __future__ import annotations

import pytest
import torch

from engine.layers.attention import AttentionShape, grouped_attention
from engine.layers.norms import RMSNorm
from engine.layers.rope import Rope, rotate


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (6, 2), (4, 1)])
@pytest.mark.parametrize("width", [1, 3])
def test_grouped_attention_equals_repeated_heads(heads: int, kv_heads: int, width: int) -> None:
    torch.manual_seed(heads * 10 + kv_heads)
    query = torch.randn(2, width, heads, 8)
    keys, values = torch.randn(2, 7, kv_heads, 8), torch.randn(2, 7, kv_heads, 8)
    visible = torch.rand(2, 1, width, 7) > 0.4
    visible[..., 0] = True
    groups = heads // kv_heads
    repeated = keys.repeat_interleave(groups, dim=2), values.repeat_interleave(groups, dim=2)
    scores = torch.einsum("bthd,bkhd->bhtk", query, repeated[0]) / 8**0.5
    weights = scores.masked_fill(~visible, float("-inf")).softmax(-1)
    expected = torch.einsum("bhtk,bkhd->bthd", weights, repeated[1])
    ours = grouped_attention(query, keys, values, visible)
    assert torch.allclose(ours, expected, atol=1e-6)


def test_heads_must_be_a_multiple_of_key_heads() -> None:
    with pytest.raises(ValueError, match="5 heads over 2"):
        AttentionShape(hidden_size=8, num_heads=5, num_kv_heads=2, head_dim=4)


def test_rotation_depends_on_distance_only() -> None:
    torch.manual_seed(0)
    rope, query, key = Rope(8, 1e6), torch.randn(1, 1, 8), torch.randn(1, 1, 8)

    def score(at: int, other: int) -> float:
        turned = rotate(query, *rope(torch.tensor([at])))
        return float((turned * rotate(key, *rope(torch.tensor([other])))).sum())

    assert score(7, 3) == pytest.approx(score(104, 100), abs=1e-4)
    assert score(7, 3) != pytest.approx(score(7, 4), abs=1e-4)


def test_rotation_is_computed_in_float32_and_keeps_the_type() -> None:
    rope = Rope(8, 1e6)
    assert rope(torch.tensor([3]))[0].dtype is torch.float32
    assert rotate(torch.randn(1, 2, 8).bfloat16(), *rope(torch.tensor([3]))).dtype is torch.bfloat16


def test_rms_norm_follows_its_formula() -> None:
    norm = RMSNorm(4, 1e-6)
    x = torch.tensor([[1.0, -2.0, 3.0, 4.0]])
    assert torch.allclose(norm(x), x / (x.square().mean() + 1e-6).sqrt())
