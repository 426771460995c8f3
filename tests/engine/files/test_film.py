"""Films and sound files as people send them: damage costs a moment, the rest counts.

Guards: damaged packets, missing beginnings, turned and stretched pictures, colours, uneven frames,
sound alone, channels that cancel each other out; any damage at all is a film or a refusal.
"""

from __future__ import annotations

import io
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.files.file import MAX_SECONDS, Film, UnreadableError
from engine.files.film import read_film, read_recording
from tests.engine.minicpmo.videos import film, grey

RATE = 48_000


def picture_level(read: Film, second: int) -> float:
    return float(read.pictures[read.shown[second]].mean())


def packets(data: bytes, kind: str) -> list[tuple[int, int, bool]]:
    """Of the pictures: where each packet lies, its size, whether it stands alone."""
    container: Any
    with av.open(io.BytesIO(data), format=kind) as container:
        return [(p.pos, p.size, p.is_keyframe) for p in container.demux(video=0) if p.size]


def test_one_damaged_packet_costs_a_moment() -> None:
    data = bytearray(film(4.0))
    at, size, _ = packets(bytes(data), "mov")[13]
    data[at : at + 4] = b"\x7f\xff\xff\xff"
    read = read_film(bytes(data))
    assert len(read.shown) == 4 and "damaged" in read.remark
    assert abs(picture_level(read, 3) - grey(3)) < 4
    assert read.sound is not None and len(read.sound) >= 3.9 * 16_000


def test_damaged_sound_does_not_move_what_follows() -> None:
    data = bytearray(film(4.0))
    container: Any
    with av.open(io.BytesIO(bytes(data)), format="mov") as container:
        sound = [p for p in container.demux(audio=0) if p.size]
        spoilt = [(p.pos, p.size) for p in sound if 0.9 < float(p.pts * p.time_base) < 1.1]
    for at, size in spoilt:
        data[at : at + size] = b"\xff" * size
    read = read_film(bytes(data))
    assert len(read.shown) == 4 and read.sound is not None
    assert abs(len(read.sound) - 4 * 16_000) < 2_000
    last = np.abs(np.fft.rfft(read.sound[50_000:62_000]))
    assert abs(float(last.argmax()) * 16_000 / 12_000 - 900) < 10


def test_a_film_that_begins_without_a_keyframe_is_shown_from_the_first_picture_there_is() -> None:
    data = bytearray(film(4.0, sound_s=0, fps=10, kind="webm"))
    at, size, is_key = packets(bytes(data), "matroska")[0]
    assert is_key
    container: Any
    with av.open(io.BytesIO(bytes(data))) as container:
        first = next(p for p in container.demux(video=0))
        place = bytes(data).index(bytes(first))
    data[place : place + len(bytes(first))] = bytes(len(bytes(first)))
    try:
        read = read_film(bytes(data))
    except UnreadableError as error:
        assert "video cannot be read" in str(error)
    else:
        assert read.shown and read.remark


