"""The flow's estimator: a diffusion transformer with causal convolutions, run in chunks.

Attention has no positions and no order, only the filled cells of the cache and the chunk itself.
Source: step-audio2 / MiniCPM-o 4.5 inference code; DiT, arXiv 2212.09748.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.models.flow_config import DitConfig
from engine.models.flow_state import RowCaches, RowTails

TIME_SCALE = 1000.0
NORM_EPS = 1e-6
TIME_SIZE = 256


class TimeEmbedder(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(TIME_SIZE, size), nn.SiLU(), nn.Linear(size, size))

    def forward(self, t: Tensor) -> Tensor:
        """t [K] in [0, 1] -> [K, size]."""
        half = TIME_SIZE // 2
        rates = torch.exp(torch.arange(half, device=t.device) * (-math.log(10000.0) / half))
        angles = TIME_SCALE * t.float()[:, None] * rates
        waves = torch.cat([angles.cos(), angles.sin()], dim=-1)
        out: Tensor = self.mlp(waves.to(next(self.mlp.parameters()).dtype))
        return out


class Attention(nn.Module):
    def __init__(self, config: DitConfig) -> None:
        super().__init__()
        inner = config.num_heads * config.head_dim
        self.num_heads, self.head_dim = config.num_heads, config.head_dim
        self.to_q = nn.Linear(config.hidden_size, inner)
        self.to_k = nn.Linear(config.hidden_size, inner)
        self.to_v = nn.Linear(config.hidden_size, inner)
        self.q_norm = nn.LayerNorm(config.head_dim)
        self.k_norm = nn.LayerNorm(config.head_dim)
        self.proj = nn.Linear(inner, config.hidden_size)

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.num_heads, self.head_dim).transpose(1, 2)

    def forward(self, x: Tensor, cache: RowCaches, layer: int) -> Tensor:
        query = self.q_norm(self._heads(self.to_q(x)))  # [B, H, T, D]
        key = self.k_norm(self._heads(self.to_k(x)))
        key, value = cache.extend(layer, key, self._heads(self.to_v(x)))
        mask = cache.key_mask[:, None, None]
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        out: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return out


class ConvBlock(nn.Module):
    """Two causal convolutions; the numbers are the names of the weights."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.block = nn.ModuleDict(
            {"1": nn.Conv1d(size, size, 3), "3": nn.LayerNorm(size), "6": nn.Conv1d(size, size, 3)}
        )

    def forward(self, x: Tensor, tails: RowTails, layer: int) -> Tensor:
        x = self.block["1"](tails.extend(2 * layer, x.transpose(1, 2))).transpose(1, 2)
        x = F.mish(self.block["3"](x)).transpose(1, 2)
        out: Tensor = self.block["6"](tails.extend(2 * layer + 1, x)).transpose(1, 2)
        return out


class Mlp(nn.Module):
    def __init__(self, size: int, inner: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(size, inner)
        self.fc2 = nn.Linear(inner, size)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x), approximate="tanh"))
        return out


def _modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=NORM_EPS) * (1 + scale) + shift


class DitBlock(nn.Module):
    def __init__(self, config: DitConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.attn = Attention(config)
        self.mlp = Mlp(size, int(size * config.mlp_ratio))
        self.conv = ConvBlock(size)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(size, 9 * size))

    def modulation(self, embedded: Tensor) -> Tensor:
        """[K, size] -> [K, 9 * size]."""
        out: Tensor = self.adaLN_modulation(embedded)
        return out

    def forward(
        self, x: Tensor, modulation: Tensor, cache: RowCaches, tails: RowTails, layer: int
    ) -> Tensor:
        # The nine vectors come in the order attention, mlp, convolution; the parts do not.
        attn, mlp, conv = (part.chunk(3) for part in modulation.chunk(3))
        x = x + attn[2] * self.attn(_modulated(x, attn[0], attn[1]), cache, layer)
        x = x + conv[2] * self.conv(_modulated(x, conv[0], conv[1]), tails, layer)
        out: Tensor = x + mlp[2] * self.mlp(_modulated(x, mlp[0], mlp[1]))
        return out


class FinalLayer(nn.Module):
    def __init__(self, config: DitConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(size, 2 * size))
        self.linear = nn.Linear(size, config.out_channels)


class Dit(nn.Module):
    """Weights under the names of `flow.pt` below `decoder.estimator.`"""

    def __init__(self, config: DitConfig) -> None:
        super().__init__()
        self.config = config
        self.t_embedder = TimeEmbedder(config.hidden_size)
        self.in_proj = nn.Linear(config.in_channels, config.hidden_size)
        self.blocks = nn.ModuleList(DitBlock(config) for _ in range(config.depth))
        self.final_layer = FinalLayer(config)

    def modulations(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """What the times t [K] do to the layers: [K, depth, 9*size] and [K, 2*size].

        With fixed steps these are constants, computed once.
        """
        embedded = self.t_embedder(t)
        blocks = [block.modulation(embedded) for block in self.blocks]  # type: ignore[operator]
        return torch.stack(blocks, dim=1), self.final_layer.adaLN_modulation(embedded)

    def forward(
        self, x: Tensor, modulation: tuple[Tensor, Tensor], step: int, state: DitState
    ) -> Tensor:
        """x [B, T, in_channels] -> velocity [B, T, out_channels] at step `step`."""
        x = self.in_proj(x)
        depth = len(self.blocks)
        for i, block in enumerate(self.blocks):
            layer = step * depth + i
            x = block(x, modulation[0][step, i], state.cache, state.tails, layer)
        shift, scale = modulation[1][step].chunk(2)
        out: Tensor = self.final_layer.linear(_modulated(x, shift, scale))
        return out


class DitState:
    """The rows' caches during one chunk; layer numbers run through the steps."""

    def __init__(self, cache: RowCaches, tails: RowTails) -> None:
        self.cache, self.tails = cache, tails
