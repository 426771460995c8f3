"""Speech and whole sounds on CUDA: F0 to its last digit, every shape by a graph, no waiting.

Needs a CUDA device; of other packages only what the native engine itself needs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from engine.graphs import GraphPool
from engine.layers.logmel import LogMel
from engine.models.flow_config import FlowConfig
from engine.models.vocoder import Push, Vocoder, make_noise
from engine.models.vocoder_config import VocoderConfig
from engine.models.whisper import WhisperEncoder
from engine.speech_streams import Codes, SpeechStreams
from engine.weights import empty
from tests.engine.native import test_tts, test_whisper
from tests.exactness import exact
from tests.random_weights import random_weights
from tests.speech_assets import random_hift, random_token2wav, random_voice

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

GENERATIONS = pytest.mark.parametrize("causal", [True, False], ids=["causal", "original"])
TF32_WAVE = 5e-3
"""Ten times what rounding the filter's convolutions to TF32 changes, relative RMS."""


def vocoder(causal: bool, device: str = "cuda") -> Vocoder:
    """At full size, the same weights on every device."""
    config = VocoderConfig.full(causal=causal)
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
    config = VocoderConfig.tiny(causal=causal)
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
def test_turns_of_any_length_miss_no_graph(causal: bool) -> None:
    model = random_token2wav(
        FlowConfig.tiny(),
        VocoderConfig.tiny(causal=causal),
        steps=2,
        device="cuda",
        dtype=torch.float16,
    )
    pool = GraphPool("cuda", urgent=True)
    streams = SpeechStreams(model, 3, 160, graphs=pool, first_codes=9)
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
