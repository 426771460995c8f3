"""The vocoder's earlier generation as a stream: looks both ways, calls overlap by 160 ms.

The halves of its Hamming window sum to 1.08, so that seams are 0.7 dB loud; kept, because the
released vocoder was always heard so and a smoother fade has not been listened to.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.minicpmo.models.vocoder.hift import Hift
from engine.minicpmo.models.vocoder.ragged import covered, ended, joined
from engine.minicpmo.models.vocoder.streaming import (
    DELAY_FRAMES,
    Plan,
    Rows,
    VocoderState,
    VoiceStream,
    Wave,
    keep,
    noise_from,
)


class Original:
    """See the module."""

    def __init__(self, hift: Hift, noise: Tensor) -> None:
        self.hift, self.noise = hift, noise
        self.overlap = DELAY_FRAMES * hift.config.frame_samples
        self.fade = torch.hamming_window(2 * self.overlap, periodic=False, dtype=torch.float64).to(
            noise
        )

    def after(self, stream: VoiceStream, frames: int, last: bool) -> VoiceStream:
        """Where a call takes the stream."""
        return stream.after(frames, last, lag=0, history=0)

    def plan(self, stream: VoiceStream, frames: int, last: bool) -> Plan:
        """What a call does; raises `ValueError` if it is too short to be faded into the next."""
        total = stream.kept + frames
        if not last and total < DELAY_FRAMES:
            raise ValueError(f"a stream of this vocoder cannot begin with {total} mel frames")
        return Plan(
            kept=stream.kept,
            frames=frames,
            sourced=stream.kept,
            f0_first=0,
            f0_history=0,
            f0_count=total,
            forgotten=max(total - DELAY_FRAMES, 0),
            last=last,
        )

    def first_sample(self, stream: VoiceStream) -> int:
        """The sample of the turn whose noise a call begins with."""
        return stream.begin * self.hift.config.frame_samples

    def run(self, state: VocoderState, rows: Rows, mel: Tensor, f0: Tensor | None = None) -> Wave:
        """Advance rows by mel [B, C, T]; `f0` [B, T] is used in place of the predicted one."""
        frame, overlap, slots = self.hift.config.frame_samples, self.overlap, rows.slots
        kept, total = rows.count("kept"), rows.count("f0_count")
        mel = ended(joined(state.mel.index_select(0, slots), mel, kept), total)
        if f0 is None:
            f0 = ended(self.hift.f0_predictor(mel, total), total)
        sines = self.hift.smooth_sines(f0)
        noise = noise_from(self.noise, rows.samples, sines.shape[1])
        source = self.hift.source(sines, f0, noise)
        source = covered(source, state.source.index_select(0, slots), kept * frame)
        wave = self.hift.filter(mel, source, span=total)
        if kept.most:
            before = state.speech.index_select(0, slots) * self.fade[overlap:]
            faded = wave[:, :overlap] * self.fade[:overlap] + before
            wave = covered(wave, faded, kept * frame)
        if rows.keeps:
            forgotten = rows.count("forgotten")
            keep(state.mel[..., :DELAY_FRAMES], rows, mel, forgotten)
            keep(state.source[:, :overlap], rows, source, forgotten * frame)
            keep(state.speech, rows, wave, forgotten * frame)
        return Wave(F.pad(wave, (overlap, 0)), f0, source)
