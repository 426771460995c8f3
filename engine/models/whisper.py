"""The Whisper encoder: whole sounds in blocks or bidirectional, and streams over cache rows.

A frame is 20 ms. In a stream each chunk of frames sees all cached ones and itself, without a limit
inside the chunk. Source: Whisper (arXiv 2212.04356) and the MiniCPM-o 4.5 inference code.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.kvcache import KvPlan, SlotKV
from engine.layers.varlen import varlen_attention
from engine.models.config import AudioConfig

LAYER_NORM_EPS = 1e-5

FRAME_HZ = 50

CUT = 1
"""Encoder frames at each end of a chunk that only give the convolutions their context."""


def conv_frames(mel_frames: int) -> int:
    """Encoder frames of `mel_frames` log-mel frames."""
    return (mel_frames - 1) // 2 + 1


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[B, T, C] -> query, keys, values [B, T, H, D]."""
        shape = (*x.shape[:2], self.heads, -1)
        return (
            self.q_proj(x).view(shape),
            self.k_proj(x).view(shape),
            self.v_proj(x).view(shape),
        )

    def mix(self, query: Tensor, keys: Tensor, values: Tensor, visible: Tensor | None) -> Tensor:
        """Query [B, T, H, D] over keys and values [B, K, H, D] -> [B, T, C]."""
        out = F.scaled_dot_product_attention(
            query.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2), attn_mask=visible
        )
        mixed: Tensor = self.out_proj(out.transpose(1, 2).flatten(2))
        return mixed


class _Layer(nn.Module):
    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.self_attn = _Attention(width, config.num_heads)
        self.self_attn_layer_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.fc1 = nn.Linear(width, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, width)
        self.final_layer_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)

    def feed_forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.fc2(F.gelu(self.fc1(self.final_layer_norm(x))))
        return out

    def whole(self, x: Tensor, visible: Tensor | None) -> Tensor:
        attention = self.self_attn
        projected = attention.project(self.self_attn_layer_norm(x))
        return self.feed_forward(x + attention.mix(*projected, visible))

    def cached(self, x: Tensor, cache: SlotKV, layer: int, plan: KvPlan) -> Tensor:
        attention = self.self_attn
        query, keys, values = attention.project(self.self_attn_layer_norm(x))
        place = plan.write.long()
        cache.keys[layer].flatten(0, 1)[place] = keys.flatten(0, 1)
        cache.values[layer].flatten(0, 1)[place] = values.flatten(0, 1)
        mixed = varlen_attention(
            query.flatten(0, 1), cache.keys[layer], cache.values[layer], plan.layout, causal=False
        )
        return self.feed_forward(x + attention.out_proj(mixed.view_as(x)))


