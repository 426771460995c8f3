"""Speech and whole sounds on CUDA: F0 to its last digit, every shape by a graph, no waiting.

Needs a CUDA device; of other packages only what the native engine itself needs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from engine.dsp.logmel import LogMel
from engine.gpu.graphs import GraphPool
from engine.gpu.kernels.vocoder import add, add_snake, channels_last, leaky_mean, snake
from engine.gpu.weights import empty
from engine.minicpmo.models.audio.whisper import WhisperEncoder
from engine.minicpmo.models.vocoder.config import VocoderConfig
from engine.minicpmo.models.vocoder.convs import Conv, Upsampler
from engine.minicpmo.models.vocoder.hift import Hift
from engine.minicpmo.models.vocoder.ragged import Count
from engine.minicpmo.models.vocoder.vocoder import Push, Vocoder, make_noise
from engine.minicpmo.speech.code2wav import Code2Wav, Codes
from tests.engine.gpu.cuda_rig import cuda_only, skip_without_kernels, without_kernels
from tests.engine.minicpmo.models import test_tts, test_whisper
from tests.exactness import exact
from tests.random_weights import random_weights
from tests.speech_assets import random_hift, random_token2wav, random_voice
from tests.speech_configs import TINY_FLOW, tiny_vocoder

pytestmark = cuda_only()

GENERATIONS = pytest.mark.parametrize("causal", [True, False], ids=["causal", "original"])
TF32_WAVE = 5e-3
"""Ten times what rounding the filter's convolutions to TF32 changes, relative RMS."""


def vocoder(causal: bool, device: str = "cuda") -> Vocoder:
    """At full size, the same weights on every device."""
    config = VocoderConfig(causal=causal)
    hift = random_hift(config).to(device)
    return Vocoder(hift, make_noise(config).to(device))


def mel(frames: int, seed: int = 0) -> Tensor:
    return torch.randn(80, frames, generator=torch.Generator().manual_seed(seed)) - 3


def relative(ours: Tensor, wanted: Tensor) -> float:
    apart = ours.float().cpu() - wanted.float().cpu()
    return float(apart.norm() / wanted.float().cpu().norm())


@contextmanager
def no_waiting() -> Iterator[None]:
    """Raises where the host would wait for the device."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def kernels() -> None:
    skip_without_kernels()


def steps(x: Tensor, y: Tensor, own: Tensor | None, lead: int) -> list[Tensor]:
    """What each step between convolutions makes of x and y [B, C, T], seeded by the shape."""
    channels, length = x.shape[1:]
    generator = torch.Generator().manual_seed(channels)
    alpha = (0.1 + torch.rand(channels, generator=generator)).cuda()
    bias = torch.randn(channels, generator=generator).cuda()
    found = [
        snake(x, None, alpha, own, lead),
        snake(x, bias, alpha, own, lead),
        *add_snake(x, y, bias, alpha, own, lead),
        *add_snake(x, None, bias, alpha, own, lead),
        add(x, y, bias, own),
        leaky_mean([x, y, x + y], 0.1, lead),
        leaky_mean([x, y, x + y], 0.1, lead, torch.float32),
    ]
    if length > 2:
        found.append(add(x, y[..., : length - 1], bias, own, mirrored=True))
    return found


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("lead", [0, 1, 50])
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("length", [1, 2, 3, 401, 6001])
@pytest.mark.parametrize("channels", [2, 4, 20, 64, 256])
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-5), (torch.float16, 2e-3)])
def test_kernels_between_convolutions(
    monkeypatch: pytest.MonkeyPatch,
    channels: int,
    length: int,
    ragged: bool,
    lead: int,
    dtype: torch.dtype,
    error: float,
) -> None:
    """Two channels are left to torch."""
    generator = torch.Generator().manual_seed(length)
    both = 3 * torch.randn(2, 3, channels, length, generator=generator)
    x, y = (channels_last(part.cuda().to(dtype)) for part in both)
    own = torch.tensor([length, length // 2, 0]).cuda() if ragged else None
    ours = steps(x, y, own, lead)
    without_kernels(monkeypatch)
    for one, plain in zip(ours, steps(x, y, own, lead), strict=True):
        torch.testing.assert_close(one, plain, rtol=error, atol=error)
        assert channels % 4 or channels_last(one) is one


@pytest.mark.usefixtures("kernels")
def test_other_layouts_and_places_are_taken_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Channels first, a part of a longer tensor, and values that no four of begin a line."""
    x = torch.randn(3, 8, 41, device="cuda")
    alike = channels_last(x)
    longer = torch.randn(3, 50, 8, device="cuda").transpose(1, 2)
    longer[..., :41] = x
    shifted = torch.randn(3 * 8 * 41 + 1, device="cuda")[1:].view(3, 41, 8).transpose(1, 2)
    shifted.copy_(x)
    without_kernels(monkeypatch)
    wanted = steps(alike, alike, None, 2)
    monkeypatch.undo()
    for given in (x, longer[..., :41], shifted):
        for one, plain in zip(steps(given, given, None, 2), wanted, strict=True):
            torch.testing.assert_close(one, plain, rtol=1e-5, atol=1e-5)


