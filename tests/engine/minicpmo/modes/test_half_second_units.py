"""Units of half a second: their length is data for input, alignment and the automaton."""

from __future__ import annotations

import pytest
from torch import Tensor

from engine.ipc import protocol as p
from engine.minicpmo.llm.batch import Replay
from engine.minicpmo.llm.duplex_batch import DuplexBatch, UnitInput
from engine.minicpmo.llm.duplex_state import DuplexSettings, DuplexState, UnitResult
from engine.minicpmo.models.config import UnitSpec
from engine.minicpmo.modes.unit_alignment import UnitAlignment
from engine.minicpmo.session.session import Session
from tests.engine.minicpmo.llm_rig import HELLO, rows_of, tiny_rows, word_tokens

HALF = UnitSpec(ms=500, max_tokens=10, max_chars=14)
SAMPLES = p.INPUT_HZ // 2
PIECE = 320


def session(slot: int, seed: int | None = None) -> Session:
    config = p.SessionConfig(sampling=p.Sampling(seed=seed), options={"force_listen_count": 0})
    return Session(f"s{slot}", slot, config, slot, lambda message: None, unit=HALF)


def hear(one: Session, count: int, arrived: float = 0.0) -> None:
    sound = bytes(2 * count)
    one.audio_input.push(0, sound, for_units=True, strict=False, arrived=arrived)


def test_half_a_second_of_sound_is_a_unit() -> None:
    one = session(0)
    hear(one, SAMPLES - PIECE)
    assert one.audio_input.take_unit() is None
    hear(one, PIECE)
    unit = one.audio_input.take_unit()
    assert unit is not None and len(unit) == SAMPLES and one.audio_input.pending == 0


def test_sound_beyond_two_units_is_skipped_by_whole_units() -> None:
    one = session(0)
    hear(one, 4 * SAMPLES + PIECE)
    assert one.audio_input.take_dropped_ms() == 1500
    assert one.audio_input.pending == SAMPLES + PIECE


def test_two_groups_end_a_quarter_of_a_second_apart() -> None:
    alignment = UnitAlignment(2, HALF.ms / 1000)
    first, second = session(0), session(1)
    alignment.hears(first, PIECE, 10.0)
    alignment.hears(second, PIECE, 10.0)
    assert second.audio_input.silence == pytest.approx(SAMPLES / 2, abs=1)
    begun = second.audio_input.silence
    for unit in range(100):
        alignment.took(second, 10.73 + 0.5 * unit)
    assert second.audio_input.silence == begun


def test_a_clock_that_runs_away_by_half_seconds_is_put_back() -> None:
    alignment = UnitAlignment(2, HALF.ms / 1000)
    first, slow = session(0), session(1)
    alignment.hears(first, PIECE, 10.0)
    alignment.hears(slow, PIECE, 10.0)
    begun, due = slow.audio_input.silence, 10.73
    for _ in range(120):
        alignment.took(slow, due)
        due += 0.501
    assert slow.audio_input.silence > begun


def test_a_unit_has_five_rows_of_sound_and_ends_after_its_own_number_of_tokens() -> None:
    def choose(slots: list[int]) -> list[int]:
        return [HELLO] * len(slots)

    tokens, settings = word_tokens(), session(0).duplex_settings()
    assert (settings.max_tokens, settings.max_chars) == (10, 14)
    batch = DuplexBatch(tiny_rows(), tokens, Replay(force=choose))
    wide = DuplexSettings(force_listen_count=0, max_tokens=HALF.max_tokens, max_chars=1000)
    batch.open(0, DuplexState(tokens, wide, 1, 256))
    batch.prepare({0: ([1, 2], None, [3])})
    sound: Tensor = rows_of(5, 1)
    before = batch.rows.length(0)
    batch.prefill([UnitInput(0, sound)])
    assert batch.rows.length(0) == before + 6
    results: dict[int, UnitResult] = {}
    while not results:
        results = batch.step()
    # The last step never decodes, and the first token is not spoken.
    assert results[0].num_tokens == HALF.max_tokens - 2
    assert not results[0].is_listen
