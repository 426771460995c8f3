"""The vocoder's earlier generation as a stream: looks both ways, calls overlap by 160 ms.

The halves of its Hamming window sum to 1.08, so that seams are 0.7 dB loud; kept, because the
released vocoder was always heard so and a smoother fade has not been listened to.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.models.hift import Hift
from engine.models.vocoder_state import DELAY_FRAMES, VocoderState, VoiceStream
from engine.models.vocoder_step import Step, Wave, noise_from


class Original:
    """See the module."""

    def __init__(self, hift: Hift, noise: Tensor) -> None:
        self.hift, self.noise = hift, noise
        self.overlap = DELAY_FRAMES * hift.config.frame_samples
        self.fade = torch.hamming_window(2 * self.overlap, periodic=False, dtype=torch.float64).to(
            noise
        )

    def after(self, step: Step) -> VoiceStream:
        """Where a call takes the stream."""
        received = step.before.received + step.frames
        return replace(
            step.before,
            mel=DELAY_FRAMES,
            source=self.overlap,
            speech=self.overlap,
            received=received,
            sourced=received,
            emitted=received,
            ended=step.last,
        )

    def first_sample(self, stream: VoiceStream) -> int:
        """The sample of the turn whose noise a call begins with."""
        return stream.start * self.hift.config.frame_samples

    def run(
        self, state: VocoderState, step: Step, rows: Tensor, samples: Tensor, mel: Tensor
    ) -> Wave:
        """Advance rows [B] by mel [B, C, T]; `samples` [B], see `first_sample`."""
        old = step.before
        mel = torch.cat([state.mel.index_select(0, rows)[..., : old.mel], mel], dim=-1)
        if not step.last and mel.shape[-1] < DELAY_FRAMES:
            raise ValueError(f"{mel.shape[-1]} mel frames begin no stream of this vocoder")
        f0 = self.hift.f0_predictor(mel) if step.f0 is None else step.f0
        sines = self.hift.smooth_sines(f0)
        source = self.hift.source(sines, f0, noise_from(self.noise, samples, sines.shape[1]))
        source[:, : old.source] = state.source.index_select(0, rows)[:, : old.source]
        wave = self.hift.filter(mel, source)
        overlap = self.overlap
        if old.speech:
            before = state.speech.index_select(0, rows) * self.fade[overlap:]
            wave[:, :overlap] = wave[:, :overlap] * self.fade[:overlap] + before
        if not step.last:
            state.mel[..., :DELAY_FRAMES].index_copy_(0, rows, mel[..., -DELAY_FRAMES:])
            state.source[:, :overlap].index_copy_(0, rows, source[:, -overlap:])
            state.speech.index_copy_(0, rows, wave[:, -overlap:])
        heard = wave if step.last else wave[:, :-overlap]
        if not step.last and old.received == 0:
            heard = F.pad(heard, (overlap, 0))
        return Wave(heard, f0, source)
