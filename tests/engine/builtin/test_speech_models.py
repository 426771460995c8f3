"""Which voices and recognisers are found, and which files are refused."""

from __future__ import annotations

import hashlib
import importlib
import sys
from pathlib import Path

import msgspec
import pytest

from engine.base import EngineError
from engine.builtin import speech_models
from engine.builtin.speech_models import (
    ENGLISH_TOKENS,
    EarFolder,
    PackagedWeights,
    SpeechModels,
    VoiceFile,
    ear_for,
    find_models,
)
from engine.config import BuiltinConfig

WEIGHTS = b"weights"


@pytest.fixture
def packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PackagedWeights:
    """A package with weights, as if it were installed."""
    folder = tmp_path / "a_voice_package"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise AssertionError('imported')")
    (folder / "joe.onnx").write_bytes(WEIGHTS)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    importlib.invalidate_caches()
    return PackagedWeights("a_voice_package", "joe.onnx", hashlib.sha256(WEIGHTS).hexdigest())


def test_known_weights_are_found_without_importing_their_package(packaged: PackagedWeights) -> None:
    found = packaged.find()
    assert found is not None and found.read_bytes() == WEIGHTS


def test_other_weights_in_a_known_package_are_not_used(
    packaged: PackagedWeights, caplog: pytest.LogCaptureFixture
) -> None:
    path = packaged.find()
    assert path is not None
    path.write_bytes(b"something else")
    assert packaged.find() is None
    assert "not the known one" in caplog.text


def test_what_is_not_installed_is_not_found() -> None:
    assert PackagedWeights("no_such_package_here", "x", "").find() is None


def ear(folder: Path, tokens: list[str], name: str = "vocabulary.txt") -> Path:
    folder.mkdir(parents=True)
    (folder / "model.bin").write_bytes(b"")
    told = "\n".join(tokens).encode() if name.endswith("txt") else msgspec.json.encode(tokens)
    (folder / name).write_bytes(told)
    return folder


MANY = ["x"] * ENGLISH_TOKENS + ["<|en|>", "<|zh|>", "<|de|>"]
ENGLISH = ["x"] * (ENGLISH_TOKENS - 2) + ["<|en|>", "<|zh|>"]


@pytest.fixture
def libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both libraries seem to be installed; the packages of the extra are not."""
    monkeypatch.setattr(speech_models, "_has_library", lambda *_: True)
    monkeypatch.setattr(speech_models, "JOE", PackagedWeights("no_such_package", "", ""))
    monkeypatch.setattr(speech_models, "TINY_EN", PackagedWeights("no_such_package", "", ""))


@pytest.mark.parametrize("name", ["vocabulary.txt", "vocabulary.json"])
def test_the_languages_of_a_model_are_those_of_its_vocabulary(
    tmp_path: Path, name: str, libraries: None
) -> None:
    one = ear(tmp_path / "one", MANY, name)
    found = find_models(BuiltinConfig(recogniser_dir=str(one), languages=("zh", "fr", "de")))
    assert found.ears == (EarFolder(str(one), ("zh", "de")),)
    assert found.languages == ("zh", "de")


def test_a_folder_of_models_has_several(tmp_path: Path, libraries: None) -> None:
    english = ear(tmp_path / "a-english", ENGLISH)
    many = ear(tmp_path / "b-many", MANY)
    found = find_models(BuiltinConfig(recogniser_dir=str(tmp_path)))
    assert found.ears == (EarFolder(str(english), ("en",)), EarFolder(str(many), ("en", "zh")))
    assert ear_for(found.ears, "zh").path == str(many)
    assert ear_for(found.ears, "en").path == ear_for(found.ears, "").path == str(english)


def test_of_several_models_the_largest_listens(tmp_path: Path, libraries: None) -> None:
    base, small = ear(tmp_path / "whisper-base", MANY), ear(tmp_path / "whisper-small", MANY)
    (base / "model.bin").write_bytes(b"1")
    (small / "model.bin").write_bytes(b"22")
    found = find_models(BuiltinConfig(recogniser_dir=str(tmp_path)))
    assert ear_for(found.ears, "en").path == str(small)


@pytest.mark.parametrize(
    ("tokens", "languages", "told"),
    [
        (ENGLISH, ("zh",), "no Whisper model"),
        (None, ("en",), "no Whisper model"),
        ([], ("en",), "no vocabulary"),
    ],
)
def test_a_folder_without_a_model_is_refused(
    tmp_path: Path, libraries: None, tokens: list[str] | None, languages: tuple[str, ...], told: str
) -> None:
    if tokens is not None:
        folder = ear(tmp_path / "m", tokens)
        if not tokens:
            (folder / "vocabulary.txt").unlink()
    with pytest.raises(EngineError, match=f"builtin.recogniser_dir.*{told}"):
        find_models(BuiltinConfig(recogniser_dir=str(tmp_path), languages=languages))


def test_own_voices_are_named_by_their_files(tmp_path: Path, libraries: None) -> None:
    for name in ("b", "a", "lonely"):
        (tmp_path / f"{name}.onnx").write_bytes(b"")
    for name in ("a", "b"):
        (tmp_path / f"{name}.onnx.json").write_text("{}")
    found = find_models(BuiltinConfig(voice_dir=str(tmp_path))).voices
    assert found == tuple(VoiceFile(name, str(tmp_path / f"{name}.onnx")) for name in "ab")


def test_a_folder_without_voices_is_refused(tmp_path: Path, libraries: None) -> None:
    with pytest.raises(EngineError, match=r"builtin\.voice_dir: no NAME\.onnx"):
        find_models(BuiltinConfig(voice_dir=str(tmp_path)))


def test_own_models_need_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert find_models(BuiltinConfig()) == SpeechModels()
    with pytest.raises(EngineError, match=r"builtin\.voice_dir needs onnxruntime"):
        find_models(BuiltinConfig(voice_dir=str(tmp_path)))


def test_basic_looks_for_nothing(tmp_path: Path) -> None:
    assert find_models(BuiltinConfig(speech="basic", voice_dir=str(tmp_path))) == SpeechModels()
