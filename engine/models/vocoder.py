"""Mel frames to 24 kHz sound in a stream, for the vocoder generation that the weights are of.

Rows whose streams are alike run as one batch; a row's sound does not depend on the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from engine.graphs import GraphPool, padded_size, sizes_up_to
from engine.layers.weight_norm import fold_all
from engine.models.hift import Hift
from engine.models.vocoder_causal import Causal
from engine.models.vocoder_config import VocoderConfig
from engine.models.vocoder_original import Original
from engine.models.vocoder_state import VocoderState, VoiceStream
from engine.models.vocoder_step import Generation, Step, Wave
from engine.weights import empty, load_state

NOISE_SECONDS = 10
NOISE_SEED = 1
END_FRAMES = 6
"""What is left of most turns when they end: the flow's lookahead."""


@dataclass(frozen=True)
class Sound:
    """What one call gave to one row. Only `wave` outlives the next call that runs by a graph."""

    wave: Tensor
    """[N] in [-1, 1]"""
    f0: Tensor
    """Hz of the frames whose excitation is new [T]."""
    source: Tensor
    """The excitation behind `f0`, or of the whole call where that is one piece [N]."""


@dataclass(frozen=True)
class Push:
    """Frames for one slot's stream; `last` ends it. `f0` replaces the predicted one in tests."""

    slot: int
    mel: Tensor
    """[C, T]"""
    last: bool = False
    f0: Tensor | None = None


@dataclass
class Vocoder:
    """A vocoder with its noise; holds nothing of any session."""

    hift: Hift
    noise: Tensor
    """[N, harmonics + 1], indexed by the sample of the turn modulo its length."""
    generation: Generation = field(init=False)

    def __post_init__(self) -> None:
        harmonics = self.hift.config.num_harmonics + 1
        assert self.noise.shape[1] == harmonics, f"noise {self.noise.shape}, {harmonics} harmonics"
        causal = self.hift.config.causal
        self.generation = (
            Causal(self.hift, self.noise) if causal else Original(self.hift, self.noise)
        )

    @property
    def config(self) -> VocoderConfig:
        return self.hift.config

    def new_state(self, slots: int) -> VocoderState:
        """The streams of `slots` slots, each at the beginning of a turn."""
        return VocoderState(self.config, slots, self.noise)

    @torch.inference_mode()
    def push(
        self, state: VocoderState, pushes: Sequence[Push], graphs: GraphPool | None = None
    ) -> list[Sound]:
        """Advance streams of distinct slots; equal shapes run together. Order is kept.

        Shapes that `warm_up` has seen run by their graphs.
        """
        groups: dict[tuple[object, ...], list[int]] = {}
        for index, push in enumerate(pushes):
            stream = state.streams[push.slot]
            if stream.ended:
                raise ValueError("the stream has ended")
            key = (stream.key(), push.mel.shape[1], push.last, push.f0 is None)
            groups.setdefault(key, []).append(index)
        sounds: dict[int, Sound] = {}
        for members in groups.values():
            group = [pushes[i] for i in members]
            streams = [state.streams[push.slot] for push in group]
            given = [push.f0 for push in group if push.f0 is not None]
            first = streams[0].typical()
            f0 = torch.stack(given) if given else None
            step = Step(first, group[0].mel.shape[1], group[0].last, f0)
            rows = [
                [push.slot for push in group],
                [self.generation.first_sample(s) for s in streams],
            ]
            wave = self._group(state, step, rows, [push.mel for push in group], graphs)
            after = self.generation.after(step)
            for place, (index, stream) in enumerate(zip(members, streams, strict=True)):
                stream.advance(first, after)
                sounds[index] = Sound(wave.wave[place], wave.f0[place], wave.source[place])
        return [sounds[i] for i in range(len(pushes))]

    def warm_up(
        self,
        state: VocoderState,
        most_rows: int,
        graphs: GraphPool,
        calls: Sequence[Sequence[tuple[int, bool]]],
    ) -> None:
        """Run the calls (frames, last) of each of some turns for up to `most_rows` rows."""
        with torch.inference_mode():
            for size in sizes_up_to(most_rows):
                for turn in calls:
                    stream = VoiceStream()
                    for frames, last in turn:
                        step = Step(stream.typical(), frames, last)
                        state.warm.add((size, *step.key()))
                        mel = self.noise.new_zeros(self.config.num_mels, frames)
                        rows = [[state.spare] * size, [0] * size]
                        self._group(state, step, rows, [mel] * size, graphs)
                        stream.advance(step.before, self.generation.after(step))

    def _group(
        self,
        state: VocoderState,
        step: Step,
        rows: list[list[int]],
        mels: list[Tensor],
        graphs: GraphPool | None,
    ) -> Wave:
        """Run one batch; `rows`: the slots and their first samples."""
        device, lacking = self.noise.device, padded_size(len(mels)) - len(mels)
        key = (len(mels) + lacking, *step.key())
        if graphs is None or step.f0 is not None or key not in state.warm:
            index = torch.tensor(rows).to(device, non_blocking=True)
            return self.generation.run(state, step, index[0], index[1], torch.stack(mels))

        def run(index: Tensor, mel: Tensor) -> Wave:
            return self.generation.run(state, step, index[0], index[1], mel)

        padding = [[state.spare] * lacking, [0] * lacking]
        index = torch.tensor([own + more for own, more in zip(rows, padding, strict=True)])
        mel = torch.stack(mels + [torch.zeros_like(mels[0])] * lacking)
        result = graphs.run(("vocoder", *key), run, index, mel)
        return Wave(result.wave.clone(), result.f0, result.source)


def make_noise(config: VocoderConfig) -> Tensor:
    """The noise table: uniform in [0, 1) for the causal generation, normal for the original."""
    generator = torch.Generator().manual_seed(NOISE_SEED)
    shape = (NOISE_SECONDS * config.sampling_rate, config.num_harmonics + 1)
    if config.causal:
        return torch.rand(shape, generator=generator)
    return torch.randn(shape, generator=generator)


def load_vocoder(
    state: Mapping[str, Tensor],
    *,
    yaml_path: Path | None = None,
    device: torch.device | str = "cpu",
    noise: Tensor | None = None,
    where: str = "hift.pt",
) -> Vocoder:
    """Build the vocoder that the weights are of, in float32; both weight-norm namings are read.

    Raises `ConfigError` or `CheckpointError` naming what does not fit.
    """
    folded = fold_all({name.removeprefix("generator."): value for name, value in state.items()})
    config = VocoderConfig.of_weights(folded, yaml_path)
    hift = empty(lambda: Hift(config))
    load_state(hift, folded, where=where, device=device, dtype=torch.float32)
    if config.causal:
        part = "f0_predictor."
        f0 = {n.removeprefix(part): t for n, t in folded.items() if n.startswith(part)}
        load_state(hift.f0_predictor, f0, where=where, device=device, dtype=torch.float64)
    table = make_noise(config) if noise is None else noise
    return Vocoder(hift, table.to(device=device, dtype=torch.float32))
