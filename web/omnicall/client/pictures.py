"""Pictures and videos as parts of a message."""

from __future__ import annotations

import base64
from pathlib import Path

from omnicall.client.errors import ClientError

PICTURES = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG", "image/png"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
)
VIDEOS = {
    ".mp4": "video/mp4",
    ".mov": "video/quicktime",
    ".webm": "video/webm",
    ".mkv": "video/x-matroska",
}


def file_part(file: str | Path | bytes) -> dict[str, str]:
    """A picture's bytes, or the path of a picture or video; blocks. Raises `ClientError`."""
    if isinstance(file, bytes):
        name, data = "these bytes", file
    else:
        name, data = str(file), _read(Path(file))
    if (kind := VIDEOS.get(Path(name).suffix.lower())) is not None:
        return {"type": "input_video", "video_url": _data_url(kind, data)}
    return {"type": "input_image", "image_url": _data_url(_picture_kind(name, data), data)}


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ClientError(f"{path} cannot be read: {error.strerror}") from error


def _picture_kind(name: str, data: bytes) -> str:
    for begin, kind in PICTURES:
        if data.startswith(begin):
            return kind
    if data[8:12] == b"WEBP":
        return "image/webp"
    if data[4:12] in (b"ftypavif", b"ftypavis"):
        return "image/avif"
    raise ClientError(f"{name} is no picture that is taken: JPEG, PNG, WebP, GIF, AVIF, BMP")


def _data_url(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
