"""Picture files of any kind that people send as upright RGB, bounded. Runs in `files.worker`.

Pillow reads them: it knows their turns, palettes, inks and transparency, and tells a file's size
before it unpacks anything.
"""

from __future__ import annotations

import io
import math
import struct
from typing import Any

import numpy as np
from PIL import Image, ImageFile, ImageStat, UnidentifiedImageError

from engine.files.file import PICTURE_PIXELS, PictureFile, UnreadableError

MAX_PIXELS = 8192 * 8192
"""Of a file, as its header tells; a larger one is refused before it is unpacked."""
MAX_RATIO = 1_000
"""Of the sides: the model has no patches for the thinner side of anything beyond."""
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "BMP")
READABLE = "JPEG, PNG, WebP, GIF, AVIF or BMP"
NOTHING_SEEN = 4.0
"""Standard deviation of what is left of a damaged picture, if that is only its ground."""
SHRINK_GAP = 3.0
"""Larger pictures are first reduced by whole numbers to this many times the size wanted."""

Image.MAX_IMAGE_PIXELS = None  # `_check` refuses by its own, lower bound and says so.

_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_KNOWN = (
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"8BPS", "Photoshop"),
    (b"%PDF", "PDF"),
    (b"<svg", "SVG"),
    (b"<?xml", "SVG or other XML"),
)


def read_picture(data: bytes, kept_pixels: int = PICTURE_PIXELS) -> PictureFile:
    """The file's first picture, `kept_pixels` at most; raises `UnreadableError`. Blocks."""
    _check_kind(data)
    try:
        try:
            image, remark = _load(data, kept_pixels), ""
        except UnreadableError:
            raise
        except (OSError, SyntaxError, ValueError, EOFError):
            image, remark = _load_damaged(data, kept_pixels), "the file is damaged or cut off"
        flat = _on_white(_eight_bit(image), kept_pixels)
        turn = _TURNS.get(_orientation(image))
        upright = flat if turn is None else flat.transpose(turn)
        if not remark and image.format != "MPO" and getattr(image, "is_animated", False):
            remark = "only the first picture of the animation is used"
        return PictureFile(np.array(upright, dtype=np.uint8), remark)
    except UnreadableError:
        raise
    except MemoryError:
        raise UnreadableError("the picture needs too much memory to be read") from None
    except Exception as error:  # noqa: BLE001 - Pillow raises nearly anything for damaged files
        known = str(error) and not isinstance(error, UnidentifiedImageError)
        reason = " ".join(str(error).split())[:120] if known else "the file is damaged"
        raise UnreadableError(f"the picture cannot be read: {reason}") from None


def _load(data: bytes, kept_pixels: int) -> Any:
    if data.startswith(b"RIFF"):
        _check(*_webp_size(data))
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    _check(*image.size)
    # JPEG alone can be unpacked at a half, a quarter or an eighth of its size.
    image.draft(None, _fitting(image.size, kept_pixels))
    image.load()
    return image


def _load_damaged(data: bytes, kept_pixels: int) -> Any:
    """What is there of a damaged file; raises what Pillow raises if that is nothing."""
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        image = _load(data, kept_pixels)
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = False
    if max(ImageStat.Stat(image.convert("RGB")).stddev) < NOTHING_SEEN:
        raise UnreadableError("the picture cannot be read: the file is damaged or cut off")
    return image


def _check_kind(data: bytes) -> None:
    """Name what cannot be read."""
    if not data:
        raise UnreadableError("the picture's file is empty")
    brand = data[8:12] if data[4:8] == b"ftyp" else b""
    name = next((name for start, name in _KNOWN if data.lstrip().startswith(start)), "")
    if b"avif" in data[8:40] or brand == b"avis":
        return
    if brand:
        name = "HEIC" if brand in _HEIF_BRANDS else "a video"
    if name:
        raise UnreadableError(
            f"the picture's file is {name}, which cannot be read here: send it as {READABLE}"
        )
    starts = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM")
    if not data.startswith(starts) and not (data[:4] == b"RIFF" and data[8:12] == b"WEBP"):
        raise UnreadableError(f"the picture is no {READABLE} file")


def _check(width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise UnreadableError("the picture has no pixels")
    if width * height > MAX_PIXELS:
        raise UnreadableError(
            f"the picture has {width} x {height} pixels, more than the "
            f"{MAX_PIXELS // 1_000_000} million that are taken: send a smaller one"
        )
    if max(width, height) > MAX_RATIO * min(width, height):
        raise UnreadableError(
            f"the picture has {width} x {height} pixels: it is too thin to be looked at"
        )


def _webp_size(data: bytes) -> tuple[int, int]:
    """Of the canvas. Pillow makes room for it when it opens the file."""
    kind, body = data[12:16], data[20:30]
    if len(body) < 10:
        raise UnreadableError("the picture cannot be read: the file is cut off")
    if kind == b"VP8X":
        return (1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little"))
    if kind == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    sides = (int.from_bytes(body[at : at + 2], "little") & 0x3FFF for at in (6, 8))
    return next(sides), next(sides)


def _fitting(size: tuple[int, int], pixels: int) -> tuple[int, int]:
    """The size of at most so many pixels in the same shape."""
    width, height = size
    scale = min(1.0, math.sqrt(pixels / (width * height)))
    return max(1, int(width * scale)), max(1, int(height * scale))


def _eight_bit(image: Any) -> Any:
    """Pillow clips what is deeper than 8 bits when it converts it."""
    if image.mode == "F":
        raise UnreadableError("the picture's values are no whole numbers, which cannot be read")
    if image.mode != "I" and not image.mode.startswith("I;16"):
        return image
    deep = np.asarray(image).astype(np.int64)
    grey = Image.fromarray(np.clip(deep >> 8, 0, 255).astype(np.uint8))
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        grey.putalpha(Image.fromarray(np.where(deep == clear, 0, 255).astype(np.uint8)))
    return grey


def _on_white(image: Any, kept_pixels: int) -> Any:
    """As RGB of the wanted size; what shines through shines on white."""
    size = _fitting(image.size, kept_pixels)
    if not image.has_transparency_data:
        plain = image if image.mode in ("RGB", "L", "CMYK") else image.convert("RGB")
        return _shrunk(plain, size).convert("RGB")
    seen = image if image.mode == "RGBA" else image.convert("RGBA")
    # Colours times their opacity can be averaged, and what of them is lacking is white.
    weighed = np.asarray(_shrunk(seen.convert("RGBa"), size))
    colours, opacity = weighed[..., :3].astype(np.uint16), weighed[..., 3:]
    return Image.fromarray(np.minimum(colours + (255 - opacity), 255).astype(np.uint8))


def _shrunk(image: Any, size: tuple[int, int]) -> Any:
    if size == image.size:
        return image
    return image.resize(size, Image.Resampling.BICUBIC, reducing_gap=SHRINK_GAP)


def _orientation(image: Any) -> int:
    """How the camera was held (Exif 2.32, tag 0x0112); AVIF's own turns come as this, too."""
    try:
        return int(image.getexif().get(0x0112, 1))
    except (SyntaxError, ValueError, TypeError, KeyError, IndexError, OSError, struct.error):
        # A picture whose notes are damaged is still a picture.
        return 1