def filters(causal: bool) -> tuple[Hift, Hift]:
    """Middling networks with the same weights on CUDA and on the CPU, prepared."""
    config = VocoderConfig(causal, base_channels=64, f0_channels=12)
    pair = random_hift(config).cuda(), random_hift(config)
    for hift in pair:
        hift.prepare()
    return pair


@GENERATIONS
@pytest.mark.parametrize("frames", [[20, 20, 20], [20, 13, 7]], ids=["alike", "ragged"])
@torch.inference_mode()
def test_the_filter_is_that_of_a_cpu(causal: bool, frames: list[int]) -> None:
    ours, theirs = filters(causal)
    most, ahead = max(frames), ours.config.look_right if causal else 0
    mels = torch.stack([mel(most + ahead, seed) for seed in range(3)])
    source = 0.1 * torch.randn(3, most * ours.config.frame_samples)
    own = None if len(set(frames)) == 1 else torch.tensor(frames)
    if own is not None:
        mels = mels.masked_fill(torch.arange(most + ahead) >= own[:, None, None], 0)
    wanted = theirs.filter(mels, source, span=Count(most, own))
    on_cuda = Count(most, None if own is None else own.cuda())
    with exact():
        wave = ours.filter(mels.cuda(), source.cuda(), span=on_cuda)
    for one, other, count in zip(wave, wanted, frames, strict=True):
        count *= ours.config.frame_samples
        assert relative(one[:count], other[:count]) < 1e-4


@GENERATIONS
@torch.inference_mode()
def test_cudnn_turns_few_values_around(causal: bool) -> None:
    """For a few shapes it takes kernels that want channels first, and copies by itself."""
    model = vocoder(causal).hift
    mels = torch.randn(16, 80, 50 + 4 * causal, device="cuda")
    source = 0.1 * torch.randn(16, 50 * 480, device="cuda")
    model.filter(mels, source)
    convolutions = sum(isinstance(part, Conv | Upsampler) for part in model.modules())
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as seen:
        model.filter(mels, source)
        torch.cuda.synchronize()
    turns = [e for e in seen.key_averages() if "nchwToNhwc" in e.key or "nhwcToNchw" in e.key]
    assert sum(event.count for event in turns) < 0.2 * convolutions, turns


@GENERATIONS
def test_f0_and_wave_are_those_of_a_cpu(monkeypatch: pytest.MonkeyPatch, causal: bool) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    ours, theirs = vocoder(causal), vocoder(causal, "cpu")
    mine, other = ours.new_state(1), theirs.new_state(1)
    for place in range(3):
        frames = mel(50, place)
        with torch.inference_mode():
            [sound] = ours.push(mine, [Push(0, frames.cuda())])
            [wanted] = theirs.push(other, [Push(0, frames)])
        torch.testing.assert_close(sound.f0.cpu(), wanted.f0, rtol=2e-7, atol=0)
        assert relative(sound.wave, wanted.wave) < TF32_WAVE


