"""What recordings for a voice are refused for, in words, and the form of those that are taken."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import wave

import numpy as np
import pytest

from media.voice_file import HZ, VoiceRefused, answer, check
from tests import ROOT
from tests.recordings import packed, talk


@pytest.mark.parametrize(
    ("kind", "codec", "rate"),
    [
        ("wav", "pcm_s16le", 8_000),
        ("wav", "pcm_s16le", 44_100),
        ("flac", "flac", 48_000),
        ("mp3", "libmp3lame", 44_100),
        ("ogg", "libopus", 48_000),
        ("adts", "aac", 32_000),
    ],
)
def test_speech_in_any_format_is_taken(kind: str, codec: str, rate: int) -> None:
    file = packed(talk(4.0, rate=rate), rate, kind, codec)
    found = check(file)
    assert 3.9 < found.seconds < 4.2 and found.contrast_db > 20
    assert abs(len(found.pcm) / 2 / HZ - found.seconds) < 0.01
    # The tone that it is made of is still the loudest.
    spectrum = np.abs(np.fft.rfft(np.frombuffer(found.pcm, np.int16)))
    loudest = float(np.argmax(spectrum)) * HZ / (len(found.pcm) / 2)
    assert abs(loudest - 140) < 4


@pytest.mark.parametrize(
    ("samples", "code", "says"),
    [
        (talk(2.0), "too_short", "2.0 s; at least 3 s"),
        (talk(25.0), "too_long", "20 s"),
        (talk(5.0, level=0.001, noise=0.00001), "silent", "silent"),
        (talk(5.0, level=6.0), "clipped", "clipped"),
        (talk(5.0, noise=0.2), "too_noisy", "quiet room"),
    ],
)
def test_what_cannot_be_a_voice_is_refused_in_words(samples: object, code: str, says: str) -> None:
    with pytest.raises(VoiceRefused, match=says) as refused:
        check(packed(samples))
    assert refused.value.code == code


def test_one_word_in_a_long_silence_is_too_little_speech() -> None:
    quiet = 0.0003 * np.random.default_rng(3).standard_normal(4 * HZ)
    with pytest.raises(VoiceRefused, match="are speech") as refused:
        check(packed(np.concatenate([talk(1.4), quiet])))
    assert refused.value.code == "too_short"


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"RIFF" + bytes(200), b"\x1aE\xdf\xa3" + bytes(50)]
)
def test_what_is_no_sound_is_unreadable(data: bytes) -> None:
    with pytest.raises(VoiceRefused) as refused:
        check(data)
    assert refused.value.code == "unreadable"


def test_process_answers_with_a_line_and_the_sound() -> None:
    code = "from media.voice_file import main; main()"
    run = subprocess.run(
        [sys.executable, "-c", code], input=packed(talk(4.0)), capture_output=True, cwd=ROOT
    )
    line, _, sound = run.stdout.partition(b"\n")
    assert json.loads(line)["seconds"] == 4.0, run
    with wave.open(io.BytesIO(sound)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getnframes()) == (HZ, 1, 4 * HZ)
    told, _, nothing = answer(b"hello").partition(b"\n")
    assert json.loads(told)["code"] == "unreadable" and nothing == b""
