"""Speech codes to mel frames: conditional flow matching over a streaming encoder and estimator.

A batch of rows with caches of different lengths runs as one; what a row gets does not depend on
the others. Source: CosyVoice 2 (arXiv 2412.10117), step-audio2 / MiniCPM-o 4.5 inference code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.gpu.graphs import GraphPool, padded_size, sizes_up_to
from engine.gpu.staging import uploaded
from engine.minicpmo.models.flow.config import FlowConfig
from engine.minicpmo.models.flow.dit import Dit
from engine.minicpmo.models.flow.encoder import FlowEncoder
from engine.minicpmo.models.flow.state import Chunk, FlowState, Window

NOISE_SEED = 0
NOISE_FRAMES = 2048


@dataclass(frozen=True)
class FlowChunk:
    """What one window became; overwritten by the next call that runs by a graph."""

    mu: Tensor
    """The encoder's output [T, mels]."""
    mel: Tensor
    """[mels, T]"""
    noise: tuple[int, int]
    """Rows of the noise table that it started from."""


class FlowDecoder(nn.Module):
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
        self.decoder = FlowDecoder(config)

    def prepare(self, steps: int, noise: Tensor | None = None) -> Flow:
        """Fix the number of Euler steps and the noise table [mels, T]; return self."""
        if not 1 <= steps <= 16:
            raise ValueError(f"{steps} flow steps; 1 to 16 are possible")
        weight = self.encoder_proj.weight
        table = default_noise(self.config.num_mels) if noise is None else noise
        self.steps = steps
        self.noise = table.T.to(weight.device, torch.float32)  # [T, mels]
        times = 1 - torch.cos(torch.linspace(0, 1, steps + 1) * 0.5 * math.pi)
        self.gains = (times[1:] - times[:-1]).tolist()
        with torch.no_grad():
            self.decoder.estimator.prepare(times[:-1].to(weight.device))
            self.encoder.prepare()
        return self

    def new_state(self, slots: int, max_prompt: int) -> FlowState:
        """Caches for `slots` streams whose voice prompts have at most `max_prompt` mel frames."""
        with torch.no_grad():
            return FlowState(self.config, self.encoder, self.steps, slots, max_prompt)

    def bytes_per_slot(self, max_prompt: int) -> int:
        """Memory of one slot of `new_state(..., max_prompt)`."""
        return FlowState.bytes_per_slot(
            self.config, self.steps, max_prompt, self.encoder_proj.weight.element_size()
        )

    def speaker(self, embedding: Tensor) -> Tensor:
        """Speaker embeddings [B, speaker_dim] -> what the estimator takes [B, mels]."""
        weight = self.spk_embed_affine_layer.weight
        unit = F.normalize(embedding.to(weight.device, torch.float32), dim=-1)
        out: Tensor = self.spk_embed_affine_layer(unit.to(weight))
        return out

    @torch.inference_mode()
    def forward(
        self,
        windows: list[Window],
        state: FlowState,
        *,
        prompt: Tensor | None = None,
        graphs: GraphPool | None = None,
        widths: Sequence[int] = (),
    ) -> list[FlowChunk]:
        """Turn one window each of some slots into mel frames, going on with their caches.

        Args:
            windows: of distinct slots.
            prompt: the known mel [B, T, mels] while a voice prompt is read, else None.
            graphs: run by its graphs, padded to the least of `widths` (fresh codes, ascending)
                that holds all windows.
        """
        ahead = self.config.encoder.lookahead
        fresh = [len(w.codes) - (0 if w.last else ahead) for w in windows]
        if min(fresh) < 1:
            raise ValueError(f"windows with {fresh} fresh codes; each needs one at least")
        highest = max(max(w.codes) for w in windows)
        if highest >= self.config.vocab_size:
            raise ValueError(f"code {highest}; the flow knows 0 to {self.config.vocab_size - 1}")
        width = next((w for w in widths if w >= max(fresh)), max(fresh))
        rows = len(windows) if graphs is None else padded_size(len(windows))
        packed, offsets = state.begin(windows, width, rows)
        frames = [self.config.encoder.upsample * count for count in fresh]
        last = max(start + count for start, count in zip(offsets, frames, strict=True))
        if last > len(self.noise):
            raise ValueError(f"noise for {last} frames is needed; the table has {len(self.noise)}")
        if graphs is None:
            mu, mel = self._run(uploaded(packed, self.noise.device), state, width, prompt)
        else:
            mu, mel = self._by_graph(packed, state, width, graphs)
        return [
            FlowChunk(mu[i, :count], mel[i, :count].T, (start, start + count))
            for i, (count, start) in enumerate(zip(frames, offsets, strict=True))
        ]

    def warm_up(
        self, state: FlowState, most_rows: int, graphs: GraphPool, widths: Sequence[int]
    ) -> None:
        """Run every shape of batches of up to `most_rows` rows, of no session."""
        if not graphs.has_to_warm_up:
            return
        with torch.inference_mode():
            for rows in sizes_up_to(most_rows):
                for width in sorted(widths, reverse=True):
                    packed, _ = state.begin([], width, rows)
                    self._by_graph(packed, state, width, graphs)

    def _by_graph(
        self, packed: Tensor, state: FlowState, width: int, graphs: GraphPool
    ) -> tuple[Tensor, Tensor]:
        def run(given: Tensor) -> tuple[Tensor, Tensor]:
            return self._run(given, state, width, None)

        return graphs.run(("flow", len(packed), width), run, packed)

    def _run(
        self, packed: Tensor, state: FlowState, width: int, prompt: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        chunk = state.chunk(packed, width)
        mu = self.encode(chunk)
        mel = self.solve(mu, state.speakers.index_select(0, chunk.slots), chunk, prompt)
        chunk.keep()
        return mu, mel

    def encode(self, chunk: Chunk) -> Tensor:
        """The encoder's output [B, T, mels] for the chunk's codes."""
        embedded = self.input_embedding(chunk.codes)
        encoded = self.encoder(embedded, chunk.given, chunk.low, chunk.high)
        out: Tensor = self.encoder_proj(encoded)
        return out

    def solve(
        self, mu: Tensor, speakers: Tensor, chunk: Chunk, prompt: Tensor | None = None
    ) -> Tensor:
        """Euler steps with classifier-free guidance, in float32; mu and the result [B, T, mels]."""
        count = mu.shape[1]
        frames = chunk.offsets[:, None] + torch.arange(count, device=mu.device)
        x = self.noise[frames.clamp(max=len(self.noise) - 1)]
        constant = [mu, speakers[:, None].expand(-1, count, -1)]
        if prompt is not None:
            assert prompt.shape == mu.shape, f"prompt mel {prompt.shape}, encoder {mu.shape}"
            constant.append(prompt.to(mu))
        estimator, guidance = self.decoder.estimator, self.config.guidance
        given = estimator.given(torch.cat(constant, dim=-1))
        for step, gain in enumerate(self.gains):
            conditional, free = estimator(x, given, step, chunk.estimator)
            x = x.add(conditional, alpha=gain * (1 + guidance)).sub(free, alpha=gain * guidance)
        return x
