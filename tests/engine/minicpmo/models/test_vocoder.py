"""Both vocoder generations: detection, streaming against one piece, batches against single rows."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from engine.gpu.graphs import GraphPool
from engine.gpu.kernels.vocoder import add, add_snake, channels_last, leaky_mean, led, snake
from engine.gpu.layers.weight_norm import NEW, OLD
from engine.gpu.weights import CheckpointError
from engine.minicpmo.models.config_reader import ConfigError
from engine.minicpmo.models.vocoder import convs as hift_convs
from engine.minicpmo.models.vocoder.config import VocoderConfig
from engine.minicpmo.models.vocoder.convs import Conv, RepeatUpsampler, TransposedUpsampler
from engine.minicpmo.models.vocoder.hift import Hift
from engine.minicpmo.models.vocoder.layers import Spectrum
from engine.minicpmo.models.vocoder.ragged import Count
from engine.minicpmo.models.vocoder.vocoder import Push, Vocoder, load_vocoder, make_noise
from tests.speech_assets import random_hift, released_state
from tests.speech_configs import branching_vocoder, shallow_vocoder, tiny_vocoder


def make(
    causal: bool,
    sizes: Callable[..., VocoderConfig] = tiny_vocoder,
    body: torch.dtype = torch.float32,
) -> Vocoder:
    torch.set_num_threads(1)
    config = sizes(causal=causal)
    return Vocoder(random_hift(config), make_noise(config), body)


F16, F32 = torch.float16, torch.float32


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
def test_convolutions_in_float16_sound_like_those_in_float32(causal: bool) -> None:
    frames = mel(60)
    wide, narrow = (play(make(causal, body=b), frames, [30, 30]) for b in (F32, F16))
    assert narrow.dtype is F32 and len(narrow) == len(wide)
    error = float((narrow - wide).norm() / wide.norm())
    assert 0 < error < 0.01, error


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


@pytest.mark.parametrize("most", [2, 32])
@pytest.mark.parametrize("causal", [True, False])
def test_rows_of_a_batch_equal_the_same_rows_alone(
    monkeypatch: pytest.MonkeyPatch, causal: bool, most: int
) -> None:
    monkeypatch.setattr("engine.minicpmo.models.vocoder.vocoder.MOST_ROWS", most)
    vocoder = make(causal)
    state, alone = vocoder.new_state(5), vocoder.new_state(5)
    for turn in range(3):
        rows = [row for row in range(5) if (row + turn) % 3]
        counts = {row: 50 if row % 2 else 10 + 2 * ((row + turn) % 4) for row in rows}
        given = {row: mel(counts[row], 10 * turn + row) for row in rows}
        last = {row: turn == 2 and row % 2 == 0 for row in rows}
        together = vocoder.push(state, [Push(r, given[r], last[r]) for r in rows])
        for row, sound in zip(rows, together, strict=True):
            [single] = vocoder.push(alone, [Push(row, given[row], last[row])])
            assert torch.allclose(sound.f0, single.f0, atol=5e-5)
            # The last bits of F0 are summed up in the phase.
            assert torch.allclose(sound.wave, single.wave, atol=1e-5), (turn, row)


@pytest.mark.parametrize("causal", [True, False])
def test_graphs_shapes_change_no_row_and_touch_no_other_slot(causal: bool) -> None:
    vocoder, graphs = make(causal, shallow_vocoder), GraphPool("cpu")
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
    vocoder, graphs = make(causal, branching_vocoder), GraphPool("cpu")
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
        hift = random_hift(tiny_vocoder(causal=causal))
        new, old = (load_vocoder(released_state(hift, names)) for names in (NEW, OLD))
        assert new.config == tiny_vocoder(causal=causal)
        hift.prepare()
        older, made = old.hift.state_dict(), hift.state_dict()
        for name, tensor in new.hift.state_dict().items():
            assert torch.equal(tensor, older[name])
            assert torch.allclose(tensor.float(), made[name].float(), atol=1e-6), name
        for vocoder in (new, old):
            kernels = zip(vocoder.hift.f0_predictor.kernels, hift.f0_predictor.kernels, strict=True)
            for (kernel, bias), (wanted, wanted_bias) in kernels:
                assert torch.allclose(kernel, wanted, atol=1e-6)
                assert torch.equal(bias, wanted_bias)


def test_a_generator_prefix_is_dropped_and_what_does_not_fit_is_named() -> None:
    state = released_state(random_hift(tiny_vocoder()))
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
            hift = Hift(VocoderConfig(causal=causal))
        gains = sum(
            tensor.shape[0]
            for name, tensor in hift.state_dict().items()
            if name.endswith("weight") and tensor.dim() == 3 and "source_downs" not in name
        )
        count = sum(p.numel() for p in hift.parameters()) + gains
        assert round(count / 1e6, 2) == millions


def laid_out_for_cuda(weight: Tensor) -> Tensor:
    return channels_last(weight).unsqueeze(2)


@pytest.mark.parametrize(("kernel", "rate"), [(16, 8), (11, 5), (7, 3)])
@pytest.mark.parametrize("on_cuda", [False, True], ids=["as on a CPU", "as on CUDA"])
@torch.inference_mode()
def test_upsampling_convolutions_are_what_they_stand_for(
    monkeypatch: pytest.MonkeyPatch, kernel: int, rate: int, on_cuda: bool
) -> None:
    if on_cuda:
        monkeypatch.setattr(hift_convs, "laid_out", laid_out_for_cuda)
    torch.manual_seed(1)
    x = torch.randn(2, 6, 9)
    turned, repeating = TransposedUpsampler(6, 4, kernel, rate), RepeatUpsampler(6, 4, kernel, rate)
    wanted = F.conv_transpose1d(x, turned.weight, None, rate, (kernel - rate) // 2)
    repeated = F.pad(x.repeat_interleave(rate, 2), (kernel - 1, 0))
    looking_back = F.conv1d(repeated, repeating.weight)
    turned.prepare()
    repeating.prepare()
    assert torch.allclose(turned(led(x, turned.lead)), wanted, atol=1e-5)
    assert torch.allclose(repeating(led(x, repeating.lead)), looking_back, atol=1e-5)


@torch.inference_mode()
def test_steps_between_convolutions_are_what_they_stand_for() -> None:
    torch.manual_seed(1)
    x, y, bias, alpha = torch.randn(2, 3, 9), torch.randn(2, 3, 9), torch.randn(3), torch.rand(3)
    own = torch.tensor([9, 4])
    there = torch.arange(9) < own[:, None, None]

    def snaked(x: Tensor) -> Tensor:
        return x + (alpha[:, None] * x).sin() ** 2 / (alpha[:, None] + 1e-9)

    one, total = x + bias[:, None], x + y + bias[:, None]
    assert torch.allclose(snake(x, bias, alpha), snaked(one), atol=1e-6)
    led_by_two = F.pad(snaked(one * there), (2, 0))
    assert torch.allclose(snake(x, bias, alpha, own, 2), led_by_two, atol=1e-6)
    for ours, wanted in zip(
        add_snake(x, y, bias, alpha, own), (total * there, snaked(total * there)), strict=True
    ):
        assert torch.allclose(ours, wanted, atol=1e-6)
    mirrored = x + F.pad(y[..., :8], (1, 0), mode="reflect") + bias[:, None]
    assert torch.allclose(add(x, y[..., :8], bias, mirrored=True), mirrored, atol=1e-6)
    mean = F.pad(F.leaky_relu((x + y + one) / 3, 0.1), (2, 0))
    assert torch.allclose(leaky_mean([x, y, one], 0.1, 2), mean, atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 3, 9), (1, 4, 9), (2, 1, 9), (2, 4, 1), (1, 1, 1)])
def test_channels_last_means_the_strides_and_not_what_sizes_of_one_allow(
    shape: tuple[int, int, int],
) -> None:
    x = torch.randn(shape)
    ours = channels_last(x)
    assert torch.equal(ours, x) and channels_last(ours) is ours
    assert ours.stride() == (shape[1] * shape[2], 1, shape[1])
    longer = led(ours, 2)
    assert longer.shape[2] == shape[2] + 2 and torch.equal(longer[..., 2:], x)


@pytest.mark.parametrize("causal", [True, False])
@torch.inference_mode()
def test_values_that_lie_channels_last_stay_so_and_sound_the_same(
    monkeypatch: pytest.MonkeyPatch, causal: bool
) -> None:
    """The convolutions as on CUDA, which copy nothing but the mel frames."""
    config = tiny_vocoder(causal=causal)
    usual = random_hift(config)
    usual.prepare()
    monkeypatch.setattr(hift_convs, "laid_out", laid_out_for_cuda)
    turned = random_hift(config)
    turned.prepare()
    for conv in turned.modules():
        if isinstance(conv, Conv | hift_convs.Upsampler):
            _, inputs, _, size = conv.weight.shape
            assert conv.weight.stride() == (size * inputs, 1, size * inputs, inputs)
    copied: list[int] = []

    def counting(x: Tensor) -> Tensor:
        last = channels_last(x)
        if last is not x:
            copied.append(x.shape[1])
        return last

    monkeypatch.setattr(hift_convs, "channels_last", counting)
    frames = torch.stack([mel(20 + causal * config.look_right, seed) for seed in range(2)])
    source = 0.1 * torch.randn(2, 20 * config.frame_samples)
    assert torch.allclose(turned.filter(frames, source), usual.filter(frames, source), atol=1e-5)
    assert copied == [config.num_mels]
