"""The Whisper encoder: whole sounds in blocks or bidirectional, and streams over cache rows.

A frame is 20 ms. In a stream each chunk of frames sees all cached ones and itself, without a limit
inside the chunk. Source: Whisper (arXiv 2212.04356) and the MiniCPM-o 4.5 inference code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.dsp.logmel import SAMPLE_HZ
from engine.dsp.streaming_logmel import MARGIN, chunk_features
from engine.gpu.blocks.linear import pack_biased
from engine.gpu.kv.cache import CacheSpec, NativeKV
from engine.gpu.layers.varlen_attention import VarlenLayout, varlen_attention
from engine.gpu.staging import uploaded
from engine.minicpmo.models.config import AudioConfig
from engine.minicpmo.models.unit import RELEASED_UNIT, UnitSpec

LAYER_NORM_EPS = 1e-5

FRAME_HZ = 50

CUT = 1
"""Encoder frames at each end of a chunk that only give the convolutions their context."""


def conv_frames(mel_frames: int) -> int:
    """Encoder frames of `mel_frames` log-mel frames."""
    return (mel_frames - 1) // 2 + 1


class _WhisperAttention(nn.Module):
    packed: tuple[Tensor, Tensor]
    """Weight and bias of query, key and value."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def finish_loading(self) -> None:
        self.packed = pack_biased(self.q_proj, self.k_proj, self.v_proj)

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        """[B, T, C] -> query, keys, values [B, T, H, D]."""
        return F.linear(x, *self.packed).view(*x.shape[:2], 3, self.heads, -1).unbind(2)

    def mix(self, query: Tensor, keys: Tensor, values: Tensor, visible: Tensor | None) -> Tensor:
        """Query [B, T, H, D] over keys and values [B, K, H, D] -> [B, T, C]."""
        out = F.scaled_dot_product_attention(
            query.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2), attn_mask=visible
        )
        mixed: Tensor = self.out_proj(out.transpose(1, 2).flatten(2))
        return mixed


@dataclass(frozen=True)
class _WhisperRows:
    """Where the new frames of a call's streams go, and what they see."""

    cache: NativeKV
    places: Tensor
    """[B * T] positions among those of all cache rows laid end to end."""
    layout: VarlenLayout


class _WhisperLayer(nn.Module):
    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.self_attn = _WhisperAttention(width, config.num_heads)
        self.self_attn_layer_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.fc1 = nn.Linear(width, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, width)
        self.final_layer_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)

    def feed_forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.fc2(F.gelu(self.fc1(self.final_layer_norm(x))))
        return out

    def whole(self, x: Tensor, visible: Tensor | None) -> Tensor:
        attention = self.self_attn
        query, keys, values = attention.project(self.self_attn_layer_norm(x))
        return self.feed_forward(x + attention.mix(query, keys, values, visible))

    def cached(self, x: Tensor, rows: _WhisperRows, layer: int) -> Tensor:
        attention, cache = self.self_attn, rows.cache
        projected = attention.project(self.self_attn_layer_norm(x))
        query, keys, values = (part.flatten(0, 1) for part in projected)
        cache.keys[layer].flatten(0, 1)[rows.places] = keys
        cache.values[layer].flatten(0, 1)[rows.places] = values
        mixed = varlen_attention(
            query, cache.keys[layer], cache.values[layer], rows.layout, causal=False
        )
        return self.feed_forward(x + attention.out_proj(mixed.view_as(x)))