class WhisperEncoder(nn.Module):
    """The encoder; parameters are named as in the checkpoint under `apm.`."""

    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.conv1 = nn.Conv1d(config.num_mel_bins, width, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(width, width, kernel_size=3, stride=2, padding=1)
        self.embed_positions = nn.Embedding(config.max_positions, width)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.num_layers))
        self.layer_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)

    @property
    def device(self) -> torch.device:
        return self.conv1.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.conv1.weight.dtype

    @property
    def block_frames(self) -> int:
        """Frames of one block of `audio_chunk_length` seconds."""
        return int(self.config.chunk_length_s * FRAME_HZ)

    @property
    def longest_mel(self) -> int:
        """Most log-mel frames of one row: the position table ends there."""
        return 2 * self.config.max_positions

    def make_cache(self, num_slots: int) -> SlotKV:
        """Cache rows for the streams of `num_slots` sessions; each holds the position table."""
        config = self.config
        return SlotKV(
            config.num_layers,
            num_slots,
            config.max_positions,
            config.num_heads,
            config.hidden_size // config.num_heads,
            self.device,
            self.dtype,
        )

    def encode(self, mel: Tensor, mel_lengths: Sequence[int], *, in_blocks: bool) -> Tensor:
        """Encode whole sounds: log-mel [B, mels, F] -> [B, T, C] after the last norm.

        Row b has `conv_frames(mel_lengths[b])` frames, what lies behind them is meaningless. In
        blocks, a frame sees its own block and all earlier ones, else everything.
        """
        hidden = self._front(mel, mel_lengths)
        counts = [conv_frames(length) for length in mel_lengths]
        total = hidden.shape[1]
        if total > self.config.max_positions:
            raise ValueError(f"{total} frames, the table has {self.config.max_positions}")
        hidden = hidden + self.embed_positions.weight[:total]
        visible = self._visible(counts, total, self.block_frames if in_blocks else 0)
        for layer in self.layers:
            assert isinstance(layer, _Layer)
            hidden = layer.whole(hidden, visible)
        out: Tensor = self.layer_norm(hidden)
        return out

    def resets(self, cache: SlotKV, slot: int, mel_length: int) -> bool:
        """Whether the slot's next chunk starts with an empty cache, as the table would overflow.

        Counts the frames at the chunk's ends too, although they are never cached.
        """
        return cache.lengths[slot] + conv_frames(mel_length) >= self.config.max_positions

    def stream(
        self,
        mel: Tensor,
        mel_lengths: Sequence[int],
        cache: SlotKV,
        slots: Sequence[int],
        is_first: Sequence[bool],
    ) -> Tensor:
        """Encode each slot's next chunk: log-mel [B, mels, F] -> [B, T, C] after the last norm.

        `is_first` marks the first chunk of a stream, which has no margin on its left. All rows must
        give the same number of frames T (50 for chunks of a second).
        """
        assert len(slots) == mel.shape[0] == len(is_first), (
            f"{len(slots)} slots, {mel.shape[0]} rows, {len(is_first)} flags"
        )
        for slot, length in zip(slots, mel_lengths, strict=True):
            if self.resets(cache, slot, length):
                cache.truncate(slot, 0)
        hidden = self._trim(self._front(mel, mel_lengths), mel_lengths, is_first)  # [B, T, C]
        counts = [hidden.shape[1]] * len(slots)
        plan = cache.plan(slots, counts)
        hidden = hidden + self.embed_positions(plan.positions).view_as(hidden)
        for place, layer in enumerate(self.layers):
            assert isinstance(layer, _Layer)
            hidden = layer.cached(hidden, cache, place, plan)
        cache.advance(slots, counts)
        out: Tensor = self.layer_norm(hidden)
        return out

    def _front(self, mel: Tensor, mel_lengths: Sequence[int]) -> Tensor:
        """Two convolutions, the second halves the rate: [B, mels, F] -> [B, T, C]."""
        assert mel.ndim == 3 and mel.shape[1] == self.config.num_mel_bins, (
            f"log-mel {tuple(mel.shape)}, the encoder takes {self.config.num_mel_bins} bins"
        )
        assert max(mel_lengths) <= mel.shape[2], f"{mel_lengths} frames of {mel.shape[2]}"
        first = F.gelu(self.conv1(mel.to(self.device, self.dtype)))
        if min(mel_lengths) < mel.shape[2]:
            # The second convolution of a shorter row must see the padding that it has alone.
            frames = torch.arange(mel.shape[2], device=self.device)
            lengths = torch.tensor(list(mel_lengths), device=self.device)
            first = first.masked_fill((frames >= lengths[:, None])[:, None], 0.0)
        second: Tensor = F.gelu(self.conv2(first)).transpose(1, 2)
        return second

    def _trim(self, hidden: Tensor, mel_lengths: Sequence[int], is_first: Sequence[bool]) -> Tensor:
        starts = [0 if first else CUT for first in is_first]
        ends = [conv_frames(length) - CUT for length in mel_lengths]
        counts = {end - start for start, end in zip(starts, ends, strict=True)}
        assert len(counts) == 1, f"chunks of different lengths: {sorted(counts)} frames"
        if len(set(starts)) == 1:
            return hidden[:, starts[0] : ends[0]]
        rows = [
            hidden[row, start:end]
            for row, (start, end) in enumerate(zip(starts, ends, strict=True))
        ]
        return torch.stack(rows)

    def _visible(self, counts: Sequence[int], total: int, block: int) -> Tensor | None:
        """[B, 1, T or 1, T] True where a query may look; None where it may look everywhere."""
        keys = torch.arange(total, device=self.device)
        lengths = torch.tensor(list(counts), device=self.device)
        inside = (keys < lengths[:, None])[:, None, None]
        if block:
            ends = (keys // block + 1) * block
            return inside & (keys < ends[:, None])
        return None if min(counts) == total else inside


class AudioProjector(nn.Module):
    """Encoder frames to LLM embeddings; named as under `audio_projection_layer.`.

    Both layers run before the average, as in the original; the other order gives other values.
    """

    def __init__(self, config: AudioConfig, llm_width: int) -> None:
        super().__init__()
        self.pool_step = config.pool_step
        self.linear1 = nn.Linear(config.hidden_size, llm_width)
        self.linear2 = nn.Linear(llm_width, llm_width)

    def project(self, hidden: Tensor) -> Tensor:
        """[B, T, C] -> [B, T, width of the LLM], not pooled."""
        projected: Tensor = self.linear2(F.relu(self.linear1(hidden)))
        return projected

    def pool(self, projected: Tensor) -> Tensor:
        """Average each `pool_step` frames: [B, T, C] -> [B, T // pool_step, C]."""
        pooled: Tensor = F.avg_pool1d(projected.transpose(1, 2), self.pool_step, self.pool_step)
        return pooled.transpose(1, 2)

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, T, C] -> [B, T // pool_step, width of the LLM]."""
        return self.pool(self.project(hidden))

    def count(self, mel_frames: int) -> int:
        """Embeddings of a sound with `mel_frames` log-mel frames; none below one full average."""
        return conv_frames(mel_frames) // self.pool_step