@GENERATIONS
def test_a_row_alone_has_the_f0_and_the_wave_that_it_has_in_a_batch(
    monkeypatch: pytest.MonkeyPatch, causal: bool
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    model = vocoder(causal)
    together, alone = model.new_state(32), model.new_state(1)
    for place in range(3):
        pushes = [Push(slot, mel(50, 40 * place + slot).cuda()) for slot in range(32)]
        batch = model.push(together, pushes)
        [single] = model.push(alone, [pushes[0]])
        torch.testing.assert_close(batch[0].f0, single.f0, rtol=2e-7, atol=0)
        assert relative(batch[0].wave, single.wave) < TF32_WAVE


@GENERATIONS
def test_unlike_rows_by_graphs_sound_as_alone_without(causal: bool) -> None:
    config = tiny_vocoder(causal=causal)
    model = Vocoder(random_hift(config, device="cuda"), make_noise(config).cuda())
    pool = GraphPool("cuda")
    graphed, plain = model.new_state(6), model.new_state(6)
    with exact():
        with pool.capturing():
            usual = [[(50, False), (50, False), (6, True)]]
            model.warm_up(graphed, 6, pool, usual, most_frames=54)
        for place in range(4):
            pushes = [
                Push(slot, mel(10 + 8 * slot, 10 * place + slot).cuda(), place == 3)
                for slot in range(5)
            ]
            pushes.append(Push(5, mel(6 if place == 3 else 50, place).cuda(), place == 3))
            for push, sound in zip(pushes, model.push(graphed, pushes, pool), strict=True):
                [wanted] = model.push(plain, [push])
                assert sound.wave.shape == wanted.wave.shape
                assert relative(sound.wave, wanted.wave) < 1e-3, (place, push.slot)
    assert pool.misses == 0 and len(pool) > 0


@GENERATIONS
def test_more_rows_than_run_at_once_take_the_same_graphs_again(
    monkeypatch: pytest.MonkeyPatch, causal: bool
) -> None:
    monkeypatch.setattr("engine.minicpmo.models.vocoder.vocoder.MOST_ROWS", 2)
    config = tiny_vocoder(causal=causal)
    model = Vocoder(random_hift(config, device="cuda"), make_noise(config).cuda())
    pool = GraphPool("cuda")
    graphed, plain = model.new_state(5), model.new_state(5)
    with exact():
        with pool.capturing():
            model.warm_up(graphed, 5, pool, [[(50, False), (50, False)]], most_frames=54)
        for place in range(2):
            pushes = [Push(slot, mel(50, 10 * place + slot).cuda()) for slot in range(5)]
            ours, theirs = model.push(graphed, pushes, pool), model.push(plain, pushes)
            for mine, other in zip(ours, theirs, strict=True):
                assert relative(mine.wave, other.wave) < 1e-3
                assert relative(mine.f0, other.f0) < 1e-3
                assert relative(mine.source, other.source) < 1e-3
    assert pool.misses == 0


@GENERATIONS
def test_turns_of_any_length_miss_no_graph(causal: bool) -> None:
    model = random_token2wav(
        TINY_FLOW,
        tiny_vocoder(causal=causal),
        steps=2,
        device="cuda",
        dtype=torch.float16,
    )
    pool = GraphPool("cuda", urgent=True)
    streams = Code2Wav(model, 3, 160, graphs=pool, first_codes=9)
    for slot in range(3):
        streams.set_voice(slot, model.base(random_voice(1.5)))
    streams.warm_up(3, lambda line: None)
    for count in range(0, 61, 3):
        batch = [Codes(slot, [1 + slot] * max(count - slot, 0), True) for slot in range(3)]
        units = [Codes(slot, own.codes[:25], True) for slot, own in enumerate(batch)]
        for said, sounds in ((batch, streams.group(batch)), (units, streams.unit(units))):
            for item, sound in zip(said, sounds, strict=True):
                # Of more than one window the first begins with the vocoder's delay.
                assert len(sound) - 960 * (3 + len(item.codes)) in (0, 3840)
                assert sound.isfinite().all()
    assert pool.misses == 0


@torch.inference_mode()
def test_conditions_whole_sounds_and_missing_graphs_are_not_waited_for() -> None:
    decoder = test_tts.make_decoder().cuda()
    ids, hidden = torch.tensor([3, 5]), torch.randn(2, test_tts.CONFIG.llm_dim, device="cuda")
    encoder = empty(lambda: WhisperEncoder(test_whisper.CONFIG))
    random_weights(encoder, 1, device="cuda", dtype=torch.float32)
    mels = LogMel(device="cuda")
    sounds = [0.1 * torch.randn(count) for count in (16_000, 9_000)]
    pool = GraphPool("cuda")

    def work() -> None:
        decoder.condition(ids, hidden, normalize=True, text_ends=True)
        features, counts = mels.whole(sounds)
        encoder.encode(features, counts, in_blocks=True)
        encoder.encode(features, counts, in_blocks=False)
        pool.run("unknown", lambda x: x + 1, torch.ones(5))

    # Memory and libraries are set up by the first call.
    work()
    with no_waiting():
        work()
    assert pool.misses == 2
