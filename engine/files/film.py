"""Video and sound files as pictures, one for each second, and sound. Runs in `files.worker`."""

from __future__ import annotations

import io
import math
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np

from engine.files.file import FRAME_PIXELS, MAX_SECONDS, Film, Kind, Pixels, UnreadableError
from engine.files.mono import Mono, from_recording

MAX_SIDE = 1_280
"""Larger frames are scaled down: the model looks at about 448 x 448 of them anyway."""
MAX_PIXELS = 8192 * 4352
READ_LIMIT_S = 45.0
"""A file that takes longer to decode is cut where the time ended."""
CODEC_THREADS = 2
MIN_REST_S = 0.1
"""A shorter rest at the end is no second of its own."""
BEYOND_S = MAX_SECONDS + MIN_REST_S
OPENING_BYTES = 512 * 1024**2
"""That finding out what a file holds may take: kilobytes may promise a billion samples."""
MAX_DAMAGES = 2_000
"""After so many packets that could not be read, the rest of the file is left."""
HD_LINES = 720
"""From this height on, pictures that do not name their colours mean those of BT.709."""
BT709 = 1
UNSPECIFIED = 2

# Named, because a demuxer that FFmpeg guesses, such as that of playlists, may open other files.
_QUICKTIME_ATOMS = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
_MATROSKA = b"\x1a\x45\xdf\xa3"
_SOUND_STARTS = (
    (b"ID3", "mp3"),
    (b"OggS", "ogg"),
    (b"fLaC", "flac"),
    (b"RIFF", "wav"),
    (b"FORM", "aiff"),
    (b"caff", "caf"),
    (b"#!AMR", "amr"),
)


def read_film(data: bytes, kept_pixels: int = FRAME_PIXELS) -> Film:
    """Decode a file's first minute; raises `UnreadableError`. Blocks."""
    return _read("video", data, _container(data), kept_pixels)


def read_recording(data: bytes) -> Film:
    """The sound of a file, or of 24 kHz PCM; raises `UnreadableError`. Blocks."""
    container = sound_container(data)
    if not container:
        return Film((), (), from_recording(data))
    film = _read("recording", data, container, 0)
    if film.sound is None or not len(film.sound):
        raise UnreadableError("the recording cannot be read: there is no sound in it")
    return film


def _read(kind: Kind, data: bytes, container: str, kept_pixels: int) -> Film:
    try:
        # Titles are often in another encoding than they should be.
        file = io.BytesIO(data)
        with _bounded_memory(OPENING_BYTES):
            opened = av.open(file, "r", format=container, metadata_errors="replace")
        with opened:
            return _FilmReader(kind, opened, kept_pixels).read()
    except UnreadableError:
        raise
    except MemoryError:
        raise UnreadableError(f"the {kind} needs too much memory to be read") from None
    except Exception as error:  # noqa: BLE001 - what PyAV raises for damaged files is not told
        reason = getattr(error, "strerror", "") or "its file is damaged"
        raise UnreadableError(f"the {kind} cannot be read: {reason}") from None


