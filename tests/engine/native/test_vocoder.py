"""Both vocoder generations: detection, streaming against one piece, batches against single rows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from engine.graphs import GraphPool
from engine.layers.weight_norm import NEW, OLD
from engine.models.config import ConfigError
from engine.models.hift import Hift
from engine.models.hift_layers import Spectrum
from engine.models.ragged import Count
from engine.models.vocoder import Push, Vocoder, load_vocoder, make_noise
from engine.models.vocoder_config import VocoderConfig
from engine.weights import CheckpointError
from tests.speech_assets import random_hift, released_state


def make(causal: bool) -> Vocoder:
    torch.set_num_threads(1)
    config = VocoderConfig.tiny(causal=causal)
    return Vocoder(random_hift(config), make_noise(config))


def mel(frames: int, seed: int = 0) -> Tensor:
    return torch.randn(80, frames, generator=torch.Generator().manual_seed(seed)) - 3


def play(vocoder: Vocoder, frames: Tensor, cuts: list[int]) -> Tensor:
    state, waves, start = vocoder.new_state(1), [], 0
    for index, count in enumerate(cuts):
        last = index == len(cuts) - 1
        [sound] = vocoder.push(state, [Push(0, frames[:, start : start + count], last)])
        waves.append(sound.wave)
        start += count
    assert start == frames.shape[1]
    return torch.cat(waves)


def test_the_causal_stream_is_the_same_however_it_is_cut() -> None:
    vocoder, frames = make(True), mel(150)
    whole = play(vocoder, frames, [150])
    for cuts in ([50, 50, 50], [16] * 9 + [6], [2, 2, 10, 36, 100], [10, 60, 80]):
        streamed = play(vocoder, frames, cuts)
        assert torch.allclose(streamed[3840:], whole, atol=1e-5), cuts
        assert not streamed[:3840].any()


@pytest.mark.parametrize("causal", [True, False])
def test_counts_of_samples_are_those_of_the_schedule(causal: bool) -> None:
    vocoder = make(causal)
    state = vocoder.new_state(1)
    lengths = []
    for count, last in ((50, False), (50, False), (24, False), (6, True)):
        lengths += [len(vocoder.push(state, [Push(0, mel(count), last)])[0].wave)]
    assert lengths == [24_000, 24_000, 11_520, 6_720]
    with pytest.raises(ValueError, match="ended"):
        vocoder.push(state, [Push(0, mel(6))])


@pytest.mark.parametrize("causal", [True, False])
def test_rows_of_a_batch_equal_the_same_rows_alone(causal: bool) -> None:
    vocoder = make(causal)
    state, alone = vocoder.new_state(8), vocoder.new_state(8)
    for turn in range(4):
        rows = [row for row in range(8) if (row + turn) % 3]
        counts = {row: 50 if row % 2 else 10 + 2 * ((row + turn) % 4) for row in rows}
        given = {row: mel(counts[row], 10 * turn + row) for row in rows}
        last = {row: turn == 3 and row % 2 == 0 for row in rows}
        together = vocoder.push(state, [Push(r, given[r], last[r]) for r in rows])
        for row, sound in zip(rows, together, strict=True):
            [single] = vocoder.push(alone, [Push(row, given[row], last[row])])
            assert torch.allclose(sound.f0, single.f0, atol=5e-5)
            # The last bits of F0 are summed up in the phase.
            assert torch.allclose(sound.wave, single.wave, atol=1e-5), (turn, row)


@pytest.mark.parametrize("causal", [True, False])
def test_graphs_shapes_change_no_row_and_touch_no_other_slot(causal: bool) -> None:
    vocoder, graphs = make(causal), GraphPool("cpu")
    plain, padded = vocoder.new_state(4), vocoder.new_state(4)
    turns = [[(50, False), (50, False), (6, True)], [(18, False)]]
    vocoder.warm_up(padded, 4, graphs, turns, most_frames=54)
    vocoder.push(padded, [Push(1, mel(50))], graphs)
    idle = [tensor[1].clone() for tensor in padded.tensors]
    for turn, (frames, last) in enumerate([(50, False), (50, False), (50, False), (6, True)]):
        pushes = [Push(slot, mel(frames, 9 * turn + slot), last) for slot in (3, 0, 2)]
        one, two = vocoder.push(plain, pushes), vocoder.push(padded, pushes, graphs)
        for a, b in zip(one, two, strict=True):
            assert torch.allclose(a.wave, b.wave, atol=1e-5)
    for before, now in zip(idle, padded.tensors, strict=True):
        assert torch.equal(before, now[1])


@pytest.mark.parametrize("causal", [True, False])
def test_unlike_rows_share_a_shape_and_sound_as_alone(causal: bool) -> None:
    """Beginnings, middles and ends of many lengths, in one shape with room for all."""
    vocoder, graphs = make(causal), GraphPool("cpu")
    plain, shared = vocoder.new_state(5), vocoder.new_state(5)
    vocoder.warm_up(shared, 5, graphs, [], most_frames=54)
    turns = {
        3: [(10, False), (2, False), (50, False), (6, True)],
        0: [(18, False), (32, False), (24, False), (14, True)],
        4: [(54, False), (54, True), (8, True), (6, True)],
        2: [(6, True), (38, False), (48, True), (12, False)],
        1: [(28, False), (12, False), (2, False), (54, True)],
    }
    for place in range(4):
        pushes = [
            Push(slot, mel(calls[place][0], 10 * place + slot), calls[place][1])
            for slot, calls in turns.items()
        ]
        ours = vocoder.push(shared, pushes, graphs)
        for push, sound in zip(pushes, ours, strict=True):
            [wanted] = vocoder.push(plain, [push])
            assert sound.f0.shape == wanted.f0.shape and sound.wave.shape == wanted.wave.shape
            assert torch.allclose(sound.f0, wanted.f0, atol=5e-5)
            # The last bits of F0 are summed up in the phase.
            for one, two in ((sound.source, wanted.source), (sound.wave, wanted.wave)):
                assert torch.allclose(one, two, atol=1e-5), (place, push.slot)
            if push.last:
                plain.open(push.slot)
                shared.open(push.slot)


def test_f0_is_the_same_whatever_is_in_the_batch_and_whatever_convolutions_round() -> None:
    """It is float64 inside: then float32 has one value for it, but for rare halfway cases."""
    for causal in (True, False):
        predictor = make(causal).hift.f0_predictor
        frames = torch.stack([mel(58, seed) for seed in range(7)])
        together = predictor(frames)
        assert together.dtype == torch.float32
        alone = torch.cat([predictor(row[None]) for row in frames])
        assert (together == alone).float().mean() > 0.999
        widest = predictor(frames.double())
        assert torch.equal(together, widest.float())


def test_the_small_transforms_are_those_of_torch() -> None:
    spectrum = Spectrum(16, 4)
    x = torch.randn(2, 400, generator=torch.Generator().manual_seed(1))
    window = torch.hann_window(16)
    wanted = torch.stft(x, 16, 4, 16, window, return_complex=True)
    ours = spectrum.forward(x, Count(400))
    assert torch.allclose(ours, torch.cat([wanted.real, wanted.imag], dim=1), atol=1e-5)
    magnitude, phase = wanted.abs(), torch.randn(wanted.shape)
    back = torch.istft(torch.polar(magnitude, phase), 16, 4, 16, window)
    assert torch.allclose(spectrum.inverse(magnitude, phase, Count(400)), back, atol=1e-5)


def test_the_original_fades_from_one_call_to_the_next() -> None:
    vocoder, frames = make(False), mel(66)
    state = vocoder.new_state(1)
    first = vocoder.push(state, [Push(0, frames[:, :50])])[0].wave
    tail = state.speech[0].clone()
    second = vocoder.push(state, [Push(0, frames[:, 50:], True)])[0].wave
    assert len(first) == 24_000 and len(second) == 24 * 480
    fade = torch.hamming_window(7680, periodic=False)
    # Where the fade begins only the old sound is heard.
    assert abs(float(second[0] - tail[0] * fade[3840])) < 0.1


def test_the_generation_is_told_by_a_kernel_and_both_namings_are_read() -> None:
    for causal in (True, False):
        hift = random_hift(VocoderConfig.tiny(causal=causal))
        new, old = (load_vocoder(released_state(hift, names)) for names in (NEW, OLD))
        assert new.config == VocoderConfig.tiny(causal=causal)
        for name, tensor in new.hift.state_dict().items():
            assert torch.equal(tensor, old.hift.state_dict()[name])
            assert torch.allclose(tensor.float(), hift.state_dict()[name].float(), atol=1e-6), name
        hift.f0_predictor.prepare()
        for vocoder in (new, old):
            kernels = zip(vocoder.hift.f0_predictor.kernels, hift.f0_predictor.kernels, strict=True)
            for (kernel, bias), (wanted, wanted_bias) in kernels:
                assert torch.allclose(kernel, wanted, atol=1e-6)
                assert torch.equal(bias, wanted_bias)


def test_a_generator_prefix_is_dropped_and_what_does_not_fit_is_named() -> None:
    state = released_state(random_hift(VocoderConfig.tiny()))
    load_vocoder({f"generator.{name}": tensor for name, tensor in state.items()})
    bad = dict(state)
    del bad["conv_post.bias"]
    with pytest.raises(CheckpointError, match="conv_post.bias"):
        load_vocoder(bad)
    bad = state | {"conv_pre.parametrizations.weight.original1": torch.randn(16, 80, 3)}
    with pytest.raises(ConfigError, match="kernel 3"):
        load_vocoder(bad)


def test_the_full_sizes_have_the_released_number_of_weights() -> None:
    for causal, millions in ((False, 20.82), (True, 20.78)):
        with torch.device("meta"):
            hift = Hift(VocoderConfig.full(causal=causal))
        gains = sum(
            tensor.shape[0]
            for name, tensor in hift.state_dict().items()
            if name.endswith("weight") and tensor.dim() == 3 and "source_downs" not in name
        )
        count = sum(p.numel() for p in hift.parameters()) + gains
        assert round(count / 1e6, 2) == millions
