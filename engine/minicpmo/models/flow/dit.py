"""The flow's estimator: a diffusion transformer with causal convolutions, run in chunks.

Attention has no positions and no order, only the filled cells of the cache and the chunk itself.
Source: step-audio2 / MiniCPM-o 4.5 inference code; DiT, arXiv 2212.09748.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.gpu.blocks.linear import linear_gelu
from engine.gpu.kernels.flow_block import Gated, Norm, gated_columns, gated_norm, store_heads
from engine.gpu.layers.varlen_attention import VarlenLayout, varlen_attention
from engine.minicpmo.models.flow.cells import CellRows, TailRows, packed_kernel
from engine.minicpmo.models.flow.config import DitConfig

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
        x = torch.cat([angles.cos(), angles.sin()], dim=-1)
        out: Tensor = _wide(self.mlp[2], F.silu(_wide(self.mlp[0], x)))
        return out


def _wide(linear: nn.Module, x: Tensor) -> Tensor:
    """A linear layer in float32 whatever the type of its weights: for constants."""
    assert isinstance(linear, nn.Linear)
    return F.linear(x.float(), linear.weight.float(), linear.bias.float())


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

    def pack(self) -> None:
        """Queries, keys and values of one matrix, with one norm."""
        linears = (self.to_q, self.to_k, self.to_v)
        self.weight = torch.cat([linear.weight.detach() for linear in linears])
        self.bias = torch.cat([linear.bias.detach() for linear in linears])
        norms = (self.q_norm, self.k_norm)
        self.norm = Norm(
            torch.stack([norm.bias.detach() for norm in norms])[:, None],
            torch.stack([norm.weight.detach() for norm in norms])[:, None],
            self.q_norm.eps,
        )
        del self.to_q, self.to_k, self.to_v, self.q_norm, self.k_norm

    def forward(self, x: Tensor, state: DitState, layer: int) -> Tensor:
        """[N, C] -> [N, C]"""
        store = state.cells.store
        keys, values = store.keys[layer], store.values[layer]
        packed = F.linear(x, self.weight, self.bias)
        query = store_heads(packed, self.norm, state.cells.fresh, keys, values, self.num_heads)
        mixed = varlen_attention(query, keys, values, state.layout, causal=False)
        out: Tensor = self.proj(mixed.flatten(1))
        return out


class ConvBlock(nn.Module):
    """Two causal convolutions; the numbers are the names of the weights."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.block = nn.ModuleDict(
            {"1": nn.Conv1d(size, size, 3), "3": nn.LayerNorm(size), "6": nn.Conv1d(size, size, 3)}
        )

    def pack(self) -> None:
        """The convolutions as matrices."""
        first, second = self.block["1"], self.block["6"]
        assert isinstance(first, nn.Conv1d) and isinstance(second, nn.Conv1d)
        self.kernels = [packed_kernel(conv.weight) for conv in (first, second)]
        self.biases = [conv.bias for conv in (first, second)]
        del self.block["1"], self.block["6"]
        norm = self.block["3"]
        assert isinstance(norm, nn.LayerNorm)
        self.norm = Norm(norm.bias, norm.weight, norm.eps)

    def forward(self, x: Tensor, more: Gated, norm: Norm, tails: TailRows) -> tuple[Tensor, Tensor]:
        """The sum of x [N, C] and what was added, and the convolutions of its norm."""
        outer = gated_columns(x, more, norm, tails.old(), tails.last)
        tails.put(outer.tail)
        hidden = F.linear(outer.columns, self.kernels[0], self.biases[0])
        inner = gated_columns(hidden, None, self.norm, tails.old(), tails.last, is_mish=True)
        tails.put(inner.tail)
        return outer.sum, F.linear(inner.columns, self.kernels[1], self.biases[1])


