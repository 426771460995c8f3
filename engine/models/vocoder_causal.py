"""The vocoder's later generation as a stream: bounded history, no seams.

Phase and noise run on through the turn. The filter is given `HISTORY_FRAMES` again instead of
keeping a tail for each of its layers: more than its receptive field, so the result is the same.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.models.hift import F0Predictor, Hift
from engine.models.vocoder_state import DELAY_FRAMES, HISTORY_FRAMES, VocoderState, VoiceStream
from engine.models.vocoder_step import Step, Wave, noise_from


class Causal:
    """See the module; for streams that `before` stands for."""

    def __init__(self, hift: Hift, noise: Tensor) -> None:
        self.hift, self.noise = hift, noise
        # The first convolution looks ahead, and the inverse STFT's last frame is not complete.
        self.filter_right = hift.config.look_right + 1

    def after(self, step: Step) -> VoiceStream:
        """Where a call takes the stream."""
        old = step.before
        received = old.received + step.frames
        ready = received if step.last else max(old.sourced, received - F0Predictor.RIGHT)
        until = ready if step.last else max(old.emitted, ready - self.filter_right)
        begin = max(until - HISTORY_FRAMES, 0)
        # F0 looks back less than the filter does and lags less.
        first = min(begin, max(ready - F0Predictor.LEFT, 0))
        return replace(
            old,
            mel=received - first,
            source=(ready - begin) * self.hift.config.frame_samples,
            received=received,
            sourced=ready,
            emitted=until,
            ended=step.last,
        )

    def first_sample(self, stream: VoiceStream) -> int:
        """The sample of the turn whose noise a call begins with."""
        return stream.sourced * self.hift.config.frame_samples

    def run(
        self, state: VocoderState, step: Step, rows: Tensor, samples: Tensor, mel: Tensor
    ) -> Wave:
        """Advance rows [B] by mel [B, C, T]; `samples` [B], see `first_sample`."""
        old, new = step.before, self.after(step)
        mel = torch.cat([state.mel.index_select(0, rows)[..., : old.mel], mel], dim=-1)
        f0 = step.f0
        if f0 is None:
            f0 = self._f0(step, mel[..., max(old.sourced - F0Predictor.LEFT, 0) - old.start :])
        assert f0.shape[1] == new.sourced - old.sourced, f"{f0.shape[1]} frames of F0"
        fresh = self._excite(state, rows, samples, f0)
        source = torch.cat([state.source.index_select(0, rows)[:, : old.source], fresh], dim=-1)
        wave = self._filter(step, mel[..., : new.sourced - old.start], source, new.emitted)
        if not step.last:
            state.mel[..., : new.mel].index_copy_(0, rows, mel[..., mel.shape[-1] - new.mel :])
            kept = source[:, source.shape[1] - new.source :]
            state.source[:, : new.source].index_copy_(0, rows, kept)
        if not step.last and old.received == 0:
            wave = F.pad(wave, (DELAY_FRAMES * self.hift.config.frame_samples, 0))
        return Wave(wave, f0, fresh)

    def _f0(self, step: Step, mel: Tensor) -> Tensor:
        """F0 of the frames from `sourced` on; mel begins with what the network looks back."""
        history = min(step.before.sourced, F0Predictor.LEFT)
        if step.last:
            mel = F.pad(mel, (0, F0Predictor.RIGHT))
        if mel.shape[-1] <= F0Predictor.RIGHT:
            return mel.new_zeros(len(mel), 0)
        out: Tensor = self.hift.f0_predictor(mel)[:, history:]
        return out

    def _excite(self, state: VocoderState, rows: Tensor, samples: Tensor, f0: Tensor) -> Tensor:
        """The excitation [B, N] of new frames; moves the carried phases on."""
        if not f0.shape[1]:
            return f0
        sines, carry = self.hift.stepped_sines(f0, state.carry.index_select(0, rows))
        state.carry.index_copy_(0, rows, carry)
        return self.hift.source(sines, f0, noise_from(self.noise, samples, sines.shape[1]))

    def _filter(self, step: Step, mel: Tensor, source: Tensor, until: int) -> Tensor:
        """Samples of the frames from `emitted` to `until`; mel and source end together."""
        frame, ahead = self.hift.config.frame_samples, self.hift.config.look_right
        emitted, last = step.before.emitted, step.last
        if until <= emitted:
            return source.new_zeros(len(source), 0)
        history = min(emitted, HISTORY_FRAMES)
        span = until - emitted + history + (0 if last else self.filter_right)
        mel, source = mel[..., -span:], source[:, -span * frame :]
        assert mel.shape[-1] == span == source.shape[1] // frame, f"{mel.shape}, {source.shape}"
        if last:
            wave = self.hift.filter(F.pad(mel, (0, ahead)), source)
        else:
            wave = self.hift.filter(mel, source, drop=ahead)
        return wave[:, history * frame : (history + until - emitted) * frame]
