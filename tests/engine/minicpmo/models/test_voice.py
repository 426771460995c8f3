"""Voices: reading and judging recordings, caching by content, and an engine without networks."""

from __future__ import annotations

import io
import math
import wave
from pathlib import Path

import pytest
import torch

from engine.minicpmo.models.voice.preparation import (
    Preparer,
    VoiceError,
    VoiceFeatures,
    VoiceRecording,
    Voices,
    check_recording,
    read_recording,
)
from engine.minicpmo.models.voice.s3tokenizer import S3Config, S3Tokenizer
from tests.speech_assets import random_voice, write_token2wav
from tests.speech_configs import TINY_S3


def sound(
    seconds: float, level: float = 0.3, rate: int = 16_000, channels: int = 1
) -> VoiceRecording:
    time = torch.arange(int(seconds * rate)) / rate
    mono = level * (2 * math.pi * 220 * time).sin() * (1 + (2 * math.pi * 3 * time).sin()) / 2
    return VoiceRecording(mono.repeat(channels, 1), rate)


def wav(recording: VoiceRecording) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(len(recording.samples))
        file.setsampwidth(2)
        file.setframerate(recording.rate)
        file.writeframes((recording.samples.T * 32767).to(torch.int16).numpy().tobytes())
    return buffer.getvalue()


def code_of(recording: VoiceRecording) -> str:
    try:
        check_recording(recording)
    except VoiceError as error:
        return error.code
    return ""


def test_a_recording_is_judged() -> None:
    assert code_of(sound(4)) == ""
    assert code_of(sound(2.9)) == "too_short"
    assert code_of(sound(20.1)) == "too_long"
    assert code_of(sound(4, level=1e-4)) == "silent"
    loud = VoiceRecording((3 * sound(4).samples / 0.3).clamp(-1, 1), 16_000)
    assert code_of(loud) == "clipped"


@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (44_100, 2), (48_000, 1)])
def test_a_file_is_read_at_its_own_rate(rate: int, channels: int) -> None:
    given = sound(3.5, rate=rate, channels=channels)
    read = read_recording(wav(given))
    assert read.rate == rate and read.samples.shape == given.samples.shape
    assert torch.allclose(read.samples, given.samples, atol=1e-4)
    assert len(read.at(24_000)) == math.ceil(given.samples.shape[1] * 24_000 / rate)


def test_what_is_no_sound_is_refused() -> None:
    for data in (b"", b"not a sound", wav(sound(0))):
        with pytest.raises(VoiceError) as caught:
            read_recording(data)
        assert caught.value.code == "unreadable"


def test_a_compressed_file_is_read() -> None:
    import av

    given, buffer = sound(3.2, rate=48_000), io.BytesIO()
    with av.open(buffer, "w", format="ogg") as container:
        stream = container.add_stream("libopus", rate=48_000)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(given.samples.numpy(), format="fltp", layout="mono")
        frame.sample_rate = 48_000
        for part in (frame, None):
            container.mux(stream.encode(part))
    assert abs(read_recording(buffer.getvalue()).seconds - 3.2) < 0.1


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pytest.importorskip("onnx")
    write_token2wav(tmp_path / "assets")
    return tmp_path / "assets"


def test_a_known_recording_is_not_prepared_again(folder: Path, tmp_path: Path) -> None:
    data = wav(sound(3.5))
    first = Voices(Preparer(folder), folder / "voices", tmp_path / "cache")
    voice = first.of_recording(data)
    assert len(voice.mel) == 2 * len(voice.codes) == 176
    assert voice.speaker.shape == (192,)
    assert first.of_recording(data) is voice

    class Broken(Preparer):
        def prepare(self, recording: VoiceRecording) -> VoiceFeatures:
            raise AssertionError("prepared again")

    again = Voices(Broken(folder), folder / "voices", tmp_path / "cache").of_recording(data)
    assert again.codes == voice.codes and torch.equal(again.mel, voice.mel)
    assert first.key(data) != first.key(wav(sound(3.6)))


def test_without_networks_only_prepared_voices_are_offered(tmp_path: Path) -> None:
    write_token2wav(tmp_path, preparation=False, voice="anna")
    voices = Voices(Preparer(tmp_path), tmp_path / "voices")
    assert not voices.can_prepare
    assert voices.names() == ["anna"]
    assert len(voices.named("anna").codes) == 75
    with pytest.raises(VoiceError, match=r"campplus\.onnx") as caught:
        voices.of_recording(wav(sound(4)))
    assert caught.value.code == "unavailable"
    with pytest.raises(VoiceError, match="nobody"):
        voices.named("nobody")


def test_features_survive_their_file() -> None:
    voice = random_voice()
    again = VoiceFeatures.from_bytes(voice.to_bytes())
    assert again.codes == voice.codes
    assert torch.equal(again.mel, voice.mel) and torch.equal(again.speaker, voice.speaker)
    with pytest.raises(VoiceError):
        VoiceFeatures.from_bytes(b"something else")


def test_the_tokenizer_gives_a_code_per_four_frames() -> None:
    torch.manual_seed(0)
    tokenizer = S3Tokenizer(TINY_S3)
    for frames in (96, 97, 100, 103):
        codes = tokenizer(torch.randn(128, frames))
        assert len(codes) == math.ceil(math.ceil(frames / 2) / 2)
        assert 0 <= min(codes) and max(codes) < 3**8


def test_the_full_tokenizer_has_the_released_number_of_weights() -> None:
    with torch.device("meta"):
        full = S3Tokenizer(S3Config())
    assert len(full.state_dict()) == 102
    assert round(sum(p.numel() for p in full.parameters()) / 1e6, 1) == 123.7
