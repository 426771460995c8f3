"""Which recordings of a checkpoint's folder become voices, which is the default, and their room."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from engine.minicpmo.checkpoint import OmniModel, load
from engine.minicpmo.models.voice.preparation import VoiceError, VoiceFeatures, Voices
from engine.minicpmo.speech.voices import VoiceLibrary

RELEASED = {"HT_ref_audio": 6.0, "system_ref_audio": 16.8, "nezha": 8.0, "Somebody_10s": 10.0}
"""Seconds of the recordings as the published folder has them, with other names."""


class Measured(Voices):
    """Prepares nothing: a recording's length is all that a library asks for here."""

    can_prepare = True

    def __init__(self, prepared: Path) -> None:
        self._prepared = prepared

    @property
    def missing(self) -> list[str]:
        return []

    def of_recording(self, data: bytes) -> VoiceFeatures:
        codes = round(25 * float(data))
        return VoiceFeatures([1] * codes, torch.zeros(2 * codes, 80), torch.zeros(192))


@pytest.fixture(scope="module")
def tiny_model(tiny_checkpoint: Path) -> OmniModel:
    return load(tiny_checkpoint, device="cpu", show=lambda line: None)


@pytest.fixture
def released(tiny_model: OmniModel, tmp_path: Path) -> OmniModel:
    """The model with the published folder's recordings and no prepared voice."""
    assets = tmp_path / "assets"
    assets.mkdir()
    for name, seconds in RELEASED.items():
        (assets / f"{name}.wav").write_text(str(seconds))
    return dataclasses.replace(
        tiny_model, folder=tmp_path, voices=Measured(tmp_path / "assets" / "voices")
    )


def test_only_reference_recordings_are_offered_and_the_usual_one_is_the_default(
    released: OmniModel,
) -> None:
    voices = VoiceLibrary(released, "")
    assert voices.names() == ("HT_ref_audio", "system_ref_audio")
    assert voices.default == "HT_ref_audio"
    assert [line for line in voices.remarks if "Somebody_10s, nezha" in line]


def test_without_the_usual_one_the_second_is_the_default_and_whole(released: OmniModel) -> None:
    (released.folder / "assets" / "HT_ref_audio.wav").unlink()
    (released.folder / "assets" / "Another_ref_audio.wav").write_text("4")
    voices = VoiceLibrary(released, "")
    assert voices.default == "system_ref_audio" and voices.longest_prompt == 840


def test_a_long_recording_that_nobody_chose_is_cut_and_sizes_no_slot(released: OmniModel) -> None:
    assert VoiceLibrary(released, "", 6.0).longest_prompt == 300
    assert VoiceLibrary(released, "", 10.0).longest_prompt == 500
    chosen = VoiceLibrary(released, "system_ref_audio", 6.0)
    assert chosen.default == "system_ref_audio" and chosen.longest_prompt == 840


def test_others_are_offered_only_where_the_setting_names_them(released: OmniModel) -> None:
    voices = VoiceLibrary(released, "", 6.0, ("nezha",))
    assert set(voices.names()) == {"HT_ref_audio", "system_ref_audio", "nezha"}
    assert voices.longest_prompt == 400, "what was chosen is whole"
    assert VoiceLibrary(released, "nezha").names()[0] == "nezha"


def test_a_name_that_no_recording_has_is_refused(released: OmniModel) -> None:
    with pytest.raises(VoiceError, match="no voice 'nobody'"):
        VoiceLibrary(released, "", 6.0, ("nobody",))


def test_the_recording_of_a_prepared_voice_stays(tiny_model: OmniModel) -> None:
    """The model hears it, though it is no reference by name."""
    voices = VoiceLibrary(tiny_model, "")
    assert voices.names() == ("default",)
    voices.place(tiny_model)
    assert voices.choose("")[0].embeddings is not None


def test_a_path_is_a_voice_wherever_it_lies(released: OmniModel, tmp_path: Path) -> None:
    path = tmp_path / "mine.wav"
    path.write_text("5")
    assert VoiceLibrary(released, str(path)).default == "mine"
