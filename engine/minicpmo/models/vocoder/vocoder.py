"""Mel frames to 24 kHz sound in a stream, for the vocoder generation that the weights are of.

A row's sound does not depend on the others of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.gpu.graphs import GraphPool, padded_size, sizes_up_to
from engine.gpu.layers.weight_norm import fold_all
from engine.gpu.staging import uploaded
from engine.gpu.weights import empty, load_state
from engine.minicpmo.models.vocoder.causal import Causal
from engine.minicpmo.models.vocoder.config import VocoderConfig
from engine.minicpmo.models.vocoder.hift import Hift
from engine.minicpmo.models.vocoder.original import Original
from engine.minicpmo.models.vocoder.streaming import (
    DELAY_FRAMES,
    MEL_FRAMES,
    Generation,
    Plan,
    Rows,
    Shape,
    VocoderState,
    VoiceStream,
    Wave,
)

NOISE_SECONDS = 10
NOISE_SEED = 1
END_FRAMES = 6
"""What is left of most turns when they end: the flow's lookahead."""
MOST_ROWS = 32
"""Rows that run at once: more would take memory, not save time."""
RAGGED_ROWS = (1, 4)
"""Rows that batches of unlike rows are padded to, or split into: beginnings and ends of turns."""


@dataclass(frozen=True)
class VocoderSound:
    """What one call gave to one row."""

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


@dataclass(frozen=True)
class _Call:
    """A push and what it does."""

    push: Push
    stream: VoiceStream
    plan: Plan
    sample: int
    """Of the turn, where the noise begins."""