def encoded(frames: list[tuple[int, Any]], *, tb: Fraction = Fraction(1, 10), **how: Any) -> bytes:
    """Pictures with their times as MP4; `how`: attributes of the codec."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as out:
        video: Any = out.add_stream("libx264", rate=10)
        video.height, video.width = frames[0][1].shape[:2]
        video.pix_fmt = "yuv420p"
        video.codec_context.time_base = tb
        video.codec_context.options = {"crf": "4", "bf": "0"}
        target = {key: how.pop(key) for key in ("dst_colorspace", "dst_color_range") if key in how}
        for name, value in how.items():
            setattr(video.codec_context, name, value)
        for at, rgb in frames:
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            frame = frame.reformat(format="yuv420p", **target)
            frame.pts, frame.time_base = at, tb
            out.mux(video.encode(frame))
        out.mux(video.encode())
    return file.getvalue()


def plain(colour: tuple[int, int, int], size: tuple[int, int] = (64, 48)) -> Any:
    return np.full((size[1], size[0], 3), colour, np.uint8)


@pytest.mark.parametrize(("matrix", "coded"), [(1, 1), (6, 5), (9, 9)])
@pytest.mark.parametrize("values", [1, 2])
def test_colours_follow_what_the_film_says_of_them(matrix: int, coded: int, values: int) -> None:
    data = encoded(
        [(n, plain((200, 40, 60))) for n in range(5)],
        colorspace=matrix,
        color_range=values,
        dst_colorspace=coded,
        dst_color_range=values,
    )
    assert read_film(data).pictures[0][20, 20] == pytest.approx((200, 40, 60), abs=6)


@pytest.mark.parametrize(("size", "coded"), [((64, 48), 5), ((1280, 720), 1)])
def test_films_that_do_not_name_their_colours_have_those_of_their_size(
    size: tuple[int, int], coded: int
) -> None:
    data = encoded([(0, plain((200, 40, 60), size))], dst_colorspace=coded)
    assert read_film(data).pictures[0][20, 20] == pytest.approx((200, 40, 60), abs=6)


def test_uneven_frames_are_shown_at_their_times() -> None:
    data = encoded([(0, plain((20,) * 3)), (9, plain((90,) * 3)), (31, plain((200,) * 3))])
    read = read_film(data)
    assert [round(picture_level(read, s), -1) for s in range(3)] == [90, 90, 200]


@pytest.mark.parametrize("size", [(34, 18), (2, 2), (50, 1000)])
def test_odd_sizes(size: tuple[int, int]) -> None:
    [picture] = read_film(encoded([(0, plain((9, 90, 200), size))])).pictures
    assert picture.shape == (size[1], size[0], 3)


def test_pictures_are_stretched_to_square_pixels() -> None:
    data = encoded([(0, plain((9, 9, 9)))], sample_aspect_ratio=Fraction(2, 1))
    assert read_film(data).pictures[0].shape == (48, 128, 3)


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_a_phone_held_on_its_side_films_upright(degrees: int) -> None:
    rgb = plain((0, 0, 255))
    rgb[:24] = (255, 0, 0)
    data = bytearray(encoded([(0, rgb)]))
    # ISO/IEC 14496-12, 8.3.2: the matrix in the track's header, 16.16 fixed point.
    at = bytes(data).index(b"tkhd") + 4 + 40
    cos, sin = {0: (1, 0), 90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    matrix = (cos << 16, sin << 16, 0, -sin << 16, cos << 16, 0, 0, 0, 1 << 30)
    data[at : at + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in matrix)
    [picture] = read_film(bytes(data)).pictures
    turned = np.rot90(rgb, -degrees // 90 % 4)
    assert picture.shape == turned.shape
    assert np.abs(picture.astype(int) - turned).mean() < 12


def test_frames_are_kept_as_small_as_asked() -> None:
    [picture] = read_film(film(1.0, fps=1, size=(1280, 720), sound_s=0), 40_000).pictures
    assert picture.shape[0] * picture.shape[1] <= 40_400


def test_the_sound_of_a_film_of_sound_alone_is_heard() -> None:
    read = read_film(film(0.0, sound_s=2.0, kind="mp4"))
    assert read.pictures == () == read.shown
    assert read.sound is not None and abs(len(read.sound) - 32_000) < 1_000


# ---------------------------------------------------------------- sound files


def wave(seconds: float, *gains: float) -> Any:
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * RATE)) / RATE)
    return np.stack([gain * tone for gain in gains]).astype(np.float32)


def recorded(samples: Any, container: str, codec: str, rate: int = RATE) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format=container) as out:
        stream: Any = out.add_stream(codec, rate=rate)
        stream.layout = layout = "mono" if len(samples) == 1 else "stereo"
        resampler = av.AudioResampler(format=stream.format, layout=layout, rate=rate)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
        frame.sample_rate = RATE
        fifo: Any = av.AudioFifo()
        for piece in (*resampler.resample(frame), *resampler.resample(None)):
            piece.pts = None
            fifo.write(piece)
        while piece := fifo.read(stream.codec_context.frame_size or 1024, partial=True):
            out.mux(stream.encode(piece))
        out.mux(stream.encode())
    return file.getvalue()


FILES = [
    ("wav", "pcm_s16le", RATE),
    ("wav", "pcm_u8", 8_000),
    ("wav", "pcm_f32le", RATE),
    ("aiff", "pcm_s16be", RATE),
    ("caf", "pcm_s16le", RATE),
    ("mp3", "libmp3lame", RATE),
    ("ogg", "libopus", RATE),
    ("flac", "flac", RATE),
    ("mp4", "aac", RATE),
    ("webm", "libopus", RATE),
]


def strongest_hz(sound: Any) -> float:
    piece = sound[2_000:14_000]
    return float(np.abs(np.fft.rfft(piece)).argmax()) * 16_000 / len(piece)


@pytest.mark.parametrize(("container", "codec", "rate"), FILES)
def test_sound_files_are_heard(container: str, codec: str, rate: int) -> None:
    sound = read_recording(recorded(wave(1.0, 1.0), container, codec, rate)).sound
    assert sound is not None and abs(len(sound) - 16_000) < 1_500
    assert abs(strongest_hz(sound) - 440) < 4


@pytest.mark.parametrize("gains", [(1, 1), (1, -1), (1, 0), (0, 1), (0.2, -0.2)])
def test_no_channel_takes_the_other_ones_sound_away(gains: tuple[float, float]) -> None:
    for data in (recorded(wave(1.0, *gains), "wav", "pcm_s16le"),):
        sound = read_recording(data).sound
        assert sound is not None and abs(strongest_hz(sound) - 440) < 4
        wanted = 0.3 * max(map(abs, gains)) / np.sqrt(2)
        assert float(np.sqrt(np.mean(sound[1_000:15_000] ** 2))) == pytest.approx(wanted, rel=0.1)


def test_a_long_sound_file_is_cut_and_says_so() -> None:
    read = read_recording(recorded(wave(62.0, 1.0), "flac", "flac"))
    assert read.sound is not None and len(read.sound) == 60 * 16_000
    assert "first 60 s" in read.remark


def test_a_damaged_sound_file_is_heard_but_for_the_damage() -> None:
    data = bytearray(recorded(wave(3.0, 1.0), "mp3", "libmp3lame"))
    data[len(data) // 2 : len(data) // 2 + 400] = b"\0" * 400
    sound = read_recording(bytes(data)).sound
    assert sound is not None and len(sound) > 2.7 * 16_000
    with pytest.raises(UnreadableError, match="recording"):
        read_recording(b"OggS" + bytes(400))


def test_plain_samples_are_no_file() -> None:
    pcm = np.full(24_000, 1_000, np.int16).tobytes()
    sound = read_recording(pcm).sound
    assert sound is not None and abs(len(sound) - 16_000) <= 32
    with pytest.raises(UnreadableError, match="empty"):
        read_recording(b"")


# ---------------------------------------------------------------- any damage

SEEDS = [film(2.0, fps=5), film(2.0, fps=5, kind="webm"), film(0.0, sound_s=1.0)]


@settings(max_examples=30, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(SEEDS), st.data())
def test_any_damage_gives_a_film_within_bounds_or_a_refusal(seed: bytes, draw: Any) -> None:
    data = bytearray(seed)
    for _ in range(draw.draw(st.integers(1, 8))):
        at = draw.draw(st.integers(0, len(data) - 1))
        piece = draw.draw(st.binary(max_size=8))
        data[at : at + len(piece) + draw.draw(st.integers(0, 2))] = piece
    try:
        read = read_film(bytes(data), 2_000)
    except UnreadableError as error:
        assert "video" in str(error)
        return
    assert len(read.pictures) <= len(read.shown) <= MAX_SECONDS
    assert all(0 <= index < len(read.pictures) for index in read.shown)
    assert all(picture.size <= 3 * 2_200 for picture in read.pictures)
    assert read.sound is None or len(read.sound) <= 60 * 16_000
    assert read.shown or read.sound is not None


@pytest.mark.parametrize("pcm", [b"", b"7"])
def test_recording_without_a_sample_is_empty(pcm: bytes) -> None:
    with pytest.raises(UnreadableError, match="the recording is empty"):
        read_recording(pcm)
