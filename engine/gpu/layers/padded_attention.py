"""Attention of whole rows, of which only the first keys count, by kernels for rows of one length.

Those kernels are faster than the ones that are told lengths, and take masks only as large tensors.
So heads get one more dimension: it is 1 in queries, and in keys 0 or, behind a row's end, so low
that their weights vanish.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

EXTRA = 8
"""Dimensions that a head grows by: kernels want multiples of eight."""
BEHIND = -1e4
BACKENDS = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]


@dataclass(frozen=True, eq=False)
class WideHeads:
    """An attention layer's weights for heads that are `EXTRA` dimensions wider."""

    num_heads: int
    scale: float
    weight: Tensor
    """Of queries, keys and values [3 * H * (D + EXTRA), C]."""
    bias: Tensor
    out_weight: Tensor
    """[C, H * (D + EXTRA)]"""
    out_bias: Tensor | None

    @staticmethod
    def of(
        num_heads: int, packed: tuple[Tensor, Tensor], out_weight: Tensor, out_bias: Tensor | None
    ) -> WideHeads:
        """From weight [3 * H * D, C] and bias of queries, keys and values, and the output's."""
        weight, bias = packed
        head_dim = weight.shape[0] // (3 * num_heads)
        heads = weight.detach().view(3, num_heads, head_dim, -1)
        biases = F.pad(bias.detach().view(3, num_heads, head_dim), (0, EXTRA))
        biases[0, :, head_dim] = 1
        outputs = out_weight.detach().view(-1, num_heads, head_dim)
        return WideHeads(
            num_heads,
            head_dim**-0.5,
            F.pad(heads, (0, 0, 0, EXTRA)).flatten(0, 2),
            biases.flatten(),
            F.pad(outputs, (0, EXTRA)).flatten(1),
            out_bias,
        )

    def __call__(self, x: Tensor, behind: Tensor) -> Tensor:
        """[B, L, C] -> [B, L, C]; `behind` [B, L]: `BEHIND` behind each row's end, else 0."""
        count, length = x.shape[:2]
        packed = F.linear(x, self.weight, self.bias)
        packed = packed.view(count, length, 3, self.num_heads, -1)
        packed[:, :, 1, :, -EXTRA] = behind[..., None]
        query, keys, values = (part.transpose(1, 2) for part in packed.unbind(2))
        with sdpa_kernel(BACKENDS, set_priority=True):
            mixed = F.scaled_dot_product_attention(query, keys, values, scale=self.scale)
        return F.linear(mixed.transpose(1, 2).flatten(2), self.out_weight, self.out_bias)


def behind_ends(counts: Tensor, length: int, dtype: torch.dtype) -> Tensor:
    """[B, length]: `BEHIND` from each row's count on."""
    steps = torch.arange(length, device=counts.device)
    return (steps >= counts[:, None]).to(dtype) * BEHIND