class Mlp(nn.Module):
    def __init__(self, size: int, inner: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(size, inner)
        self.fc2 = nn.Linear(inner, size)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(linear_gelu(x, self.fc1))
        return out


class DitBlock(nn.Module):
    def __init__(self, config: DitConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.attn = Attention(config)
        self.mlp = Mlp(size, int(size * config.mlp_ratio))
        self.conv = ConvBlock(size)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(size, 9 * size))

    def modulation(self, embedded: Tensor) -> Tensor:
        """[K, size] -> [K, 3, 3, size]: shift, 1 + scale and gate of the three parts."""
        vectors = _wide(self.adaLN_modulation[1], F.silu(embedded))
        vectors = vectors.view(len(embedded), 3, 3, -1).clone()
        vectors[:, :, 1] += 1
        return vectors

    def forward(
        self, x: Tensor, more: Gated | None, modulation: Tensor, state: DitState, layer: int
    ) -> tuple[Tensor, Gated]:
        """x [N, C] and what the block before adds to it -> the same for the block behind."""
        # The nine vectors come in the order attention, mlp, convolution; the parts do not.
        attn, mlp, conv = (part.unbind(0) for part in modulation.unbind(0))
        x, normed = gated_norm(x, more, Norm(attn[0], attn[1], NORM_EPS))
        mixed = Gated(self.attn(normed, state, layer), attn[2])
        x, convolved = self.conv(x, mixed, Norm(conv[0], conv[1], NORM_EPS), state.tails)
        x, normed = gated_norm(x, Gated(convolved, conv[2]), Norm(mlp[0], mlp[1], NORM_EPS))
        return x, Gated(self.mlp(normed), mlp[2])


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

    def prepare(self, t: Tensor) -> None:
        """Fix the times t [K] of the steps: what they do to the layers are then constants."""
        embedded = self.t_embedder(t)
        dtype = self.in_proj.weight.dtype
        blocks = [block.modulation(embedded) for block in self.blocks]  # type: ignore[operator]
        self.vectors = torch.stack(blocks, dim=1).to(dtype)
        """[K, depth, 3, 3, size]"""
        last = _wide(self.final_layer.adaLN_modulation[1], F.silu(embedded))
        last = last.view(len(t), 2, -1).clone()
        last[:, 1] += 1
        self.last_vectors = last.to(dtype)
        """[K, 2, size]"""
        for part in self.modules():
            if isinstance(part, Attention | ConvBlock):
                part.pack()

    def given(self, constant: Tensor) -> Tensor:
        """Project the inputs that all steps share [B, T, c], with guidance.

        They follow the state in the order of channels, those that lack are zero. Returns
        [2, B, T, size]: with them and without them.
        """
        first = self.config.out_channels
        weight = self.in_proj.weight[:, first : first + constant.shape[-1]]
        with_them = F.linear(constant, weight, self.in_proj.bias)
        return torch.stack([with_them, self.in_proj.bias.expand_as(with_them)])

    def forward(self, x: Tensor, given: Tensor, step: int, state: DitState) -> Tensor:
        """State x [B, T, out_channels] -> velocities [2, B, T, out_channels] at step `step`."""
        weight = self.in_proj.weight[:, : self.config.out_channels]
        hidden = (F.linear(x.to(weight.dtype), weight) + given).flatten(0, 2)
        depth, more = len(self.blocks), None
        for i, block in enumerate(self.blocks):
            hidden, more = block(hidden, more, self.vectors[step, i], state, step * depth + i)
        shift, scale = self.last_vectors[step].unbind(0)
        _, hidden = gated_norm(hidden, more, Norm(shift, scale, NORM_EPS))
        out: Tensor = self.final_layer.linear(hidden)
        return out.view(2, *x.shape)


class DitState:
    """The rows' caches during one chunk; layer numbers run through the steps."""

    def __init__(self, cells: CellRows, tails: TailRows, used: Tensor) -> None:
        """`used` [B] cells in use and valid new frames of each row."""
        self.cells, self.tails = cells, tails
        rows, width = len(used), cells.width
        device = used.device
        self.layout = VarlenLayout(
            query_starts=torch.arange(rows + 1, dtype=torch.int32, device=device) * width,
            key_starts=F.pad(cells.starts, (0, 1)).int(),
            used=used.int(),
            max_query=width,
            max_keys=cells.store.cells,
        )
