"""The flow's encoder: speech codes at 25 Hz to mel-rate features at 50 Hz, in a stream.

A conformer without convolution modules: lookahead of three codes, blocks at the token rate, a
doubling of the rate, blocks at the mel rate. Attention is over everything cached and the whole
chunk, with relative positions (Transformer-XL).
Source: CosyVoice 2 and MiniCPM-o 4.5 inference code.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.models.flow_config import EncoderConfig
from engine.models.flow_state import RateState, RowCaches

BLOCK_EPS = 1e-12
"""Of the norms inside the blocks; statistics are taken in float32."""


def relative_encoding(distances: Tensor, size: int) -> Tensor:
    """Sinusoids [R, size] of signed distances [R]: even columns sine, odd columns cosine."""
    rates = torch.exp(
        torch.arange(0, size, 2, dtype=torch.float32, device=distances.device)
        * -(math.log(10000.0) / size)
    )
    angles = distances.float()[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


class RelativeAttention(nn.Module):
    """Attention of new rows over cached and new rows, scored also by signed distance."""

    def __init__(self, size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, size // num_heads
        self.linear_q = nn.Linear(size, size)
        self.linear_k = nn.Linear(size, size)
        self.linear_v = nn.Linear(size, size)
        self.linear_out = nn.Linear(size, size)
        self.linear_pos = nn.Linear(size, size, bias=False)
        self.pos_bias_u = nn.Parameter(torch.zeros(num_heads, self.head_dim))
        self.pos_bias_v = nn.Parameter(torch.zeros(num_heads, self.head_dim))

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.num_heads, self.head_dim).transpose(1, 2)

    def forward(self, x: Tensor, distance: Distances, cache: RowCaches, layer: int) -> Tensor:
        query = self._heads(self.linear_q(x))  # [B, H, T, D]
        key, value = cache.extend(
            layer, self._heads(self.linear_k(x)), self._heads(self.linear_v(x))
        )  # [B, H, S+T, D]
        place = self.linear_pos(distance.encoding.to(x.dtype))
        place = place.view(-1, self.num_heads, self.head_dim).transpose(0, 1)  # [H, R, D]
        by_content = (query + self.pos_bias_u[:, None]) @ key.transpose(-1, -2)
        by_place = (query + self.pos_bias_v[:, None]) @ place.transpose(-1, -2)  # [B, H, T, R]
        index = distance.index[:, None].expand(-1, self.num_heads, -1, -1)
        score = (by_content + by_place.gather(-1, index)) / math.sqrt(self.head_dim)
        score = score.masked_fill(~cache.key_mask[:, None, None], -math.inf)
        mixed = score.float().softmax(-1).to(x.dtype) @ value
        out: Tensor = self.linear_out(mixed.transpose(1, 2).flatten(2))
        return out


class Distances:
    """Signed distances query - key of a ragged batch, and their encodings.

    `index` [B, T, S+T] points into `encoding` [R, size], which covers what occurs.
    """

    def __init__(self, cache: RowCaches, num_new: int, size: int) -> None:
        new = torch.arange(num_new, device=cache.lengths.device)
        query = cache.lengths[:, None] + new  # [B, T]
        key = torch.cat([cache.positions, query], dim=1)  # [B, S+T]
        furthest = cache.max_length + num_new
        back = num_new - 1
        # Cells outside the mask hold no position; clamping keeps their index inside the table.
        index = (query[:, :, None] - key[:, None]).clamp(-back, furthest - 1)
        self.index = index + back
        self.encoding = relative_encoding(
            torch.arange(-back, furthest, device=cache.lengths.device), size
        )


class FeedForward(nn.Module):
    def __init__(self, size: int, ffn_size: int) -> None:
        super().__init__()
        self.w_1 = nn.Linear(size, ffn_size)
        self.w_2 = nn.Linear(ffn_size, size)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.w_2(F.silu(self.w_1(x)))
        return out


class EncoderBlock(nn.Module):
    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.self_attn = RelativeAttention(config.size, config.num_heads)
        self.feed_forward = FeedForward(config.size, config.ffn_size)
        self.norm_mha = nn.LayerNorm(config.size, eps=BLOCK_EPS)
        self.norm_ff = nn.LayerNorm(config.size, eps=BLOCK_EPS)

    def forward(self, x: Tensor, distance: Distances, cache: RowCaches, layer: int) -> Tensor:
        x = x + self.self_attn(self.norm_mha(x), distance, cache, layer)
        out: Tensor = x + self.feed_forward(self.norm_ff(x))
        return out


class Embed(nn.Module):
    """Linear, norm, and only then the scale by the square root of the width."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.out = nn.Sequential(nn.Linear(size, size), nn.LayerNorm(size))
        self.scale = math.sqrt(size)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(x) * self.scale
        return out


class Lookahead(nn.Module):
    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(config.size, config.size, config.lookahead + 1)
        self.conv2 = nn.Conv1d(config.size, config.size, 3)


class Upsample(nn.Module):
    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.conv = nn.Conv1d(config.size, config.size, 2 * config.upsample + 1)


class FlowEncoder(nn.Module):
    """Weights under the names of `flow.pt` below `encoder.`"""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = Embed(config.size)
        self.pre_lookahead_layer = Lookahead(config)
        self.encoders = nn.ModuleList(EncoderBlock(config) for _ in range(config.num_blocks))
        self.up_layer = Upsample(config)
        self.up_embed = Embed(config.size)
        self.up_encoders = nn.ModuleList(EncoderBlock(config) for _ in range(config.num_up_blocks))
        self.after_norm = nn.LayerNorm(config.size)

    def forward(self, x: Tensor, given: Tensor, low: RateState, high: RateState) -> Tensor:
        """Encode one chunk of each row; the caches and convolution tails of the rows go on.

        Args:
            x: embedded codes [B, T + lookahead, size], anything beyond a row's codes.
            given: codes of each row [B]: fresh ones and, unless it is the end, the lookahead.
            low, high: state at token and mel rate, `low.new` [B] fresh codes of each row.

        Returns: [B, upsample * T, size], rows valid up to `upsample * low.new`.
        """
        count = x.shape[1] - self.config.lookahead
        x = self.embed(x)
        # Beyond the end of a turn the lookahead sees zeros, put after the embedding.
        valid = torch.arange(x.shape[1], device=x.device) < given[:, None]
        x = x.masked_fill(~valid[..., None], 0)
        x = self._look_ahead(x, low, count)
        x = _run(self.encoders, x, low)
        x = self._upsample(x, high)
        x = _run(self.up_encoders, self.up_embed(x), high)
        out: Tensor = self.after_norm(x)
        return out

    def _look_ahead(self, x: Tensor, state: RateState, count: int) -> Tensor:
        layer = self.pre_lookahead_layer
        y = F.leaky_relu(layer.conv1(x.transpose(1, 2)), 0.01)  # [B, C, T]
        out: Tensor = layer.conv2(state.extend_tail(y)).transpose(1, 2) + x[:, :count]
        return out

    def _upsample(self, x: Tensor, state: RateState) -> Tensor:
        doubled = x.transpose(1, 2).repeat_interleave(self.config.upsample, dim=-1)
        out: Tensor = self.up_layer.conv(state.extend_tail(doubled)).transpose(1, 2)
        return out


def _run(blocks: nn.ModuleList, x: Tensor, state: RateState) -> Tensor:
    distance = Distances(state.cache, x.shape[1], x.shape[2])
    for layer, block in enumerate(blocks):
        x = block(x, distance, state.cache, layer)
    return x
