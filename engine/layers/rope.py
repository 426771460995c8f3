"""Rotary position embedding, rotate-half convention, in float32 whatever the model's type."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Rope(nn.Module):
    """cos and sin for positions. Source: RoFormer (arXiv 2104.09864), halves instead of pairs."""

    inv_freq: Tensor

    def __init__(self, head_dim: int, theta: float) -> None:
        super().__init__()
        assert head_dim % 2 == 0, f"head_dim {head_dim} is odd"
        self.head_dim = head_dim
        self.theta = theta
        self.register_buffer("inv_freq", self._frequencies(torch.device("cpu")), persistent=False)

    def _frequencies(self, device: torch.device) -> Tensor:
        even = torch.arange(0, self.head_dim, 2, dtype=torch.float32, device=device)
        return 1.0 / (self.theta ** (even / self.head_dim))

    def _apply(self, fn, recurse: bool = True):  # type: ignore[no-untyped-def]
        """Follow the module's device but never its type: bfloat16 frequencies are wrong."""
        super()._apply(fn, recurse)
        self.inv_freq = self._frequencies(self.inv_freq.device)
        return self

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin [N, 1, D/2] (float32) of integer positions [N]; may be negative."""
        angles = positions.float()[:, None, None] * self.inv_freq
        return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate x [N, H, D] by `Rope` tables [N, 1, D/2] (or [1, 1, D/2]); keeps the type of x."""
    first, second = x.float().chunk(2, dim=-1)
    turned = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return turned.to(x.dtype)
