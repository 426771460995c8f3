"""A unit of speech from tokens to PCM: parts as they come, and what callers without parts get."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from engine.model import OmniModel, load
from engine.runner import Pcm, Runner
from engine.sampling import Draws
from engine.speech_codes import Speak
from tests.speech_assets import random_voice

FIRST = 9


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path) -> OmniModel:
    torch.set_num_threads(1)
    return load(tiny_checkpoint, device="cpu", steps=2, show=lambda line: None)


def runner(model: OmniModel, first_codes: int) -> Runner:
    made = Runner(model, 3, 128, max_prompt=160, speech_length=256, first_codes=first_codes)
    assert model.token2wav is not None
    for slot in range(3):
        made.set_voice(slot, model.token2wav.base(random_voice(1.5)))
    return made


def batch(model: OmniModel, unit: int, *, short: int | None = None) -> list[Speak]:
    said = []
    for slot in range(3):
        generator = torch.Generator().manual_seed(10 * unit + slot)
        ids = torch.randint(100, (4,), generator=generator)
        hidden = torch.randn(4, model.config.llm.hidden_size, generator=generator)
        end = short if slot == 1 else None
        said.append(Speak(slot, ids, hidden, Draws(7 * unit + slot), end_at=end))
    return said


def heard(made: Runner, said: list[Speak]) -> tuple[list[list[tuple[int, bool]]], list[Pcm]]:
    parts: list[list[tuple[int, bool]]] = [[] for _ in said]
    sounds: list[list[Pcm]] = [[] for _ in said]

    def emit(row: int, pcm: Pcm, is_last: bool) -> None:
        parts[row].append((len(pcm), is_last))
        sounds[row].append(pcm)

    whole = made.say_unit(said, emit)
    for one, pieces in zip(whole, sounds, strict=True):
        assert np.array_equal(one, np.concatenate(pieces))
    return parts, whole


def test_only_a_turn_s_first_unit_comes_in_two_parts(model: OmniModel) -> None:
    made = runner(model, FIRST)
    assert heard(made, batch(model, 0))[0] == [[(8_640, False), (15_360, True)]] * 3
    made.hush(2)
    parts, _ = heard(made, batch(model, 1))
    assert parts == [[(24_000, True)]] * 2 + [[(8_640, False), (15_360, True)]]


def test_without_a_first_part_emitting_changes_nothing(model: OmniModel) -> None:
    one, two = runner(model, 0), runner(model, 0)
    for unit in range(2):
        plain = one.say_unit(batch(model, unit))
        parts, whole = heard(two, batch(model, unit))
        assert parts == [[(24_000, True)]] * 3
        assert all(np.array_equal(a, b) for a, b in zip(plain, whole, strict=True))


def test_a_caller_that_takes_no_parts_hears_the_original_s_units(model: OmniModel) -> None:
    one, two = runner(model, 0), runner(model, FIRST)
    plain, other = (made.say_unit(batch(model, 0)) for made in (one, two))
    for a, b in zip(plain, other, strict=True):
        assert np.abs(a.astype(int) - b).max() <= 8


def test_a_unit_that_ends_within_its_first_part_is_given_whole(model: OmniModel) -> None:
    parts, whole = heard(runner(model, FIRST), batch(model, 0, short=6))
    assert parts[1] == [(24_000, True)] and len(parts[0]) == len(parts[2]) == 2
    assert not whole[1][: 24_000 - 6 * 960].any() and whole[1].any()


def test_a_short_first_unit_is_a_second_all_the_same(model: OmniModel) -> None:
    parts, _ = heard(runner(model, FIRST), batch(model, 0, short=15))
    assert parts[1] == [(8_640, False), (15_360, True)]
