"""Rotary position embedding, rotate-half convention, in float32 whatever the model's type."""

from __future__ import annotations

import torch
from torch import Tensor


class Rope:
    """cos and sin for positions. Source: RoFormer (arXiv 2104.09864), halves instead of pairs.

    Not a module: its frequencies must not follow the weights' type, and there is nothing to load.
    """

    def __init__(self, head_dim: int, theta: float) -> None:
        assert head_dim % 2 == 0, f"head_dim {head_dim} is odd"
        self.head_dim = head_dim
        self.theta = theta
        self._frequencies: dict[torch.device, Tensor] = {}

    def frequencies(self, device: torch.device) -> Tensor:
        """[D/2] float32."""
        if device not in self._frequencies:
            even = torch.arange(0, self.head_dim, 2, dtype=torch.float32, device="cpu")
            table = 1.0 / (self.theta ** (even / self.head_dim))
            self._frequencies[device] = table.to(device)
        return self._frequencies[device]

    def __call__(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin [N, 1, D/2] (float32) of integer positions [N]; may be negative."""
        angles = positions.float()[:, None, None] * self.frequencies(positions.device)
        return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate x [N, H, D] by `Rope` tables [N, 1, D/2] (or [1, 1, D/2]); keeps the type of x."""
    first, second = x.float().chunk(2, dim=-1)
    turned = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return turned.to(x.dtype)