@contextmanager
def _bounded_memory(more_bytes: int) -> Iterator[None]:
    """What this process may allocate in the block, beside what it has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    status = Path("/proc/self/status").read_text()
    held = 1024 * int(status.partition("VmData:")[2].split()[0])
    bound = held + more_bytes
    wanted = bound if soft == resource.RLIM_INFINITY else min(bound, soft)
    resource.setrlimit(resource.RLIMIT_DATA, (wanted, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _container(data: bytes) -> str:
    if data.startswith(_MATROSKA):
        return "matroska"
    if data[4:8] in _QUICKTIME_ATOMS:
        return "mov"
    raise UnreadableError("the video is no MP4, QuickTime, WebM or Matroska file")


def sound_container(data: bytes) -> str:
    """The demuxer of a sound file; empty for what does not begin like one."""
    if data[:4] == b"RIFF" and data[8:12] != b"WAVE":
        return ""
    named = next((name for start, name in _SOUND_STARTS if data.startswith(start)), "")
    if named:
        return named
    return _container(data) if data.startswith(_MATROSKA) or data[4:8] == b"ftyp" else ""


class _Frames:
    """Chooses for each second the frame nearest to its middle, as frames come in order."""

    def __init__(self, convert: Callable[[Any], Pixels]) -> None:
        self._convert = convert
        self.pictures: list[Pixels] = []
        self.shown: list[int] = []
        self.end_s = 0.0
        """Where the last frame ends."""
        self._before: tuple[float, Any] | None = None
        self._newest: Any = None

    @property
    def is_full(self) -> bool:
        return len(self.shown) >= MAX_SECONDS

    def push(self, at_s: float, lasts_s: float, frame: Any) -> None:
        before = self._before or (at_s, frame)
        while not self.is_full and at_s >= (middle_s := len(self.shown) + 0.5):
            is_nearer = at_s - middle_s < middle_s - before[0]
            self._take(frame if is_nearer else before[1])
        self._before = (at_s, frame)
        self.end_s = max(self.end_s, at_s + lasts_s)

    def finish(self, seconds: int) -> None:
        """Show the last frame until the end."""
        while self._before is not None and len(self.shown) < seconds:
            self._take(self._before[1])
        self._before = None

    def _take(self, frame: Any) -> None:
        if self._newest is not frame:
            self.pictures.append(self._convert(frame))
            self._newest = frame
        self.shown.append(len(self.pictures) - 1)


class _FilmReader:
    def __init__(self, kind: Kind, container: Any, kept_pixels: int) -> None:
        self._kind = kind
        self._container = container
        self._kept_pixels = kept_pixels
        self._until = time.monotonic() + READ_LIMIT_S
        # A sound file's cover is no film.
        pictured = container.streams.video if kept_pixels else ()
        self._video = next((s for s in pictured if not _is_cover(s)), None)
        self._audio = next(iter(container.streams.audio), None)
        if self._video is not None:
            _check_size(self._video.codec_context)
            self._video.thread_type = "AUTO"
            self._video.codec_context.thread_count = CODEC_THREADS
            self._video.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        self._streams = [stream for stream in (self._video, self._audio) if stream is not None]
        starts = [s.start_time * s.time_base for s in self._streams if s.start_time is not None]
        self._begin_s = float(min(starts, default=0))
        self._frames = _Frames(self._picture)
        self._mono: Mono | None = None
        self._damages = 0
        self._first_error: av.error.FFmpegError | None = None

    def read(self) -> Film:
        cut = self._decode()
        sound = self._mono.finish()[: MAX_SECONDS * Mono.HZ] if self._mono is not None else None
        heard_s = 0.0 if self._mono is None else self._mono.num_samples / Mono.HZ
        lasts_s = max(self._frames.end_s, heard_s)
        if lasts_s > BEYOND_S:
            cut = f"only the first {MAX_SECONDS} s are used"
        seconds = min(MAX_SECONDS, max(1, math.ceil(lasts_s - MIN_REST_S)))
        self._frames.finish(seconds)
        if not self._frames.shown and sound is None:
            if self._first_error is not None:
                raise self._first_error
            raise UnreadableError(f"the {self._kind} cannot be read: nothing could be decoded")
        shown = tuple(self._frames.shown[:seconds])
        return Film(tuple(self._frames.pictures), shown, sound, cut)

    def _decode(self) -> str:
        """Decode what is needed; what is missing, for people."""
        while self._damages < MAX_DAMAGES:
            try:
                for packet in self._container.demux(self._streams):
                    if all(map(self._is_beyond, self._streams)):
                        return self._told()
                    if not self._is_beyond(packet.stream):
                        self._take(packet)
                    if time.monotonic() > self._until:
                        return f"reading it took longer than {READ_LIMIT_S:g} s"
                return self._told()
            except av.error.FFmpegError as error:
                # The demuxer may find its way again behind what it could not read.
                self._note(error)
        return self._told()

    def _take(self, packet: Any) -> None:
        try:
            for frame in packet.decode():
                self._push(packet.stream, frame)
        except av.error.EOFError:
            return
        except av.error.FFmpegError as error:
            self._note(error)
            if packet.stream is self._audio and self._mono is not None and packet.duration:
                self._mono.pause(min(1.0, float(packet.duration * packet.time_base)))

    def _note(self, error: av.error.FFmpegError) -> None:
        self._damages += 1
        self._first_error = self._first_error or error

    def _told(self) -> str:
        return "parts of the file are damaged" if self._damages else ""

    def _is_beyond(self, stream: Any) -> bool:
        """Whether all that is used of a stream was decoded, and it goes on."""
        if stream is self._video:
            return self._frames.end_s > BEYOND_S
        return self._mono is not None and self._mono.num_samples > BEYOND_S * Mono.HZ

    def _push(self, stream: Any, frame: Any) -> None:
        at_s = None if frame.time is None else max(0.0, frame.time - self._begin_s)
        if self._video is not None and stream is self._video:
            _check_size(frame)
            rate = stream.average_rate
            at_s = self._frames.end_s if at_s is None else at_s
            self._frames.push(at_s, float(1 / rate) if rate else 0.0, frame)
            return
        if self._mono is None:
            self._mono = Mono(silence_s=min(at_s or 0.0, MAX_SECONDS))
        self._mono.push(frame)

    def _picture(self, frame: Any) -> Pixels:
        """A frame as [height, width, 3], upright, in square pixels, bounded."""
        ratio = self._video.sample_aspect_ratio if self._video is not None else None
        stretch = float(ratio) if ratio and 0.25 <= ratio <= 4 else 1.0
        width, height = frame.width * stretch, float(frame.height)
        kept = math.sqrt(self._kept_pixels / (width * height))
        scale = min(1.0, MAX_SIDE / max(width, height), kept)
        colours = (
            {"src_colorspace": BT709}
            if frame.colorspace == UNSPECIFIED and frame.height >= HD_LINES
            else {}
        )
        rgb = frame.reformat(
            width=max(1, round(width * scale)),
            height=max(1, round(height * scale)),
            format="rgb24",
            interpolation="AREA",
            **colours,
        )
        # Phones film on their side and say by how much to turn, counterclockwise.
        turned = np.rot90(rgb.to_ndarray(), round(frame.rotation / 90) % 4)
        return np.ascontiguousarray(turned)


def _is_cover(stream: Any) -> bool:
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def _check_size(sized: Any) -> None:
    if sized.width * sized.height > MAX_PIXELS:
        raise UnreadableError(
            f"the video's {sized.width} x {sized.height} pixels are too many: send a smaller one"
        )