@dataclass
class Vocoder:
    """A vocoder with its noise; holds nothing of any session."""

    hift: Hift
    noise: Tensor
    """[N, harmonics + 1], indexed by the sample of the turn modulo its length."""
    body: torch.dtype = torch.float32
    """See `Hift.prepare`."""
    generation: Generation = field(init=False)

    def __post_init__(self) -> None:
        harmonics = self.hift.config.num_harmonics + 1
        assert self.noise.shape[1] == harmonics, f"noise {self.noise.shape}, {harmonics} harmonics"
        self.hift.prepare(self.body)
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
    ) -> list[VocoderSound]:
        """Advance streams of distinct slots. Order is kept.

        Equal shapes run together, `MOST_ROWS` at a time. With `graphs`, after `warm_up`, shapes
        without a graph run in the one that has room for all.
        """
        calls = [self._call(state.streams[push.slot], push) for push in pushes]
        sounds: dict[int, VocoderSound] = {}
        for shape, members in self._batches(state, calls, graphs is not None):
            batch = [calls[place] for place in members]
            wave = self._run(state, shape, batch, graphs)
            for row, (place, call) in enumerate(zip(members, batch, strict=True)):
                after = self.generation.after(call.stream, call.plan.frames, call.plan.last)
                state.streams[call.push.slot] = after
                sounds[place] = self._sound(wave, row, call, after)
        return [sounds[place] for place in range(len(pushes))]

    def warm_up(
        self,
        state: VocoderState,
        most_rows: int,
        graphs: GraphPool,
        calls: Sequence[Sequence[tuple[int, bool]]],
        most_frames: int,
    ) -> None:
        """Capture the calls (frames, last) of each of some turns for up to `most_rows` rows, and
        a shape for a few rows with room for anything of up to `most_frames`."""
        with torch.inference_mode():
            for size in sizes_up_to(min(most_rows, MOST_ROWS)):
                for turn in calls:
                    stream = VoiceStream()
                    for frames, last in turn:
                        self._warm(
                            state, Shape(size, self.generation.plan(stream, frames, last)), graphs
                        )
                        stream = self.generation.after(stream, frames, last)
            start = VoiceStream()
            middle = self.generation.after(start, 2 * MEL_FRAMES, False)
            plans = [
                self.generation.plan(stream, most_frames, last)
                for stream in (start, middle)
                for last in (False, True)
            ]
            for size in sizes_up_to(min(most_rows, RAGGED_ROWS[-1]), RAGGED_ROWS):
                self._warm(state, Shape(size, Plan.room(plans), is_ragged=True), graphs)

    def _warm(self, state: VocoderState, shape: Shape, graphs: GraphPool) -> None:
        state.warm.add(shape)
        if graphs.has_to_warm_up:
            self._run(state, shape, [], graphs)

    # ------------------------------------------------------------------ details

    def _call(self, stream: VoiceStream, push: Push) -> _Call:
        if stream.ended:
            raise ValueError("the stream has ended")
        plan = self.generation.plan(stream, push.mel.shape[1], push.last)
        return _Call(push, stream, plan, self.generation.first_sample(stream))

    def _batches(
        self, state: VocoderState, calls: Sequence[_Call], has_graphs: bool
    ) -> Iterator[tuple[Shape, list[int]]]:
        """What runs together, and in which shape."""
        groups: dict[tuple[Plan, bool], list[int]] = {}
        for place, call in enumerate(calls):
            groups.setdefault((call.plan, call.push.f0 is None), []).append(place)
        rest: list[int] = []
        room = next((s.plan for s in state.warm if s.is_ragged), None) if has_graphs else None
        alike = (
            (plan, is_free, members[first : first + MOST_ROWS])
            for (plan, is_free), members in groups.items()
            for first in range(0, len(members), MOST_ROWS)
        )
        for plan, is_free, members in alike:
            shape = Shape(padded_size(len(members)) if has_graphs else len(members), plan)
            if room is None or shape in state.warm or not (is_free and room.holds(plan)):
                yield shape, members
            else:
                rest += members
        for first in range(0, len(rest), RAGGED_ROWS[-1]):
            assert room is not None
            members = rest[first : first + RAGGED_ROWS[-1]]
            yield Shape(padded_size(len(members), RAGGED_ROWS), room, is_ragged=True), members

    def _run(
        self, state: VocoderState, shape: Shape, batch: list[_Call], graphs: GraphPool | None
    ) -> Wave:
        """Run one batch, padded to the shape by rows of nobody."""
        room = shape.plan
        lacking = shape.rows - len(batch)
        index = [
            [*(call.push.slot for call in batch), *[state.spare] * lacking],
            [*(call.sample for call in batch), *[0] * lacking],
        ]
        if shape.is_ragged:
            plans = [*(call.plan for call in batch), *[room] * lacking]
            index += map(list, zip(*(plan.numbers() for plan in plans), strict=True))
        mels = [call.push.mel for call in batch]
        if shape.is_ragged:
            mels = [F.pad(mel, (0, room.frames - mel.shape[1])) for mel in mels]
        nothing = self.noise.new_zeros(self.config.num_mels, room.frames)
        mel = torch.stack(mels + [nothing] * lacking)
        given = [call.push.f0 for call in batch if call.push.f0 is not None]
        f0 = torch.stack(given) if given else None

        def run(index: Tensor, mel: Tensor) -> Wave:
            return self.generation.run(state, Rows(room, index), mel, f0)

        numbers = torch.tensor(index)
        if graphs is None or f0 is not None:
            return run(uploaded(numbers, self.noise.device), mel)
        result = graphs.run(("vocoder", shape), run, numbers, mel)
        # The same graph may run again for other rows of the same call.
        return Wave(result.wave.clone(), result.f0.clone(), result.source.clone())

    def _sound(self, wave: Wave, row: int, call: _Call, after: VoiceStream) -> VocoderSound:
        """Cut a row's sound from a call's, with the delay as silence in a turn's first call."""
        frame, before = self.config.frame_samples, call.stream
        first = DELAY_FRAMES + before.emitted - before.begin
        if before.received == 0 and not call.plan.last:
            first = 0
        end = DELAY_FRAMES + after.emitted - before.begin
        count = call.plan.f0_count
        return VocoderSound(
            wave.wave[row, first * frame : end * frame],
            wave.f0[row, :count],
            wave.source[row, : count * frame],
        )


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
    body: torch.dtype = torch.float32,
) -> Vocoder:
    """Build the vocoder that the weights are of, in float32 but for F0 and `body`, see
    `Hift.prepare`; both weight-norm namings are read.

    Raises `ConfigError` or `CheckpointError` naming what does not fit.
    """
    folded = fold_all({name.removeprefix("generator."): value for name, value in state.items()})
    config = VocoderConfig.of_weights(folded, yaml_path)
    hift = empty(lambda: Hift(config))
    load_state(hift, folded, where=where, device=device, dtype=torch.float32)
    part = "f0_predictor."
    f0 = {n.removeprefix(part): t for n, t in folded.items() if n.startswith(part)}
    load_state(hift.f0_predictor, f0, where=where, device=device, dtype=torch.float64)
    table = make_noise(config) if noise is None else noise
    return Vocoder(hift, table.to(device=device, dtype=torch.float32), body)
