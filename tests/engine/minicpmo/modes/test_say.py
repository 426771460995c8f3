"""A unit of speech from tokens to PCM: parts as they come, and what callers without parts get."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from engine.minicpmo.checkpoint import OmniModel, load
from engine.minicpmo.llm.sampler import Draws
from engine.minicpmo.speech.code2wav import Pcm
from engine.minicpmo.speech.pipeline import SpeechPipeline
from engine.minicpmo.speech.talker import TalkerInput
from tests.speech_assets import random_voice

FIRST = 9


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path) -> OmniModel:
    torch.set_num_threads(1)
    return load(tiny_checkpoint, device="cpu", steps=2, show=lambda line: None)


def pipeline(model: OmniModel, first_codes: int) -> SpeechPipeline:
    made = SpeechPipeline(model, 3, max_prompt=160, speech_context=256, first_codes=first_codes)
    assert model.code2wav is not None
    for slot in range(3):
        made.set_voice(slot, model.code2wav.base(random_voice(1.5)))
    return made


def batch(model: OmniModel, unit: int, *, short: int | None = None) -> list[TalkerInput]:
    said = []
    for slot in range(3):
        generator = torch.Generator().manual_seed(10 * unit + slot)
        ids = torch.randint(100, (4,), generator=generator)
        hidden = torch.randn(4, model.config.llm.hidden_size, generator=generator)
        end = short if slot == 1 else None
        said.append(TalkerInput(slot, ids, hidden, Draws(7 * unit + slot), end_at=end))
    return said


def heard(
    made: SpeechPipeline, said: list[TalkerInput]
) -> tuple[list[list[tuple[int, bool]]], list[Pcm]]:
    parts: list[list[tuple[int, bool]]] = [[] for _ in said]
    sounds: list[list[Pcm]] = [[] for _ in said]

    def emit(row: int, pcm: Pcm, is_last: bool) -> None:
        parts[row].append((len(pcm), is_last))
        sounds[row].append(pcm)

    made.unit(said, [], emit)
    return parts, [np.concatenate(pieces) for pieces in sounds]


def test_only_a_turn_s_first_unit_comes_in_two_parts(model: OmniModel) -> None:
    made = pipeline(model, FIRST)
    assert heard(made, batch(model, 0))[0] == [[(8_640, False), (15_360, True)]] * 3
    made.cancel(2)
    parts, _ = heard(made, batch(model, 1))
    assert parts == [[(24_000, True)]] * 2 + [[(8_640, False), (15_360, True)]]


def test_without_first_parts_units_are_those_of_the_original(model: OmniModel) -> None:
    one, two = pipeline(model, 0), pipeline(model, FIRST)
    parts, plain = heard(one, batch(model, 0))
    assert parts == [[(24_000, True)]] * 3
    for a, b in zip(plain, heard(two, batch(model, 0))[1], strict=True):
        # Other windows of the flow make slightly another sound.
        assert len(a) == len(b) and not np.array_equal(a, b)


def test_a_unit_that_ends_within_its_first_part_is_given_whole(model: OmniModel) -> None:
    parts, whole = heard(pipeline(model, FIRST), batch(model, 0, short=6))
    assert parts[1] == [(24_000, True)] and len(parts[0]) == len(parts[2]) == 2
    assert not whole[1][: 24_000 - 6 * 960].any() and whole[1].any()


def test_a_short_first_unit_is_a_second_all_the_same(model: OmniModel) -> None:
    parts, _ = heard(pipeline(model, FIRST), batch(model, 0, short=15))
    assert parts[1] == [(8_640, False), (15_360, True)]
