"""Whisper: stream equals blocks, cache lengths and resets, independent rows, counts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from engine.gpu.kv.cache import NativeKV
from engine.gpu.weights import empty
from engine.minicpmo.models.audio.whisper import AudioProjector, WhisperEncoder, conv_frames
from engine.minicpmo.models.config import AudioConfig
from tests.random_weights import random_weights

CONFIG = AudioConfig(
    hidden_size=32,
    num_layers=2,
    num_heads=4,
    intermediate_size=64,
    num_mel_bins=80,
    max_positions=1500,
    pool_step=5,
    chunk_length_s=1.0,
)


@pytest.fixture(scope="module")
def encoder() -> WhisperEncoder:
    torch.set_num_threads(1)
    return build(CONFIG)


@pytest.fixture(autouse=True)
def no_gradients() -> object:
    with torch.inference_mode():
        yield


def assert_close(ours: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)


def build(config: AudioConfig) -> WhisperEncoder:
    encoder = empty(lambda: WhisperEncoder(config))
    random_weights(encoder, seed=1)
    return encoder


def features(seed: int, frames: int) -> Tensor:
    return torch.randn(1, 80, frames, generator=torch.Generator().manual_seed(seed)).clamp(-1, 1)


def chunk(mel: Tensor, unit: int) -> Tensor:
    if unit == 0:
        return F.pad(mel[:, :, :102], (2, 0))
    return mel[:, :, 100 * unit - 2 : 100 * unit + 102]


def test_a_stream_equals_one_pass_in_blocks(encoder: WhisperEncoder) -> None:
    units = 6
    mel = features(1, 100 * units + 2)
    cache = NativeKV(encoder.cache_spec(), 1)
    streamed = []
    for unit in range(units):
        part = chunk(mel, unit)
        streamed.append(encoder.stream(part, cache, [0], [unit == 0]))
    whole = encoder.encode(mel, [mel.shape[2]], in_blocks=True)
    assert_close(torch.cat(streamed, 1), whole[:, : 50 * units])


def test_the_cache_starts_over_at_units_29_58_and_87(encoder: WhisperEncoder) -> None:
    cache = NativeKV(encoder.cache_spec(), 2)
    mel = features(2, 104)
    lengths, resets = [], []
    for unit in range(90):
        if encoder.resets(cache, 1):
            resets.append(unit)
        out = encoder.stream(mel, cache, [1], [unit == 0])
        assert out.shape == (1, 50, 32)
        lengths.append(cache.lengths[1])
    assert resets == [29, 58, 87]
    assert lengths[:30] == [*range(50, 1451, 50), 50]
    assert cache.lengths[0] == 0


def test_a_short_position_table_resets_earlier() -> None:
    encoder = build(replace(CONFIG, max_positions=430))
    cache = NativeKV(encoder.cache_spec(), 1)
    mel = features(3, 104)
    before = []
    for _ in range(10):
        before.append(cache.lengths[0])
        encoder.stream(mel, cache, [0], [False])
    assert before[7:9] == [350, 400] and cache.lengths[0] == 100


def test_streams_of_different_age_share_a_forward(encoder: WhisperEncoder) -> None:
    delays = [seed % 4 for seed in range(8)]
    mels = [features(10 + seed, 1002) for seed in range(8)]
    spec = encoder.cache_spec()
    together, alone = NativeKV(spec, 8), [NativeKV(spec, 1) for _ in mels]
    for step in range(9):
        slots = [slot for slot in range(8) if step >= delays[slot]]
        slots = slots[::-1] if step % 2 else slots
        parts = [chunk(mels[slot], step - delays[slot]) for slot in slots]
        first = [step == delays[slot] for slot in slots]
        out = encoder.stream(torch.cat(parts), together, slots, first)
        for row, slot in enumerate(slots):
            expected = encoder.stream(parts[row], alone[slot], [0], [first[row]])
            assert_close(out[row], expected[0])


@pytest.mark.parametrize("in_blocks", [True, False])
def test_whole_rows_of_different_length_equal_single_ones(
    encoder: WhisperEncoder, in_blocks: bool
) -> None:
    lengths = [31, 104, 250, 333, 9, 120, 200, 333]
    mels = [features(20 + row, length) for row, length in enumerate(lengths)]
    padded = torch.zeros(8, 80, max(lengths))
    for row, mel in enumerate(mels):
        padded[row, :, : lengths[row]] = mel[0]
    together = encoder.encode(padded, lengths, in_blocks=in_blocks)
    for row, (mel, length) in enumerate(zip(mels, lengths, strict=True)):
        alone = encoder.encode(mel, [length], in_blocks=in_blocks)
        assert alone.shape[1] == conv_frames(length)
        assert_close(together[row, : alone.shape[1]], alone[0])


def test_blocks_hide_what_comes_later(encoder: WhisperEncoder) -> None:
    mel = features(5, 300)
    changed = mel.clone()
    changed[:, :, 220:] = 0.5
    for in_blocks, same in ((True, True), (False, False)):
        one = encoder.encode(mel, [300], in_blocks=in_blocks)[:, :100]
        two = encoder.encode(changed, [300], in_blocks=in_blocks)[:, :100]
        assert torch.allclose(one, two, atol=1e-6) == same


def test_a_sound_beyond_the_table_is_refused() -> None:
    encoder = build(replace(CONFIG, max_positions=40))
    with pytest.raises(ValueError, match="50 frames, the table has 40"):
        encoder.encode(features(6, 100), [100], in_blocks=False)


def test_projection_comes_before_the_average() -> None:
    projector = empty(lambda: AudioProjector(CONFIG, 24))
    random_weights(projector, seed=2)
    hidden = torch.randn(2, 52, 32, generator=torch.Generator().manual_seed(7))
    out = projector(hidden)
    assert out.shape == (2, 10, 24)
    expected = projector.project(hidden)[:, :50].view(2, 10, 5, 24).mean(2)
    assert_close(out, expected)


def test_embeddings_are_counted_like_the_prompt_needs_them() -> None:
    projector = empty(lambda: AudioProjector(CONFIG, 24))
    seconds_to_count = {500: 50, 602: 60, 752: 75, 104: 10, 102: 10, 8: 0, 9: 1, 1: 0}
    assert {mel: projector.count(mel) for mel in seconds_to_count} == seconds_to_count
