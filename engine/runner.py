"""The tensors of all slots: what sessions hear, see, think and say, in batches.

Owned by the scheduler's thread. A method takes what several slots need at once; what a slot gets
does not depend on which others are in the batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.duplex_rows import DuplexRows
from engine.graphs import GraphPool
from engine.layers.images import Pieces, cut, patch_batch
from engine.layers.logmel import MelStreams, pieces
from engine.llm_rows import LlmRows
from engine.model import OmniModel
from engine.speech_codes import Speak, SpeechCodes
from engine.speech_streams import Codes, SpeechStreams, to_pcm
from engine.token2wav import VoiceBase
from engine.turn_rows import TurnRows

Pcm = NDArray[np.int16]

Emit = Callable[[int, Pcm, bool], None]
"""Takes the row of the batch, a part of its sound, and whether that is the unit's last."""


@dataclass(frozen=True)
class Seen:
    """A picture as the language model gets it."""

    images: tuple[Tensor, ...]
    """[T, C] each: the whole picture first, then its slices."""
    columns: int
    rows: int


class Runner:
    """Owns every cache. A slot is used by one session at a time and cleared by `clear`."""

    def __init__(
        self,
        model: OmniModel,
        num_slots: int,
        max_context: int,
        *,
        max_prompt: int,
        speech_length: int | None = None,
        first_codes: int = 0,
    ) -> None:
        """`max_context`: positions of the language model that a slot holds; `max_prompt`: mel
        frames of the longest voice prompt; `speech_length`: condition rows and codes of a turn
        that the speech decoder holds, see `SpeechCodes`; `first_codes`: see `SpeechStreams`."""
        self.model = model
        self.graphs = GraphPool(model.device)
        rows = LlmRows(model.llm, num_slots, max_context, self.graphs)
        self.duplex = DuplexRows(rows, model.tokens)
        self.turns = TurnRows(rows, model.tokens)
        self.mels = MelStreams(model.mel, num_slots)
        self.audio_kv = model.whisper.make_cache(num_slots)
        self.codes = SpeechCodes(model.speech, num_slots, speech_length, self.graphs)
        self.streams = (
            SpeechStreams(
                model.token2wav, num_slots, max_prompt, graphs=self.graphs, first_codes=first_codes
            )
            if model.token2wav
            else None
        )
        self.stage_ms: dict[str, float] = {}
        """Time spent in each stage since `take_times`."""

    def warm_up(self, show: Callable[[str], None]) -> None:
        """Capture every graph; tells how far it is."""
        self.duplex.rows.warm_up(show)
        show("choosing tokens")
        self.duplex.warm_up()
        self.turns.warm_up()
        if self.graphs.enabled:
            self.codes.warm_up(self.codes.kv.num_slots, show)
            if self.streams is not None:
                self.streams.warm_up(self.codes.kv.num_slots, show)

    # ------------------------------------------------------------------ slots

    def clear(self, slot: int) -> None:
        """Leave nothing of a session in the slot."""
        self.leave(slot)
        self.codes.clear(slot)
        if self.streams is not None:
            self.streams.clear(slot)

    def leave(self, slot: int) -> None:
        """End the conversation in the slot; the voice stays."""
        for rows in (self.duplex, self.turns):
            if slot in rows.sessions:
                rows.close(slot)
        self.mels.reset([slot])
        self.audio_kv.reset([slot])
        self.codes.reset(slot)

    def set_voice(self, slot: int, voice: VoiceBase) -> None:
        if self.streams is not None:
            self.streams.set_voice(slot, voice)

    def hush(self, slot: int) -> None:
        """Forget what the slot was about to say: turn end, interruption."""
        self.codes.reset(slot)
        if self.streams is not None:
            self.streams.reset(slot)

    # ------------------------------------------------------------------ in

    @torch.inference_mode()
    def hear(self, chunks: dict[int, Tensor]) -> dict[int, Tensor]:
        """Each slot's next chunk of sound [N] -> its embeddings [T, C]."""
        if not chunks:
            return {}
        with self.timed("encode"):
            slots = list(chunks)
            is_first = [self.mels.calls(slot) == 0 for slot in slots]
            mel, counts = self.mels.push(slots, [chunks[slot] for slot in slots])
            hidden = self.model.whisper.stream(mel, counts, self.audio_kv, slots, is_first)
            embeds = self.model.projector(hidden)
        return dict(zip(slots, embeds, strict=True))

    @torch.inference_mode()
    def hear_whole(self, sounds: Sequence[Tensor], *, in_blocks: bool) -> list[Tensor]:
        """Whole recordings [N], 16 kHz -> embeddings [T, C] of each."""
        with self.timed("encode"):
            parts = [pieces(sound) for sound in sounds]
            flat = [piece for group in parts for piece in group]
            mel, counts = self.model.mel.whole(flat)
            hidden = self.model.whisper.encode(mel, counts, in_blocks=in_blocks)
            embeds = [
                self.model.projector(hidden[row : row + 1, : _frames(count)])[0]
                for row, count in enumerate(counts)
            ]
        out, done = [], 0
        for group in parts:
            out.append(torch.cat(embeds[done : done + len(group)]))
            done += len(group)
        return out

    @torch.inference_mode()
    def look(self, pictures: Sequence[tuple[Tensor, int]]) -> list[Seen]:
        """Pictures [height, width, 3] uint8 with their most slices, as one batch."""
        if not pictures:
            return []
        with self.timed("encode"):
            config = self.model.config.picture
            parts: list[Pieces] = [cut(rgb, config, most) for rgb, most in pictures]
            images = [image for part in parts for image in part.images]
            batch = patch_batch(images, config, self.model.device)
            embeds = self.model.resampler(self.model.vision(batch), batch)
        seen, done = [], 0
        for part in parts:
            group = tuple(embeds[done : done + len(part.images)])
            seen.append(Seen(group, part.columns, part.rows))
            done += len(part.images)
        return seen

    # ------------------------------------------------------------------ out

    def say_unit(self, batch: Sequence[Speak], emit: Emit | None = None) -> list[Pcm]:
        """One duplex second of speech for each slot.

        `emit` is called with each part of it as soon as it is there, and of a turn's first unit
        then comes a short part ahead of the rest.
        """
        if not batch or self.streams is None:
            return [np.zeros(0, np.int16) for _ in batch]
        first_codes = self.streams.first_codes if emit is not None else 0
        starts = [i for i, s in enumerate(batch) if self.codes.is_turn_start(s.slot)]
        with self.timed("tts"):
            unit = self.codes.begin_unit(batch)
            codes: list[list[int]] = [[] for _ in batch]
            if first_codes and starts:
                codes = unit.more(first_codes)
        # Where the end code came this early there is nothing to hurry for.
        ahead = [i for i in starts if 0 < first_codes == len(codes[i])]
        early = {i: codes[i] for i in ahead}
        parts: list[list[Pcm]] = [[] for _ in batch]
        if emit is not None and early:
            with self.timed("vocoder"):
                given = [Codes(batch[i].slot, own) for i, own in early.items()]
                for i, pcm in zip(early, to_pcm(self.streams.first_part(given)), strict=True):
                    parts[i].append(pcm)
                    emit(i, pcm, False)
        with self.timed("tts"):
            rest = unit.more()
        with self.timed("vocoder"):
            left = [
                Codes(speak.slot, more if i in early else [*codes[i], *more], speak.ends)
                for i, (speak, more) in enumerate(zip(batch, rest, strict=True))
            ]
            for i, pcm in enumerate(to_pcm(self.streams.unit(left))):
                parts[i].append(pcm)
                if emit is not None:
                    emit(i, pcm, True)
        return [np.concatenate(own) if len(own) > 1 else own[0] for own in parts]

    def say_group(self, batch: Sequence[Speak]) -> list[Pcm]:
        """A group of tokens of turn-based replies as speech, as far as it goes."""
        if not batch or self.streams is None:
            return [np.zeros(0, np.int16) for _ in batch]
        with self.timed("tts"):
            codes = self.codes.group(batch)
        with self.timed("vocoder"):
            sounds = self.streams.group(
                [Codes(s.slot, c, s.ends) for s, c in zip(batch, codes, strict=True)]
            )
            return to_pcm(sounds)

    # ------------------------------------------------------------------ figures

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the time of the block to a stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            if self.model.device.type == "cuda":
                torch.cuda.synchronize(self.model.device)
            took_ms = (time.perf_counter() - started) * 1000
            self.stage_ms[stage] = self.stage_ms.get(stage, 0.0) + took_ms

    def take_times(self) -> dict[str, float]:
        """The stages' times since the last call, in ms."""
        times, self.stage_ms = self.stage_ms, {}
        return {stage: round(ms, 2) for stage, ms in times.items()}


def _frames(mel_frames: int) -> int:
    return (mel_frames - 1) // 2 + 1