class WhisperEncoder(nn.Module):
    """The encoder; parameters are named as in the checkpoint under `apm.`.

    A chunk of a stream is a unit: of one second it has 104 log-mel frames and adds 50 frames.
    """

    def __init__(self, config: AudioConfig, unit: UnitSpec = RELEASED_UNIT) -> None:
        super().__init__()
        self.config = config
        self.mel_frames = chunk_features(unit.samples(SAMPLE_HZ))
        """Log-mel frames of a chunk, both margins included."""
        self.new_frames = unit.ms * FRAME_HZ // 1000
        """Encoder frames that a chunk adds to its stream."""
        width = config.hidden_size
        self.conv1 = nn.Conv1d(config.num_mel_bins, width, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(width, width, kernel_size=3, stride=2, padding=1)
        self.embed_positions = nn.Embedding(config.max_positions, width)
        self.layers = nn.ModuleList(_WhisperLayer(config) for _ in range(config.num_layers))
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

    def cache_spec(self) -> CacheSpec:
        """A slot of one stream; it holds the position table."""
        config = self.config
        return CacheSpec(
            config.num_layers,
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
        hidden = self._whole_front(mel, mel_lengths)
        counts = [conv_frames(length) for length in mel_lengths]
        total = hidden.shape[1]
        if total > self.config.max_positions:
            raise ValueError(f"{total} frames, the table has {self.config.max_positions}")
        hidden = hidden + self.embed_positions.weight[:total]
        visible = self._visible(counts, total, self.block_frames if in_blocks else 0)
        for layer in self.layers:
            assert isinstance(layer, _WhisperLayer)
            hidden = layer.whole(hidden, visible)
        out: Tensor = self.layer_norm(hidden)
        return out

    def resets(self, cache: NativeKV, slot: int) -> bool:
        """Return whether the slot's next chunk starts with an empty cache: the table overflows.

        Counts the frames at the chunk's ends too, although they are never cached.
        """
        return cache.lengths[slot] + conv_frames(self.mel_frames) >= self.config.max_positions

    def plan(self, cache: NativeKV, slots: Sequence[int], rows: int) -> list[list[int]]:
        """Return what `frames` needs to know, [3][rows]: each row's slot, the frames that it has
        cached and those that its new ones see. Rows behind the slots' see and keep nothing."""
        assert len(set(slots)) == len(slots), f"a slot occurs twice in {list(slots)}"
        cached = [0 if self.resets(cache, slot) else cache.lengths[slot] for slot in slots]
        padding = rows - len(slots)
        return [
            [*slots, *[0] * padding],
            [*cached, *[cache.max_len] * padding],
            [*(length + self.new_frames for length in cached), *[0] * padding],
        ]

    def advance(self, cache: NativeKV, slots: Sequence[int]) -> None:
        """Count the frames of a call to `frames`."""
        for slot in slots:
            if self.resets(cache, slot):
                cache.truncate(slot, 0)
        cache.advance(slots, [self.new_frames] * len(slots))

    def frames(self, mel: Tensor, is_first: Tensor, cache: NativeKV, index: Tensor) -> Tensor:
        """Encode each row's next chunk: log-mel [B, mels, F] -> [B, T, C] after the last norm.

        `is_first` [B] marks first chunks, which have no margin on their left; `index` [3, B] is the
        plan. Waits for nothing on the device.
        """
        slots, cached, used = index.unbind()
        positions = cached[:, None] + torch.arange(self.new_frames, device=index.device)
        starts = slots * (cache.max_len + 1)
        places = starts[:, None] + positions.clamp_max(cache.max_len)
        rows = _WhisperRows(cache, places.flatten(), self._layout(starts, used))
        known = positions.clamp_max(self.config.max_positions - 1)
        hidden = self._front(mel, is_first) + self.embed_positions(known)
        for place, layer in enumerate(self.layers):
            assert isinstance(layer, _WhisperLayer)
            hidden = layer.cached(hidden, rows, place)
        out: Tensor = self.layer_norm(hidden)
        return out

    def stream(
        self, mel: Tensor, cache: NativeKV, slots: Sequence[int], is_first: Sequence[bool]
    ) -> Tensor:
        """Plan, encode and count: `frames` of each slot's next chunk."""
        assert len(slots) == mel.shape[0] == len(is_first), (
            f"{len(slots)} slots, {mel.shape[0]} rows, {len(is_first)} flags"
        )
        index = uploaded(torch.tensor(self.plan(cache, slots, len(slots))), self.device)
        first = uploaded(torch.tensor(list(is_first)), self.device)
        hidden = self.frames(mel, first, cache, index)
        self.advance(cache, slots)
        return hidden

    def _layout(self, starts: Tensor, used: Tensor) -> VarlenLayout:
        count = used.shape[0]
        ends = torch.arange(count + 1, device=used.device, dtype=torch.int32) * self.new_frames
        keys = F.pad(starts, (0, 1)).int()
        return VarlenLayout(ends, keys, used.int(), self.new_frames, self.config.max_positions)

    def _front(self, mel: Tensor, is_first: Tensor) -> Tensor:
        """The convolutions of chunks of streams: [B, mels, F] -> [B, T, C]."""
        assert mel.shape[1:] == (self.config.num_mel_bins, self.mel_frames), f"{tuple(mel.shape)}"
        # Before a first chunk both convolutions must see the padding that a sound's start has.
        before = torch.arange(self.mel_frames, device=mel.device) < MARGIN
        absent = (is_first[:, None] & before)[:, None]
        mel = mel.to(self.device, self.dtype).masked_fill(absent, 0.0)
        hidden = F.gelu(self.conv1(mel)).masked_fill(absent, 0.0)
        hidden = F.gelu(self.conv2(hidden))
        return hidden[:, :, CUT : CUT + self.new_frames].transpose(1, 2)

    def _whole_front(self, mel: Tensor, mel_lengths: Sequence[int]) -> Tensor:
        """Two convolutions, the second halves the rate: [B, mels, F] -> [B, T, C]."""
        assert mel.ndim == 3 and mel.shape[1] == self.config.num_mel_bins, (
            f"log-mel {tuple(mel.shape)}, the encoder takes {self.config.num_mel_bins} bins"
        )
        assert max(mel_lengths) <= mel.shape[2], f"{mel_lengths} frames of {mel.shape[2]}"
        first = F.gelu(self.conv1(mel.to(self.device, self.dtype)))
        if min(mel_lengths) < mel.shape[2]:
            # The second convolution of a shorter row must see the padding it would see alone.
            frames = torch.arange(mel.shape[2], device=self.device)
            lengths = uploaded(torch.tensor(list(mel_lengths)), self.device)
            first = first.masked_fill((frames >= lengths[:, None])[:, None], 0.0)
        second: Tensor = F.gelu(self.conv2(first)).transpose(1, 2)
        return second

    def _visible(self, counts: Sequence[int], total: int, block: int) -> Tensor | None:
        """[B, 1, T or 1, T] True where a query may look; None where it may look everywhere."""
        keys = torch.arange(total, device=self.device)
        lengths = uploaded(torch.tensor(list(counts)), self.device)
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
        count = projected.shape[1] // self.pool_step
        whole = projected[:, : count * self.pool_step]
        return whole.reshape(whole.shape[0], count, self.pool_step, whole.shape[2]).mean(2)

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, T, C] -> [B, T // pool_step, width of the LLM]."""
        return self.pool(self.project(hidden))

    def count(self, mel_frames: int) -> int:
        """Embeddings of a sound with `mel_frames` log-mel frames; none below one full average."""
        return conv_frames(mel_frames) // self.pool_step
