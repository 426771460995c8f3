"""The speech path by graphs gives what it gives without, whatever the values at capture were."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from engine.minicpmo.llm.sampler import Draws
from engine.minicpmo.speech.code2wav import Code2Wav, Codes
from engine.minicpmo.speech.talker import Talker
from tests.engine.minicpmo.models.test_tts import make_decoder, speak
from tests.engine.minicpmo.replaying import ReplayingPool
from tests.speech_assets import random_token2wav, random_voice
from tests.speech_configs import TINY_FLOW, shallow_vocoder


def test_codes_by_graphs_are_the_codes_without() -> None:
    decoder, pool = make_decoder(), ReplayingPool()
    graphed, plain = Talker(decoder, 4, graphs=pool), Talker(decoder, 4)
    graphed.warm_up(4, lambda line: None)
    for unit in range(3):
        rows = [(3, None), (0, 7), (2, None), (1, None)][: 2 + unit]
        batch = [
            speak(slot, 10 * unit + slot, words=(slot + unit) % 6, end_at=end, ends=unit == 2)
            for slot, end in rows
        ]
        again = [dataclasses.replace(s, draws=Draws(s.draws.seed)) for s in batch]
        assert graphed.duplex(batch) == plain.duplex(again)
        assert graphed.kv.lengths == plain.kv.lengths
        for ours, wanted in zip(graphed.kv.keys, plain.kv.keys, strict=True):
            for slot, length in enumerate(plain.kv.lengths):
                assert torch.allclose(ours[slot, :length], wanted[slot, :length], atol=1e-5)
    assert pool.misses == 0 and pool.replays > 70


def test_groups_by_graphs_are_the_groups_without() -> None:
    decoder, pool = make_decoder(), ReplayingPool()
    graphed, plain = Talker(decoder, 3, graphs=pool), Talker(decoder, 3)
    graphed.warm_up(3, lambda line: None)
    for group in range(3):
        batch = [speak(slot, 10 * group + slot) for slot in (2, 0, 1)]
        again = [dataclasses.replace(s, draws=Draws(s.draws.seed)) for s in batch]
        assert graphed.group(batch) == plain.group(again)
        assert graphed.kv.lengths == plain.kv.lengths
    assert pool.misses == 0


@pytest.mark.parametrize("causal", [True, False])
def test_sound_by_graphs_is_the_sound_without(causal: bool) -> None:
    torch.set_num_threads(1)
    model = random_token2wav(TINY_FLOW, shallow_vocoder(causal=causal), steps=2)
    pool = ReplayingPool()
    graphed = Code2Wav(model, 4, 160, graphs=pool, first_codes=9)
    plain = Code2Wav(model, 4, 160, first_codes=9)
    for slot in range(4):
        voice = model.base(random_voice(1.2 + 0.3 * slot, slot))
        graphed.set_voice(slot, voice)
        plain.set_voice(slot, voice)
    graphed.warm_up(4, lambda line: None)

    def codes(seed: int, count: int) -> list[int]:
        generator = torch.Generator().manual_seed(seed)
        numbers: list[int] = torch.randint(6561, (count,), generator=generator).tolist()
        return numbers

    first = [Codes(slot, codes(slot, 9)) for slot in (2, 0)]
    for one, two in zip(graphed.first_part(first), plain.first_part(first), strict=True):
        assert torch.allclose(one, two, atol=2e-4)
    for unit in range(5):
        batch = []
        for slot in (3, 0, 2)[: 3 - unit % 2]:
            count = 16 if unit == 0 and slot in (0, 2) else 7 + 4 * slot if unit == 3 else 25
            batch.append(Codes(slot, codes(10 * unit + slot, count), unit == 3))
        for one, two in zip(graphed.unit(batch), plain.unit(batch), strict=True):
            assert one.shape == two.shape
            # Mel differs in its last bits, and F0 carries them into the phase.
            assert torch.allclose(one, two, atol=2e-4), unit
    groups = [[(31, False), (8, False)], [(20, False), (4, True)], [(28, True)]]
    for number, group in enumerate(groups):
        batch = [Codes(s, codes(90 + number + s, n), e) for s, (n, e) in enumerate(group, 1)]
        for one, two in zip(graphed.group(batch), plain.group(batch), strict=True):
            assert one.shape == two.shape and torch.allclose(one, two, atol=2e-4)
    assert pool.misses == 0 and pool.replays > 20
