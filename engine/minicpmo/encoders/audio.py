"""What sessions hear, a unit of sound at a time: samples to embeddings, many sessions at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from engine.dsp.streaming_logmel import StreamingLogMel
from engine.gpu.graphs import GraphPool, padded_size, sizes_up_to
from engine.gpu.kv.cache import NativeKV
from engine.gpu.staging import Staging
from engine.minicpmo.models.audio.whisper import AudioProjector, WhisperEncoder

STAGED_UNITS = 4
"""Calls of all slots whose samples find room in host memory before one waits for another."""


class AudioEncoder:
    """Streaming hearing of all slots. The state lies in `mels` and `cache`, which others reset."""

    def __init__(
        self,
        mels: StreamingLogMel,
        encoder: WhisperEncoder,
        projector: AudioProjector,
        cache: NativeKV,
        graphs: GraphPool,
    ) -> None:
        self.mels = mels
        self.encoder = encoder
        self.projector = projector
        self.cache = cache
        self.graphs = graphs
        rows = padded_size(mels.num_slots)
        self._staging = Staging(encoder.device, STAGED_UNITS * 4 * (rows + 1) * mels.first_chunk)

    @torch.inference_mode()
    def hear(self, chunks: dict[int, Tensor]) -> dict[int, Tensor]:
        """Each slot's next chunk of sound [N], on the host -> its embeddings [T, C]."""
        if not chunks:
            return {}
        for slot, chunk in chunks.items():
            self.mels.check(slot, chunk)
        slots = list(chunks)
        # The graph's result is overwritten by the next call.
        embeds = self._run(chunks, padded_size(len(slots)))[: len(slots)].clone()
        self.mels.advance(slots)
        self.encoder.advance(self.cache, slots)
        return dict(zip(slots, embeds.unbind(), strict=True))

    @torch.inference_mode()
    def warm_up(self, rows: int, show: Callable[[str], None]) -> None:
        """Make the graphs of calls with up to `rows` slots; no slot notices."""
        if not self.graphs.has_to_warm_up:
            return
        sizes = sizes_up_to(rows)
        with self.graphs.capturing():
            for size in sizes if self.graphs.enabled else sizes[-1:]:
                show(f"audio encoder, {size} sessions")
                self._run({}, size)

    def _run(self, chunks: dict[int, Tensor], rows: int) -> Tensor:
        longest = self.mels.first_chunk
        samples = self._staging.take((rows, longest), torch.float32)
        # Through numpy: a copy by torch costs several times as much where it is this small.
        lines = samples.numpy()
        for line, chunk in zip(lines, chunks.values(), strict=False):
            line[longest - len(chunk) :] = chunk.numpy()
        slots = list(chunks)
        plan = self.mels.plan(slots, rows) + self.encoder.plan(self.cache, slots, rows)
        index = self._staging.take((len(plan), rows), torch.int64)
        index.copy_(torch.tensor(plan))
        embeds = self.graphs.run(("hear", rows), self._embed, samples, index)
        self._staging.sent()
        return embeds

    def _embed(self, samples: Tensor, index: Tensor) -> Tensor:
        """[B, first_chunk] and both plans, one below the other -> [B, T, C]."""
        mine, theirs = index[: StreamingLogMel.FIELDS], index[StreamingLogMel.FIELDS :]
        mel = self.mels.features(samples, mine)
        hidden = self.encoder.frames(mel, mine[1].bool(), self.cache, theirs)
        embeds: Tensor = self.projector(hidden)
        return embeds
