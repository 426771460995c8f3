"""Hearing many sessions at once: every row as if it were alone, over resets, slides and padding."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from engine.gpu.graphs import GraphPool
from engine.minicpmo.encoders.audio import AudioEncoder
from tests.engine.minicpmo.encoder_rig import chunk_of, make_audio_encoder, sound, tiny_sizes

UNITS = 70


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def audio(slots: int) -> AudioEncoder:
    return make_audio_encoder(tiny_sizes(), slots, GraphPool("cpu"))


def step_by_step(audio: AudioEncoder, slot: int, chunk: Tensor) -> Tensor:
    """What `hear` does in one function, by the parts' own methods."""
    with torch.inference_mode():
        is_first = audio.mels.calls(slot) == 0
        mel, _ = audio.mels.push([slot], [chunk])
        hidden = audio.encoder.stream(mel, audio.cache, [slot], [is_first])
        embeds: Tensor = audio.projector(hidden)
    return embeds[0]


def test_rows_of_different_age_equal_single_streams_over_many_units() -> None:
    together, delays = audio(2), [0, 29]
    alone = [audio(1) for _ in delays]
    sounds = [sound(seed, UNITS) for seed in range(2)]
    for step in range(UNITS):
        slots = [slot for slot in range(2) if step >= delays[slot]]
        slots = slots[::-1] if step % 2 else slots
        chunks = {slot: chunk_of(sounds[slot], step - delays[slot]) for slot in slots}
        heard = together.hear(chunks)
        assert list(heard) == slots
        for slot, chunk in chunks.items():
            expected = step_by_step(alone[slot], 0, chunk)
            assert heard[slot].shape == (10, 64)
            torch.testing.assert_close(heard[slot], expected, atol=2e-5, rtol=0)
    assert together.cache.lengths == [50 * 12, 50 * 12]


def state(audio: AudioEncoder, slot: int) -> list[Tensor]:
    """Everything a slot's stream holds, but the scratch place of its cache row."""
    mels = audio.mels
    rows = [mels._tail[slot], mels._loudest[slot], mels._mirrored[slot]]
    rows += [tensor[slot, :-1] for tensor in (*audio.cache.keys, *audio.cache.values)]
    return [row.clone() for row in rows]


@pytest.mark.usefixtures("warmed_up")
def test_padding_and_warming_up_leave_all_slots_as_they_are() -> None:
    it = audio(4)
    it.hear({slot: chunk_of(sound(slot, 1), 0) for slot in range(4)})
    before = [state(it, slot) for slot in range(4)]
    it.warm_up(4, lambda line: None)
    it.hear({slot: chunk_of(sound(slot, 1), 1) for slot in (3, 1, 2)})  # padded to four
    for place, tensor in enumerate(state(it, 0)):
        assert torch.equal(tensor, before[0][place])
    assert it.cache.lengths == [50, 100, 100, 100]
    assert [it.mels.calls(slot) for slot in range(4)] == [1, 2, 2, 2]


def test_results_stay_when_the_next_unit_is_heard() -> None:
    it = audio(1)
    first = it.hear({0: chunk_of(sound(1, 1), 0)})[0]
    kept = first.clone()
    it.hear({0: chunk_of(sound(1, 1), 1)})
    assert torch.equal(first, kept)


def test_a_slot_that_was_cleared_starts_anew() -> None:
    it, fresh = audio(2), audio(1)
    for unit in range(45):
        it.hear({0: chunk_of(sound(1, 45), unit), 1: chunk_of(sound(2, 45), unit)})
    it.mels.reset([0])
    it.cache.reset([0])
    for unit in range(6):
        heard = it.hear({0: chunk_of(sound(3, 6), unit)})[0]
        expected = fresh.hear({0: chunk_of(sound(3, 6), unit)})[0]
        torch.testing.assert_close(heard, expected, atol=1e-5, rtol=0)


def test_a_chunk_of_the_wrong_length_changes_nothing() -> None:
    it = audio(2)
    with pytest.raises(AssertionError, match="slot 1: chunk"):
        it.hear({0: chunk_of(sound(1, 1), 0), 1: torch.zeros(16_000)})
    assert it.mels.calls(0) == 0 and it.cache.lengths == [0, 0]
    assert it.hear({}) == {}
