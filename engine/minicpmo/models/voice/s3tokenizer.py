"""The speech tokenizer: 16 kHz speech to codes at 25 Hz. Used once for each voice.

Source: CosyVoice 2 (arXiv 2412.10117), S3 tokenizer v2: finite scalar quantisation.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from engine.gpu.layers.rope import Rope, rotate
from engine.gpu.weights import empty, load_state
from engine.minicpmo.models.config_reader import ConfigError

LEVELS = 3
DIGITS = 8
MEMORY = 31
THETA = 10_000.0


@dataclass(frozen=True, slots=True)
class S3Config:
    num_mels: int = 128
    size: int = 1280
    num_heads: int = 20
    num_layers: int = 6

    @classmethod
    def from_json(cls, path: Path) -> S3Config:
        values = json.loads(path.read_text())
        try:
            return cls(
                values["n_mels"],
                values["n_audio_state"],
                values["n_audio_head"],
                values["n_audio_layer"],
            )
        except KeyError as error:
            raise ConfigError(f"{path}: {error} is missing") from None


class MemoryAttention(nn.Module):
    """Full attention plus a depthwise memory over the values (FSMN)."""

    def __init__(self, config: S3Config) -> None:
        super().__init__()
        size = config.size
        self.num_heads = config.num_heads
        self.query, self.value = nn.Linear(size, size), nn.Linear(size, size)
        self.key = nn.Linear(size, size, bias=False)
        self.out = nn.Linear(size, size)
        self.fsmn_block = nn.Conv1d(
            size, size, MEMORY, padding=MEMORY // 2, groups=size, bias=False
        )
        self.rope = Rope(size // config.num_heads, THETA)

    def forward(self, x: Tensor) -> Tensor:
        """[T, C] -> [T, C]."""
        turn = self.rope(torch.arange(len(x), device=x.device))
        query, key, value = (
            layer(x).view(len(x), self.num_heads, -1)
            for layer in (self.query, self.key, self.value)
        )
        query, key = rotate(query, *turn), rotate(key, *turn)
        mixed = F.scaled_dot_product_attention(
            query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1)
        )
        values = value.flatten(1)
        memory = self.fsmn_block(values.T[None])[0].T + values
        out: Tensor = self.out(mixed.transpose(0, 1).flatten(1)) + memory
        return out


class Block(nn.Module):
    def __init__(self, config: S3Config) -> None:
        super().__init__()
        size = config.size
        self.attn = MemoryAttention(config)
        self.attn_ln = nn.LayerNorm(size, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(size, 4 * size), nn.GELU(), nn.Linear(4 * size, size))
        self.mlp_ln = nn.LayerNorm(size)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.attn_ln(x))
        out: Tensor = x + self.mlp(self.mlp_ln(x))
        return out


class S3Encoder(nn.Module):
    def __init__(self, config: S3Config) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(config.num_mels, config.size, 3, stride=2, padding=1)
        self.conv2 = nn.Conv1d(config.size, config.size, 3, stride=2, padding=1)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))

    def forward(self, mel: Tensor) -> Tensor:
        x = F.gelu(self.conv2(F.gelu(self.conv1(mel[None]))))[0].T
        for block in self.blocks:
            x = block(x)
        return x


class Codebook(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.project_down = nn.Linear(size, DIGITS)


class Quantizer(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self._codebook = Codebook(size)

    def forward(self, x: Tensor) -> Tensor:
        # No factor 0.999 before the rounding: this model's prompts were made without it.
        h = self._codebook.project_down(x).tanh().clamp(-(1 - 1e-6), 1 - 1e-6)
        digits = (h + 1).round().long()
        out: Tensor = (digits * LEVELS ** torch.arange(DIGITS, device=x.device)).sum(-1)
        return out


class S3Tokenizer(nn.Module):
    """Weights under the names of the usual Python port."""

    def __init__(self, config: S3Config) -> None:
        super().__init__()
        self.config = config
        self.encoder = S3Encoder(config)
        self.quantizer = Quantizer(config.size)

    @torch.inference_mode()
    def forward(self, mel: Tensor) -> list[int]:
        """Codes, a quarter of the frames, of a log-mel [num_mels, frames]."""
        codes: list[int] = self.quantizer(self.encoder(mel)).tolist()
        return codes


def load_s3tokenizer(weights: Path, sizes: Path) -> S3Tokenizer:
    """Read a tokenizer in safetensors form; float32 on the CPU."""
    config = S3Config.from_json(sizes)
    tokenizer = empty(lambda: S3Tokenizer(config))
    load_state(tokenizer, load_file(weights), where=str(weights), device="cpu", dtype=torch.float32)
    return tokenizer
