"""Piper voices: what the model reads, and the synthesiser around a tiny model of the same form."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from engine.base import EngineError
from engine.builtin.clauses import Clause
from engine.builtin.piper import PiperVoice
from engine.builtin.speech_models import VoiceFile
from engine.builtin.synthesiser import NEURAL_PEAK, Synthesiser, spread_words

SYMBOLS = "_^$ ,.!?həloʊwɜːldaɪmˈˌstɹɪæɛ"
SETTINGS: dict[str, Any] = {
    "audio": {"sample_rate": 22_050},
    "espeak": {"voice": "en-us"},
    "inference": {"noise_scale": 0.5, "length_scale": 2.0, "noise_w": 0.25},
    "phoneme_id_map": {symbol: [at] for at, symbol in enumerate(SYMBOLS)},
}
SAMPLES_PER_ID = 256


def model() -> onnx.ModelProto:
    """Each id as that many samples, times the length: loud where the id is odd."""
    nodes = [
        helper.make_node("Mod", ["input", "two"], ["odd"]),
        helper.make_node("Cast", ["odd"], ["loud"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["loud", "last"], ["column"]),
        helper.make_node("Gather", ["scales", "second"], ["length"]),
        helper.make_node("Mul", ["length", "per_id"], ["samples"]),
        helper.make_node("Cast", ["samples"], ["count"], to=TensorProto.INT64),
        helper.make_node("Concat", ["ones", "count"], ["shape"], axis=0),
        helper.make_node("Expand", ["column", "shape"], ["wide"]),
        helper.make_node("Reshape", ["wide", "flat"], ["output"]),
    ]
    constants = [
        helper.make_tensor("two", TensorProto.INT64, [1], [2]),
        helper.make_tensor("last", TensorProto.INT64, [1], [2]),
        helper.make_tensor("second", TensorProto.INT64, [1], [1]),
        helper.make_tensor("per_id", TensorProto.FLOAT, [1], [float(SAMPLES_PER_ID)]),
        helper.make_tensor("ones", TensorProto.INT64, [2], [1, 1]),
        helper.make_tensor("flat", TensorProto.INT64, [4], [1, 1, 1, -1]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "voice",
        [
            value("input", TensorProto.INT64, ["batch", "phonemes"]),
            value("input_lengths", TensorProto.INT64, ["batch"]),
            value("scales", TensorProto.FLOAT, [3]),
        ],
        [value("output", TensorProto.FLOAT, None)],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def written(folder: Path, settings: dict[str, Any], name: str = "tiny") -> VoiceFile:
    path = folder / f"{name}.onnx"
    onnx.save(model(), str(path))
    Path(f"{path}.json").write_text(json.dumps(settings))
    return VoiceFile(name, str(path))


@pytest.fixture
def file(tmp_path: Path) -> VoiceFile:
    return written(tmp_path, SETTINGS)


def test_a_blank_stands_between_phonemes_and_unknown_ones_are_left_out(file: VoiceFile) -> None:
    ids = PiperVoice(file).ids_of([("hˈaɪ", ","), ("☃mæm", "")])
    assert "".join(SYMBOLS[at] for at in ids) == "^_h_ˈ_a_ɪ_,_ _m_æ_m_$"


def test_length_and_speed_reach_the_model(file: VoiceFile) -> None:
    voice = PiperVoice(file)
    ids = voice.ids_of([("həl", ".")])
    for speed in (1.0, 2.0):
        sound = voice.speak([("həl", ".")], speed, voice.cancellable())
        assert len(sound) == len(ids) * SAMPLES_PER_ID * 2.0 / speed


def test_a_run_that_was_ended_gives_nothing(file: VoiceFile) -> None:
    voice = PiperVoice(file)
    run = voice.cancellable()
    run.terminate = True
    assert len(voice.speak([("həl", ".")], 1.0, run)) == 0


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"audio": {}}, "sample_rate"),
        ({"audio": {"sample_rate": 44_100}}, "sample_rate of 8000 to 24000"),
        ({"phoneme_type": "pinyin"}, "'pinyin' is not espeak"),
        ({"phoneme_id_map": {"a": "b"}}, "phoneme_id_map"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    with pytest.raises(EngineError, match=told):
        PiperVoice(written(tmp_path, SETTINGS | change))


def test_what_is_no_model_is_refused(file: VoiceFile) -> None:
    Path(file.path).write_bytes(b"nothing of the kind")
    with pytest.raises(EngineError, match="cannot be loaded"):
        PiperVoice(file)


@pytest.fixture
async def voice(file: VoiceFile) -> AsyncIterator[Synthesiser]:
    synthesiser = Synthesiser("", 165, [file], {"Hello there."})
    await synthesiser.start()
    yield synthesiser
    await synthesiser.close()


async def test_a_neural_voice_speaks_by_default_and_espeak_on_request(voice: Synthesiser) -> None:
    assert voice.voice == "tiny" and voice.has_voice("tiny") and voice.has_voice("en-gb")
    neural = await voice.speak(Clause("Hello world.", 240), "", 1.0)
    basic = await voice.speak(Clause("Hello world.", 240), "en-gb", 1.0)
    assert int(np.abs(neural.pcm.astype(int)).max()) in range(NEURAL_PEAK - 2_000, 23_000)
    assert not np.array_equal(neural.pcm[:1_000], basic.pcm[:1_000])
    assert np.all(neural.pcm[-24 * 240 :] == 0)
    assert "".join(word for _, word in neural.words) == "Hello world."
    assert 0 == neural.words[0][0] < neural.words[1][0] < len(neural.pcm)


async def test_speed_shortens_a_neural_clause(voice: Synthesiser) -> None:
    normal = await voice.speak(Clause("Hello world."), "tiny", 1.0)
    fast = await voice.speak(Clause("Hello world."), "tiny", 2.0)
    assert len(fast.pcm) == pytest.approx(len(normal.pcm) / 2, rel=0.05)


async def test_what_is_said_over_and_over_is_kept_and_nothing_else(voice: Synthesiser) -> None:
    for text, is_kept in (("Hello there.", True), ("My number is 3.", False)):
        first = await voice.speak(Clause(text), "", 1.0)
        again = await voice.speak(Clause(text), "", 1.0)
        assert (first is again) == is_kept


async def test_a_cancelled_clause_does_not_hold_up_the_next(voice: Synthesiser) -> None:
    speaking = asyncio.create_task(voice.speak(Clause("hello " * 40), "", 1.0))
    await asyncio.sleep(0)
    speaking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await speaking
    assert len((await voice.speak(Clause("Hello."), "", 1.0)).pcm) > 1_000


async def test_a_voice_of_ones_own_that_cannot_be_loaded_fails_the_start(file: VoiceFile) -> None:
    file = VoiceFile("tiny", file.path + ".missing")
    synthesiser = Synthesiser("tiny", 165, [file])
    with pytest.raises(EngineError, match=r"tiny\.onnx\.missing"):
        await synthesiser.start()
    await synthesiser.close()


@pytest.mark.parametrize(
    ("text", "ipa", "shares"),
    [
        ("one two", "wʌn tuː", [0, 0.5]),
        ("a wonderful day", "ɐ wˈʌndɚfəl dˈeɪ", [0, 1 / 14, 10 / 14]),
        ("It is 3:42 now", "ɪɾ ɪz θɹˈiː fˈɔːɹɾi tˈuː nˈaʊ", [0, 2 / 19, 4 / 19, 16 / 19]),
    ],
)
def test_words_take_their_share_of_the_clause(text: str, ipa: str, shares: list[float]) -> None:
    placed = spread_words(text, ipa, 19_000 * 14)
    assert "".join(word for _, word in placed) == text
    assert [at / (19_000 * 14) for at, _ in placed] == pytest.approx(shares, abs=1e-3)
