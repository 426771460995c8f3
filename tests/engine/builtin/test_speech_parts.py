"""Neural parts that do not start give way to the basic ones; a user's own do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.base import EngineError
from engine.builtin.speech_models import EarFolder, SpeechModels, VoiceFile
from engine.builtin.speech_parts import SpeechParts, repeated_clauses
from engine.config import BuiltinConfig

BROKEN_VOICE = (VoiceFile("broken", "/nowhere/broken.onnx"),)


def progress(_: str) -> None:
    pass


def test_the_first_words_of_fixed_answers_are_known() -> None:
    known = repeated_clauses()
    assert {"Hello. ", "I think you said: ", "Sorry, I did not catch that."} <= known
    assert not any(len(clause) > 250 for clause in known)


@pytest.mark.loopback
async def test_parts_that_are_broken_give_way(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    models = SpeechModels(BROKEN_VOICE, (EarFolder(str(tmp_path), ("en",)),))
    parts = SpeechParts(BuiltinConfig(), models)
    kinds = [parts.kind]
    await parts.start(progress)
    try:
        assert [*kinds, parts.kind] == ["neural", "basic"] and parts.languages == ("en",)
        assert parts.synthesiser.voice == "en-us" and parts.synthesiser.neural_voices == ()
        assert "voice is not used" in caplog.text and "recogniser is not used" in caplog.text
    finally:
        await parts.close()


async def test_a_broken_voice_of_ones_own_is_told(tmp_path: Path) -> None:
    parts = SpeechParts(BuiltinConfig(voice_dir=str(tmp_path)), SpeechModels(BROKEN_VOICE))
    with pytest.raises(EngineError, match=r"broken\.onnx"):
        await parts.start(progress)
    await parts.close()
