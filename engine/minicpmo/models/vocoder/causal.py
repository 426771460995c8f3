"""The vocoder's later generation as a stream: bounded history, no seams.

Phase and noise run on through the turn. The filter is given `HISTORY_FRAMES` again instead of
keeping a tail for each of its layers: more than its receptive field, so the result is the same.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from engine.minicpmo.models.vocoder.hift import F0Predictor, Hift
from engine.minicpmo.models.vocoder.ragged import Count, cut, ended, joined
from engine.minicpmo.models.vocoder.streaming import (
    DELAY_FRAMES,
    HISTORY_FRAMES,
    Plan,
    Rows,
    VocoderState,
    VoiceStream,
    Wave,
    keep,
    noise_from,
)


class Causal:
    """See the module."""

    def __init__(self, hift: Hift, noise: Tensor) -> None:
        self.hift, self.noise = hift, noise
        # The inverse STFT's last frame is incomplete until the next one arrives.
        lag = F0Predictor.RIGHT + hift.config.look_right + 1
        assert lag == DELAY_FRAMES, f"{lag} frames of lag"

    def after(self, stream: VoiceStream, frames: int, last: bool) -> VoiceStream:
        """Where a call takes the stream."""
        return stream.after(frames, last, lag=F0Predictor.RIGHT, history=HISTORY_FRAMES)

    def plan(self, stream: VoiceStream, frames: int, last: bool) -> Plan:
        """What a call does."""
        after = self.after(stream, frames, last)
        history = min(stream.sourced, F0Predictor.LEFT)
        return Plan(
            kept=stream.kept,
            frames=frames,
            sourced=stream.sourced - stream.begin,
            f0_first=stream.sourced - history - stream.begin,
            f0_history=history,
            f0_count=after.sourced - stream.sourced,
            forgotten=after.begin - stream.begin,
            last=last,
        )

    def first_sample(self, stream: VoiceStream) -> int:
        """The sample of the turn whose noise a call begins with."""
        return stream.sourced * self.hift.config.frame_samples

    def run(self, state: VocoderState, rows: Rows, mel: Tensor, f0: Tensor | None = None) -> Wave:
        """Advance rows by mel [B, C, T]; `f0` [B, T] is used in place of the predicted one."""
        kept, count, sourced = rows.count("kept"), rows.count("f0_count"), rows.count("sourced")
        mel = joined(state.mel.index_select(0, rows.slots), mel, kept)
        mel = ended(mel, kept + rows.count("frames"))
        if f0 is None:
            f0 = self._f0(rows, mel)
        assert f0.shape[1] == count.most, f"{f0.shape[1]} frames of F0, not {count.most}"
        frame = self.hift.config.frame_samples
        fresh = self._excite(state, rows, f0)
        source = joined(state.source.index_select(0, rows.slots), fresh, sourced * frame)
        wave = self._filter(rows, mel, source, sourced + count)
        if rows.keeps:
            forgotten = rows.count("forgotten")
            keep(state.mel, rows, mel, forgotten)
            keep(state.source, rows, source, forgotten * frame)
        return Wave(F.pad(wave, (DELAY_FRAMES * frame, 0)), f0, fresh)

    def _f0(self, rows: Rows, mel: Tensor) -> Tensor:
        """F0 [B, T] of the frames that have none yet."""
        history, count = rows.count("f0_history"), rows.count("f0_count")
        if not count.most:
            return mel.new_zeros(len(mel), 0)
        # After the end of a turn it sees silence.
        mel = F.pad(mel, (0, F0Predictor.RIGHT))
        size = history.most + count.most + F0Predictor.RIGHT
        f0 = self.hift.f0_predictor(cut(mel, rows.count("f0_first"), size))
        return ended(cut(f0, history, count.most), count)

    def _excite(self, state: VocoderState, rows: Rows, f0: Tensor) -> Tensor:
        """The excitation [B, N] of new frames; moves the carried phases on."""
        if not f0.shape[1]:
            return f0
        sines, carry = self.hift.stepped_sines(f0, state.carry.index_select(0, rows.slots))
        state.carry.index_copy_(0, rows.slots, carry)
        noise = noise_from(self.noise, rows.samples, sines.shape[1])
        return self.hift.source(sines, f0, noise)

    def _filter(self, rows: Rows, mel: Tensor, source: Tensor, span: Count) -> Tensor:
        """Samples [B, N] from the first kept frame on, as far as the `span` frames of the source
        allow; the last 5 are not complete unless the turn ends."""
        ahead = self.hift.config.look_right
        drop = 0 if rows.plan.last else ahead
        count = span.most - drop
        if count <= 0:
            return source.new_zeros(len(source), 0)
        mel = F.pad(mel, (0, ahead))[..., : count + ahead]
        return self.hift.filter(mel, source, drop=drop, span=span)
