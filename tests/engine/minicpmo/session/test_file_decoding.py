"""Video files: one picture and a second of sound per second, whatever the file is like.

Guards: the frame of the middle of each second; sound at its place; files without sound, with less
of it, too long, too large, damaged, of another kind; nothing but the named demuxers is tried.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from engine.files import film as module
from engine.files.file import FRAME_PIXELS
from engine.files.mono import from_recording
from engine.files.worker import read_file
from engine.ipc.protocol import AudioPart, ItemIn, TextPart, VideoPart
from engine.minicpmo.session.file_decoding import Clip, read_clip
from engine.minicpmo.session.item_decoding import DecodedSound, with_files
from tests.engine.minicpmo.videos import film, grey


def pitch(sound: torch.Tensor) -> float:
    """The strongest frequency of a second of sound."""
    return float(torch.fft.rfft(sound[2000:14000]).abs().argmax()) * 16_000 / 12_000


@pytest.mark.parametrize("kind", ["mp4", "webm", "matroska", "mov"])
def test_each_second_has_its_picture_and_its_sound(kind: str) -> None:
    clip = read_clip(film(3.0, kind=kind))
    assert len(clip.seconds) == 3 and not clip.cut
    for index, second in enumerate(clip.seconds):
        assert second.picture.shape == (48, 64, 3) and second.picture.dtype == torch.uint8
        assert abs(float(second.picture.float().mean()) - grey(index)) < 3
        assert second.sound is not None and second.sound.shape == (16_000,)
        assert abs(pitch(second.sound) - (300 + 200 * index)) < 10


def test_picture_is_the_frame_nearest_to_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[float] = []
    picture = module._FilmReader._picture

    def note(self: module._FilmReader, frame: Any) -> Any:
        taken.append(frame.time)
        return picture(self, frame)

    monkeypatch.setattr(module._FilmReader, "_picture", note)
    read_clip(film(2.0, fps=10, sound_s=0))
    assert taken == pytest.approx([0.5, 1.5])


def test_slow_video_shows_its_frame_until_the_next_one() -> None:
    clip = read_clip(film(4, fps=1, sound_s=6.0))
    assert len(clip.seconds) == 6
    assert torch.equal(clip.seconds[3].picture, clip.seconds[5].picture)


def test_video_without_sound_is_pictures_only() -> None:
    clip = read_clip(film(2.0, sound_s=0))
    assert [second.sound for second in clip.seconds] == [None, None]


def test_sound_that_ends_early_is_filled_with_silence() -> None:
    clip = read_clip(film(3.0, sound_s=1.0))
    assert len(clip.seconds) == 3
    last = clip.seconds[2].sound
    assert last is not None and not last.any()


def test_long_video_is_cut_and_says_so() -> None:
    exact = read_clip(film(60.0, fps=1, sound_s=1))
    assert len(exact.seconds) == 60 and not exact.cut
    clip = read_clip(film(62.0, fps=1))
    assert len(clip.seconds) == 60 and "first 60 s" in clip.cut


def test_large_pictures_are_scaled_down_and_keep_their_shape() -> None:
    clip = read_clip(film(1.0, fps=2, size=(1920, 1080), sound_s=0))
    assert clip.seconds[0].picture.shape == (720, 1280, 3)


def test_too_many_pixels_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PIXELS", 64 * 40)
    with pytest.raises(ValueError, match="64 x 48 pixels are too many"):
        read_clip(film(1.0))


def test_reading_that_takes_too_long_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "READ_LIMIT_S", -1.0)
    try:
        clip = read_clip(film(9.0))
    except ValueError as error:
        assert "nothing could be decoded" in str(error)
    else:
        assert "longer than" in clip.cut


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello, this is no video",
        b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b"\x00\x00\x00\x18ftypmp42" + b"\x00" * 200,
        b"\x1a\x45\xdf\xa3" + b"\xff" * 200,
    ],
)
def test_what_is_no_video_is_refused_with_a_reason(data: bytes) -> None:
    with pytest.raises(ValueError, match="the video"):
        read_clip(data)


def test_sound_alone_is_no_video() -> None:
    with pytest.raises(ValueError, match="no pictures"):
        read_clip(film(0.0, sound_s=1.0, kind="matroska"))


def test_damaged_file_gives_what_can_be_read() -> None:
    whole = film(6.0, kind="webm")
    clip = read_clip(whole[: len(whole) // 2])
    assert 1 <= len(clip.seconds) < 6


def test_recording_is_brought_to_the_models_rate() -> None:
    at = np.arange(24_000) / 24_000
    pcm = (8000 * np.sin(2 * np.pi * 440 * at)).astype(np.int16).tobytes()
    sound = from_recording(pcm)
    assert abs(len(sound) - 16_000) <= 32
    assert abs(pitch(torch.from_numpy(sound)) - 440) < 5


def test_parts_of_an_item_are_read_in_order() -> None:
    parts = (TextPart("look"), VideoPart(b"a film"), VideoPart(b"no film"), AudioPart(b"PCM"))
    files = {
        1: read_file("video", film(1.0), FRAME_PIXELS),
        3: read_file("recording", bytes(48_000), 0),
    }
    item = with_files(ItemIn("s", "i", "user", parts), files)
    assert len(item.parts) == 3 and item.parts[0] == "look"
    assert isinstance(item.parts[1], Clip) and isinstance(item.parts[2], DecodedSound)
    assert item.num_bytes > 48 * 64 * 3
    assert item.words().parts == ("look",)


def test_a_film_of_sound_alone_is_a_recording() -> None:
    heard = read_file("video", film(0.0, sound_s=1.0, kind="matroska"), FRAME_PIXELS)
    item = with_files(ItemIn("s", "i", "user", (VideoPart(b"a film"),)), {0: heard})
    [part] = item.parts
    assert isinstance(part, DecodedSound) and abs(len(part.sound) - 16_000) < 1_000
