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

from engine.minicpmo.models.flow.cells import CellRows, TailRows, convolve, packed_kernel
from engine.minicpmo.models.flow.config import EncoderConfig

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

    def pack(self) -> None:
        """Queries, keys and values of one matrix."""
        linears = (self.linear_q, self.linear_k, self.linear_v)
        self.weight = torch.cat([linear.weight.detach() for linear in linears])
        self.bias = torch.cat([linear.bias.detach() for linear in linears])
        del self.linear_q, self.linear_k, self.linear_v

    def place_table(self, distances: Tensor) -> Tensor:
        """Return the vectors [H, D, R] that score the keys' distances [R]."""
        encoding = relative_encoding(distances, self.num_heads * self.head_dim)
        place = F.linear(encoding, self.linear_pos.weight.float())
        table = place.view(-1, self.num_heads, self.head_dim).permute(1, 2, 0)
        return table.to(self.linear_pos.weight.dtype).contiguous()

    def forward(self, x: Tensor, rate: RateState, layer: int) -> Tensor:
        rows, width, _ = x.shape
        shape = (rows, width, 3, self.num_heads, self.head_dim)
        query, key, value = F.linear(x, self.weight, self.bias).view(shape).unbind(2)
        rate.cells.write(layer, key.flatten(0, 1), value.flatten(0, 1))
        keys, values = rate.cells.gather(layer)  # [B, S, H, D]
        placed = ((query + self.pos_bias_v) / math.sqrt(self.head_dim)).flatten(0, 1)
        by_place = placed.transpose(0, 1) @ rate.table(layer)  # [H, B*T, R]
        index = rate.index.expand(self.num_heads, -1, -1)
        bias = by_place.gather(-1, index).view(self.num_heads, rows, width, -1).transpose(0, 1)
        mixed = F.scaled_dot_product_attention(
            (query + self.pos_bias_u).transpose(1, 2),
            keys.transpose(1, 2),
            values.transpose(1, 2),
            attn_mask=bias.masked_fill(rate.hidden, -math.inf),
        )
        out: Tensor = self.linear_out(mixed.transpose(1, 2).flatten(2))
        return out


class RateState:
    """One rate of the encoder during a chunk: its caches and the distances between frames.

    New frames lie behind the cells in use, each in the cell whose number is its position.
    """

    def __init__(
        self, cells: CellRows, tails: TailRows, positions: Tensor, new: Tensor, tables: list[Tensor]
    ) -> None:
        """`positions` [B, S] of the frames in the cells, `new` [B] valid new frames.

        `tables`: of each layer, for the distances from -S to S - 1.
        """
        self.cells, self.tails, self._tables = cells, tails, tables
        width, size = cells.width, cells.store.cells
        device = positions.device
        query = cells.lengths[:, None] + torch.arange(width, device=device)
        self._first = size - (width - 1)
        # What lies after the used cells is masked; clamping keeps its index inside the table.
        index = (query[:, :, None] - positions[:, None]).clamp(min=1 - width) + (width - 1)
        self.index = index.flatten(0, 1)[None]  # [1, B*T, S]
        used = cells.lengths + new
        self.hidden = (torch.arange(size, device=device) >= used[:, None])[:, None, None]

    def table(self, layer: int) -> Tensor:
        """For the distances that occur, from 1 - width on."""
        return self._tables[layer][:, :, self._first :]


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

    def forward(self, x: Tensor, rate: RateState, layer: int) -> Tensor:
        x = x + self.self_attn(self.norm_mha(x), rate, layer)
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

    def prepare(self) -> None:
        """Pack weights once after loading."""
        for part in self.modules():
            if isinstance(part, RelativeAttention):
                part.pack()
        look, up = self.pre_lookahead_layer, self.up_layer
        convolutions = (look.conv1, look.conv2, up.conv)
        self.kernels = [(packed_kernel(conv.weight), conv.bias) for conv in convolutions]
        del look.conv1, look.conv2, up.conv

    def place_tables(self, low: int, high: int) -> tuple[list[Tensor], list[Tensor]]:
        """Each layer's table for caches of `low` and `high` cells, see `RateState`."""
        tables = []
        for blocks, cells in ((self.encoders, low), (self.up_encoders, high)):
            distances = torch.arange(-cells, cells, device=self.after_norm.weight.device)
            layers = [part for part in blocks.modules() if isinstance(part, RelativeAttention)]
            tables.append([layer.place_table(distances) for layer in layers])
        return tables[0], tables[1]

    def forward(self, x: Tensor, given: Tensor, low: RateState, high: RateState) -> Tensor:
        """Encode one chunk of each row; the caches and convolution tails of the rows go on.

        Args:
            x: embedded codes [B, T + lookahead, size], anything beyond a row's codes.
            given: codes of each row [B]: fresh ones and, unless it is the end, the lookahead.
            low, high: state at token and mel rate.

        Returns: [B, upsample * T, size], valid as far as the row has fresh codes.
        """
        count = x.shape[1] - self.config.lookahead
        x = self.embed(x)
        # Beyond the end of a turn the lookahead sees zeros, put after the embedding.
        beyond = torch.arange(x.shape[1], device=x.device) >= given[:, None]
        x = x.masked_fill(beyond[..., None], 0)
        y = F.leaky_relu(convolve(x, *self.kernels[0]), 0.01)
        x = convolve(low.tails.extend(y), *self.kernels[1]) + x[:, :count]
        for layer, block in enumerate(self.encoders):
            x = block(x, low, layer)
        doubled = x.unsqueeze(2).expand(-1, -1, self.config.upsample, -1).flatten(1, 2)
        x = self.up_embed(convolve(high.tails.extend(doubled), *self.kernels[2]))
        for layer, block in enumerate(self.up_encoders):
            x = block(x, high, layer)
        out: Tensor = self.after_norm(x)
        return out
