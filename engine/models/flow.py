"""Speech codes to mel frames: conditional flow matching over a streaming encoder and estimator.

A batch of rows with caches of different lengths runs as one; what a row gets does not depend on
the others. Source: CosyVoice 2 (arXiv 2412.10117), step-audio2 / MiniCPM-o 4.5 inference code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.models.dit import Dit, DitState
from engine.models.flow_config import FlowConfig
from engine.models.flow_encoder import FlowEncoder
from engine.models.flow_state import ChunkState, FlowState

NOISE_SEED = 0
NOISE_FRAMES = 2048


@dataclass(frozen=True)
class Window:
    """Codes of one row for one chunk: fresh ones and, unless `last`, the lookahead after them."""

    slot: int
    codes: list[int]
    last: bool = False


@dataclass(frozen=True)
class FlowChunk:
    """What one window became."""

    mu: Tensor
    """The encoder's output [T, mels]."""
    mel: Tensor
    """[mels, T]"""
    noise: tuple[int, int]
    """Rows of the noise table that it started from."""


class Decoder(nn.Module):
    """Holds the estimator under the name it has in `flow.pt`."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.estimator = Dit(config.dit)


def default_noise(num_mels: int) -> Tensor:
    """The table [mels, T] that every stream starts from: normal, the same in each process."""
    generator = torch.Generator().manual_seed(NOISE_SEED)
    return torch.randn(num_mels, NOISE_FRAMES, generator=generator)


class Flow(nn.Module):
    """Weights under the names of `flow.pt`. Call `prepare` once after loading them."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.config = config
        self.input_embedding = nn.Embedding(config.vocab_size, config.encoder.size)
        self.spk_embed_affine_layer = nn.Linear(config.speaker_dim, config.num_mels)
        self.encoder = FlowEncoder(config.encoder)
        self.encoder_proj = nn.Linear(config.encoder.size, config.num_mels)
        self.decoder = Decoder(config)

    def prepare(self, steps: int, noise: Tensor | None = None) -> Flow:
        """Fix the number of Euler steps and the noise table [mels, T]; return self."""
        if not 1 <= steps <= 16:
            raise ValueError(f"{steps} flow steps; 1 to 16 are possible")
        weight = self.encoder_proj.weight
        table = default_noise(self.config.num_mels) if noise is None else noise
        self.steps = steps
        self.noise = table.T.to(weight)  # [T, mels]
        times = 1 - torch.cos(torch.linspace(0, 1, steps + 1) * 0.5 * math.pi)
        self.gains = (times[1:] - times[:-1]).tolist()
        with torch.no_grad():
            self.modulation = self.decoder.estimator.modulations(times[:-1].to(weight.device))
        return self

    def new_state(self, slots: int, max_prompt: int) -> FlowState:
        """Caches for `slots` streams whose voice prompts have at most `max_prompt` mel frames."""
        return FlowState(self.config, self.steps, slots, max_prompt, self.encoder_proj.weight)

    def speaker(self, embedding: Tensor) -> Tensor:
        """Speaker embeddings [B, speaker_dim] -> what the estimator takes [B, mels]."""
        weight = self.spk_embed_affine_layer.weight
        out: Tensor = self.spk_embed_affine_layer(F.normalize(embedding.to(weight), dim=-1))
        return out

    @torch.inference_mode()
    def forward(
        self,
        windows: list[Window],
        speakers: Tensor,
        state: FlowState,
        prompt: Tensor | None = None,
    ) -> list[FlowChunk]:
        """Turn one window of each of some slots into mel frames, going on with their caches.

        Args:
            windows: of distinct slots.
            speakers: [B, mels], from `speaker`.
            prompt: the known mel [B, T, mels] while a voice prompt is read, else None.
        """
        ahead = self.config.encoder.lookahead
        fresh = [len(w.codes) - (0 if w.last else ahead) for w in windows]
        if min(fresh) < 1:
            raise ValueError(f"windows with {fresh} fresh codes; each needs one at least")
        highest = max(max(w.codes) for w in windows)
        if highest >= self.config.vocab_size:
            raise ValueError(f"code {highest}; the flow knows 0 to {self.config.vocab_size - 1}")
        chunk = state.begin([w.slot for w in windows], fresh)
        mu = self.encode(windows, max(fresh), chunk)
        mel = self.solve(mu, speakers, chunk, prompt)
        return [
            FlowChunk(mu[i, :count], mel[i, :count].T, (start, start + count))
            for i, (count, start) in enumerate(zip(chunk.frames, chunk.offsets, strict=True))
        ]

    def encode(self, windows: list[Window], count: int, chunk: ChunkState) -> Tensor:
        """The encoder's output [B, T, mels] for windows with at most `count` fresh codes."""
        codes = torch.zeros(len(windows), count + self.config.encoder.lookahead, dtype=torch.long)
        for row, window in enumerate(windows):
            codes[row, : len(window.codes)] = torch.tensor(window.codes)
        device = self.encoder_proj.weight.device
        given = torch.tensor([len(w.codes) for w in windows], device=device)
        embedded = self.input_embedding(codes.to(device))
        out: Tensor = self.encoder_proj(self.encoder(embedded, given, chunk.low, chunk.high))
        return out

    def solve(
        self, mu: Tensor, speakers: Tensor, chunk: ChunkState, prompt: Tensor | None
    ) -> Tensor:
        """Euler steps with classifier-free guidance; mu and the result [B, T, mels]."""
        rows, count, _ = mu.shape
        steps = torch.arange(count, device=mu.device)
        starts = torch.tensor(chunk.offsets, device=mu.device)
        last = int(max(o + f for o, f in zip(chunk.offsets, chunk.frames, strict=True)))
        if last > len(self.noise):
            raise ValueError(f"noise for {last} frames is needed; the table has {len(self.noise)}")
        x = self.noise[(starts[:, None] + steps).clamp(max=len(self.noise) - 1)]
        known = torch.zeros_like(mu) if prompt is None else prompt.to(mu)
        assert known.shape == mu.shape, f"prompt mel {known.shape}, encoder {mu.shape}"
        given = torch.cat([mu, speakers[:, None].expand(-1, count, -1), known], dim=-1)
        given = torch.cat([given, torch.zeros_like(given)])
        state = DitState(chunk.estimator, chunk.estimator_tails)
        guidance = self.config.guidance
        for step, gain in enumerate(self.gains):
            inputs = torch.cat([torch.cat([x, x]), given], dim=-1)
            velocity = self.decoder.estimator(inputs, self.modulation, step, state)
            conditional, free = velocity.split(rows)
            x = x + gain * ((1 + guidance) * conditional - guidance * free)
        return x
