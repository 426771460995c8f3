"""The tensors of all slots: what sessions hear, see and think. Speech has a pipeline of its own.

Owned by the scheduler's thread. A method takes what several slots need at once; what a slot gets
does not depend on which others are in the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from engine.config import KvCacheType
from engine.dsp.logmel import PIECE_SAMPLES, SAMPLE_HZ, mel_frames, pieces
from engine.dsp.streaming_logmel import StreamingLogMel
from engine.gpu.graphs import GraphPool
from engine.gpu.kv.cache import NativeKV
from engine.gpu.timing import passed
from engine.minicpmo.checkpoint import OmniModel
from engine.minicpmo.encoders.audio import AudioEncoder
from engine.minicpmo.encoders.slicing import SlicePlan
from engine.minicpmo.encoders.vision import (
    IMAGES_AT_ONCE,
    EncodedPicture,
    PictureInput,
    VisionEncoder,
)
from engine.minicpmo.llm.duplex_batch import DuplexBatch
from engine.minicpmo.llm.rows import LlmRows
from engine.minicpmo.llm.turn_batch import TurnBatch

FEW_SLOTS, FEW_IMAGES = 4, 4
"""So many sessions seldom have more pictures than these at once, and their GPU is small."""


class Runner:
    """Owns these caches. A slot is used by one session at a time and cleared by `clear`."""

    def __init__(
        self,
        model: OmniModel,
        num_slots: int,
        max_context: int,
        kv_cache: KvCacheType = "auto",
    ) -> None:
        self.model = model
        self.graphs = GraphPool(model.device)
        self.max_context = max_context
        """Positions of the language model that a slot holds."""
        self.llm = LlmRows(model.llm, num_slots, max_context, self.graphs, kv_cache=kv_cache)
        self.duplex = DuplexBatch(self.llm, model.tokens)
        self.turns = TurnBatch(self.llm, model.tokens)
        chunk = model.config.unit.samples(SAMPLE_HZ)
        self.mels = StreamingLogMel(model.mel, num_slots, chunk)
        self.audio_kv = NativeKV(model.whisper.cache_spec(), num_slots)
        self.audio_encoder = AudioEncoder(
            self.mels, model.whisper, model.projector, self.audio_kv, self.graphs
        )
        self.vision_encoder = VisionEncoder(
            model.vision,
            model.resampler,
            model.config.picture,
            self.graphs,
            IMAGES_AT_ONCE if num_slots > FEW_SLOTS else FEW_IMAGES,
        )

    def warm_up(self, show: Callable[[str], None]) -> None:
        """Capture every graph; tells how far it is."""
        self.llm.warm_up(show)
        show("choosing tokens")
        self.duplex.warm_up()
        self.turns.warm_up()
        self.audio_encoder.warm_up(self.mels.num_slots, show)
        self.vision_encoder.warm_up(show)

    # ------------------------------------------------------------------ slots

    def clear(self, slot: int) -> None:
        """Leave nothing of a conversation in the slot."""
        if slot in self.duplex.sessions:
            self.duplex.close(slot)
        if slot in self.turns.sessions:
            self.turns.close(slot)
        self.mels.reset([slot])
        self.audio_kv.reset([slot])

    # ------------------------------------------------------------------ in

    @torch.inference_mode()
    def hear(self, chunks: dict[int, Tensor]) -> dict[int, Tensor]:
        """Encode each slot's next chunk of sound [N] to embeddings [T, C]."""
        if not chunks:
            return {}
        return self.audio_encoder.hear(chunks)

    @torch.inference_mode()
    def hear_whole(self, sounds: Sequence[Tensor], *, in_blocks: bool) -> list[Tensor]:
        """Encode whole recordings [N], 16 kHz, to embeddings [T, C] of each."""
        return hear_whole(self.model, sounds, in_blocks=in_blocks)

    def count_sound(self, num_samples: int) -> int:
        """Return the number of embeddings that `hear_whole` makes of a 16 kHz recording."""
        lengths = [
            min(PIECE_SAMPLES, num_samples - start)
            for start in range(0, num_samples, PIECE_SAMPLES)
        ]
        return sum(self.model.projector.count(mel_frames(length)) for length in lengths)

    def plan_picture(self, picture: Tensor, most: int) -> SlicePlan:
        """Plan the images that `look` makes of a picture [height, width, 3], at most `most`."""
        return self.vision_encoder.plan(picture, most)

    @torch.inference_mode()
    def look(self, pictures: Sequence[PictureInput]) -> list[EncodedPicture]:
        """Encode pictures as one batch."""
        if not pictures:
            return []
        return self.vision_encoder.look(pictures)

    # ------------------------------------------------------------------ out

    @torch.inference_mode()
    def speech(
        self, ids: Sequence[int], states: Sequence[Tensor]
    ) -> tuple[tuple[Tensor, Tensor], torch.cuda.Event | None]:
        """Spoken ids [T], on the host, and their states [T, C] for another stream, and when these
        are there."""
        device, width = self.model.device, self.model.config.llm.hidden_size
        given = torch.tensor(list(ids), dtype=torch.long)
        hidden = (
            torch.stack(list(states))
            if states
            else torch.zeros(0, width, dtype=self.model.dtype, device=device)
        )
        return (given, hidden), passed(device)


@torch.inference_mode()
def hear_whole(model: OmniModel, sounds: Sequence[Tensor], *, in_blocks: bool) -> list[Tensor]:
    """Encode whole recordings [N], 16 kHz, to embeddings [T, C] of each."""
    parts = [pieces(sound) for sound in sounds]
    flat = [piece for group in parts for piece in group]
    mel, counts = model.mel.whole(flat)
    hidden = model.whisper.encode(mel, counts, in_blocks=in_blocks)
    embeds = [
        model.projector(hidden[row : row + 1, : _frames(count)])[0]
        for row, count in enumerate(counts)
    ]
    out, done = [], 0
    for group in parts:
        out.append(torch.cat(embeds[done : done + len(group)]))
        done += len(group)
    return out


def _frames(mel_frames: int) -> int:
    return (mel_frames - 1) // 2 + 1
