"""Units of half a second: a checkpoint that says so is served by the same engine.

Guards: their length is data for the input, the alignment, the automaton, the talker and the sound;
a configuration that no engine could serve is refused by name.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from engine.config import MiniCpmoConfig
from engine.ipc import protocol as p
from engine.minicpmo.checkpoint import load
from engine.minicpmo.engine import MiniCpmoEngine
from engine.minicpmo.llm.batch import Replay
from engine.minicpmo.llm.duplex_batch import DuplexBatch, UnitInput
from engine.minicpmo.llm.duplex_state import DuplexSettings, DuplexState
from engine.minicpmo.llm.duplex_unit import UnitResult
from engine.minicpmo.llm.sampler import Draws
from engine.minicpmo.models.config import OmniConfig
from engine.minicpmo.models.config_reader import ConfigError
from engine.minicpmo.models.unit import UnitSpec
from engine.minicpmo.modes.unit_alignment import UnitAlignment
from engine.minicpmo.session.session import Session
from engine.minicpmo.session.settings import duplex_settings
from engine.minicpmo.speech.code2wav import Codes
from engine.minicpmo.speech.pipeline import SpeechPipeline
from engine.minicpmo.speech.talker import TalkerInput
from tests.engine.minicpmo.engine_rig import Talk, config, scheduler_of
from tests.engine.minicpmo.llm_rig import HELLO, rows_of, tiny_rows, word_tokens
from tests.speech_assets import random_voice

HALF = UnitSpec(ms=500, max_tokens=10, max_chars=14)
IN_FILE = {"ms": 500, "max_tokens": 10, "max_chars": 14}
CODES = [13, 12, 13, 12]
SAMPLES = p.INPUT_HZ // 2
PIECE = 320


def session(slot: int, seed: int | None = None) -> Session:
    config = p.SessionConfig(sampling=p.Sampling(seed=seed), options={"force_listen_count": 0})
    return Session(f"s{slot}", slot, config, slot, lambda message: None, unit=HALF)


def hear(one: Session, count: int, arrived: float = 0.0) -> None:
    sound = bytes(2 * count)
    one.audio_input.push(0, sound, for_units=True, over=False, arrived=arrived)


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

    tokens, settings = word_tokens(), duplex_settings(p.SessionConfig(), HALF)
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


# ---------------------------------------------------------------- the whole engine


def checkpoint(tiny: Path, folder: Path, unit: dict[str, int]) -> Path:
    """The tiny checkpoint, trained with other units as far as its configuration goes."""
    for file in tiny.iterdir():
        if file.name != "config.json":
            (folder / file.name).symlink_to(file)
    config = json.loads((tiny / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"unit": unit}))
    return folder


async def test_the_engine_listens_and_speaks_in_half_seconds(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    folder = checkpoint(tiny_checkpoint, tmp_path, IN_FILE)
    settings = MiniCpmoConfig(device="cpu", max_context=400, flow_steps=1)
    engine = MiniCpmoEngine(str(folder), 2, settings)
    await engine.start(lambda text: None)
    assert engine.welcome(2).unit_ms == 500
    # Every second unit goes on with speech: the random model would end its turn at any time.
    runner = scheduler_of(engine).runner
    tokens = runner.model.tokens
    words = [tokens.speak, tokens.encode("a")[0], tokens.chunk_eos]
    steps = 0

    def choose(slots: list[int]) -> list[int]:
        nonlocal steps
        steps += 1
        return [words[(steps - 1) % 3]] * len(slots)

    runner.duplex.replay.force = choose
    talk = Talk(engine, "one", 0, config())
    units = await talk.units(6, seconds=0.5)
    assert [unit.unit for unit in units] == [1, 2, 3, 4, 5, 6]
    # <unit>, five embeddings of sound, two decided tokens that were fed, terminator and </unit>.
    assert units[5].kv_tokens - units[4].kv_tokens == 10
    sounds = talk.all(p.AudioOut)
    samples = sounds[-1].pts + len(sounds[-1].pcm) // 2
    assert 6 * 12_000 <= samples < 7 * 12_000, f"{samples} samples in six units"
    await talk.session.close()
    await engine.close()


@pytest.fixture
def pipeline(tiny_checkpoint: Path) -> SpeechPipeline:
    model = load(tiny_checkpoint, device="cpu", steps=2, show=lambda line: None)
    model.config = replace(model.config, unit=HALF)
    made = SpeechPipeline(model, 2, max_prompt=160, speech_context=256, first_codes=9)
    assert model.code2wav is not None
    for slot in range(2):
        made.set_voice(slot, model.code2wav.base(random_voice(1.5)))
    return made


def test_units_of_a_turn_have_thirteen_codes_and_twelve_by_turns(pipeline: SpeechPipeline) -> None:
    width = pipeline.talker.decoder.config.llm_dim
    for unit, count in enumerate(CODES):
        said = TalkerInput(0, torch.full((3,), 5), torch.randn(3, width), Draws(0))
        [codes] = pipeline.talker.duplex([said])
        # The first unit may end by itself.
        assert len(codes) <= count if unit == 0 else len(codes) == count


def test_a_turn_lasts_as_long_as_its_units(pipeline: SpeechPipeline) -> None:
    assert pipeline.code2wav is not None
    assert pipeline.code2wav.first_codes == 0, "half a second is not cut in two"
    lengths = []
    for unit, count in enumerate(CODES):
        sounds = pipeline.code2wav.unit(
            [Codes(0, [1] * count), Codes(1, [1] * (count - 7 * (unit == 0)))]
        )
        lengths.append([len(sound) for sound in sounds])
    # A code is 960 samples; the second slot's first unit is filled up in front.
    assert lengths == [[12_480, 12_000], [11_520, 12_000], [12_480, 12_480], [11_520, 11_520]]


@pytest.mark.parametrize(
    ("unit", "named"),
    [
        ({"ms": 300, "max_tokens": 6, "max_chars": 9}, "ms = 300 is not one of 200"),
        ({"ms": 500, "max_tokens": 1, "max_chars": 14}, "max_tokens = 1"),
        ({"ms": 500}, "'max_tokens' is missing"),
    ],
)
def test_units_that_cannot_be_served_are_refused_by_name(
    tiny_checkpoint: Path, tmp_path: Path, unit: dict[str, int], named: str
) -> None:
    with pytest.raises(ConfigError, match=f"config.json: unit: {named}"):
        OmniConfig.load(checkpoint(tiny_checkpoint, tmp_path, unit))
