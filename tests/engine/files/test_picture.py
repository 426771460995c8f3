"""Pictures as people send them: upright, on white, in the right colours, bounded, or refused.

Guards: how the camera was held, in every format that tells it; transparency; animations; inks and
depths; what is too large or thin; damaged files; any damage at all is a picture or a refusal.
"""

from __future__ import annotations

import io
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFile

from engine.files import picture as module
from engine.files.file import PICTURE_PIXELS, UnreadableError
from engine.files.picture import read_picture

SIZE = (64, 48)
RED, BLUE, WHITE, BLACK = (255, 0, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)


def flag(mode: str = "RGB") -> Any:
    """Red above, blue below, and a black corner at the top left."""
    image = Image.new("RGB", SIZE, BLUE)
    image.paste(RED, (0, 0, 64, 24))
    image.paste(BLACK, (0, 0, 16, 12))
    return image.convert(mode)


def saved(image: Any, kind: str, **how: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


def seen(data: bytes, at: tuple[int, int]) -> tuple[int, ...]:
    """The colour at x, y."""
    return tuple(int(value) for value in read_picture(data).rgb[at[1], at[0]])


def near(colour: tuple[int, ...], wanted: tuple[int, ...], within: int = 24) -> bool:
    return all(abs(int(a) - int(b)) <= within for a, b in zip(colour, wanted, strict=True))


def is_flag(data: bytes) -> bool:
    rgb = read_picture(data).rgb
    return (
        rgb.shape == (48, 64, 3)
        and near(seen(data, (4, 3)), BLACK)
        and near(seen(data, (50, 8)), RED)
        and near(seen(data, (50, 40)), BLUE)
    )


TURNED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""For each orientation, how the sensor saw the flag."""


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
@pytest.mark.parametrize("orientation", sorted(TURNED))
def test_a_picture_is_upright_however_the_camera_was_held(kind: str, orientation: int) -> None:
    turn = TURNED[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    raw = flag() if turn is None else flag().transpose(turn)
    assert is_flag(saved(raw, kind, exif=exif.tobytes(), quality=95))


def test_notes_that_are_damaged_do_not_cost_the_picture() -> None:
    exif = b"Exif\0\0II*\0\xff\xff\xff\x7f" + bytes(20)
    assert is_flag(saved(flag(), "JPEG", exif=exif, quality=95))


def clear(mode: str, fill: Any, ink: Any) -> Any:
    image = Image.new(mode, SIZE, fill)
    ImageDraw.Draw(image).rectangle((20, 10, 40, 30), fill=ink)
    return image


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "AVIF", "GIF"])
def test_what_is_transparent_shows_white(kind: str) -> None:
    how = {"lossless": True} if kind == "WEBP" else {}
    data = saved(clear("RGBA", (0, 0, 0, 0), (0, 0, 0, 255)), kind, **how)
    assert near(seen(data, (5, 5)), WHITE) and near(seen(data, (30, 20)), BLACK)


def test_every_way_of_png_to_be_transparent() -> None:
    grey = saved(clear("LA", (0, 0), (0, 255)), "PNG")
    palette = clear("P", 0, 1)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    keyed = saved(palette, "PNG", transparency=bytes([0, 255]))
    colour = saved(clear("RGB", (0, 9, 0), BLACK), "PNG", transparency=(0, 9, 0))
    level = saved(clear("L", 7, 0), "PNG", transparency=7)
    for data, ink in ((grey, BLACK), (keyed, RED), (colour, BLACK), (level, BLACK)):
        assert near(seen(data, (5, 5)), WHITE) and near(seen(data, (30, 20)), ink)
    half = saved(Image.new("RGBA", SIZE, (0, 0, 0, 128)), "PNG")
    assert near(seen(half, (5, 5)), (127, 127, 127), 2)


def test_edges_of_transparent_pictures_have_no_dark_rim(monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image.new("RGBA", (512, 512), (0, 0, 0, 0))
    image.paste((255, 255, 255, 255), (101, 101, 400, 400))
    small = read_picture(saved(image, "PNG"), 64 * 64).rgb
    assert small.shape == (64, 64, 3) and int(small.min()) >= 250


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "AVIF"])
def test_an_animation_shows_its_first_picture_and_says_so(kind: str) -> None:
    more = [Image.new("RGB", SIZE, colour) for colour in ("green", "white")]
    how = {"quality": 95} if kind in ("WEBP", "AVIF") else {}
    data = saved(flag(), kind, save_all=True, append_images=more, duration=100, **how)
    assert is_flag(data) and "first picture" in read_picture(data).remark
    assert not read_picture(saved(flag(), kind)).remark


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("CMYK", "JPEG"),
        ("P", "PNG"),
        ("P", "GIF"),
        ("RGB", "BMP"),
        ("RGBA", "BMP"),
        ("RGBA", "PNG"),
    ],
)
def test_every_ink_and_palette_gives_the_same_colours(mode: str, kind: str) -> None:
    assert is_flag(saved(flag(mode), kind, **({"quality": 95} if kind == "JPEG" else {})))


def test_grey_and_black_and_white_pictures() -> None:
    for mode in ("L", "1"):
        data = saved(flag("L").point(lambda level: 255 if level > 50 else 0).convert(mode), "PNG")
        assert seen(data, (4, 3)) == BLACK and seen(data, (50, 8)) == WHITE
    assert near(seen(saved(Image.new("L", SIZE, 100), "JPEG"), (9, 9)), (100, 100, 100), 3)


def png16(channels: int, level: int, *chunks: bytes, width: int = 64) -> bytes:
    """A PNG of 16-bit samples, all the same."""

    def chunk(name: bytes, body: bytes) -> bytes:
        check = zlib.crc32(name + body).to_bytes(4, "big")
        return len(body).to_bytes(4, "big") + name + body + check

    colour = {1: 0, 3: 2, 4: 6}[channels]
    head = width.to_bytes(4, "big") + (48).to_bytes(4, "big") + bytes([16, colour, 0, 0, 0])
    rows = 48 * (b"\0" + 64 * channels * level.to_bytes(2, "big"))
    extra = b"".join(chunk(body[:4], body[4:]) for body in chunks)
    body = chunk(b"IHDR", head) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_deep_pictures_are_scaled_not_clipped() -> None:
    for channels in (1, 3):
        assert near(seen(png16(channels, 40_000), (9, 9)), (156, 156, 156), 1)
    assert seen(png16(1, 40_000, b"tRNS" + (40_000).to_bytes(2, "big")), (9, 9)) == WHITE


def test_large_pictures_are_handed_on_smaller() -> None:
    wide = saved(Image.new("L", (6_000, 3_000), 90), "PNG")
    rgb = read_picture(wide).rgb
    assert rgb.shape[0] * rgb.shape[1] <= PICTURE_PIXELS
    assert rgb.shape[1] / rgb.shape[0] == pytest.approx(2, abs=0.01)
    photo = read_picture(saved(flag().resize((4_000, 3_000)), "JPEG"), 500_000).rgb
    assert photo.shape[:2] == pytest.approx((612, 816), abs=2)


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "WEBP", "JPEG"])
def test_what_is_too_large_is_refused_by_size_before_it_is_unpacked(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_PIXELS", 3_000_000)
    data = saved(Image.new("L" if kind != "WEBP" else "RGB", (2_000, 1_600)), kind)
    monkeypatch.setattr(ImageFile.ImageFile, "load", None)
    with pytest.raises(UnreadableError, match="2000 x 1600 pixels, more than the 3 million"):
        read_picture(data[:4_000])


def test_a_header_that_lies_about_its_size_is_refused() -> None:
    with pytest.raises(UnreadableError, match="60000 x 48 pixels: it is too thin"):
        read_picture(png16(1, 0, width=60_000))
    with pytest.raises(UnreadableError, match="9000000 x 48 pixels, more than"):
        read_picture(png16(1, 0, width=9_000_000))
    for lossy in (True, False):
        webp = bytearray(saved(flag(), "WEBP", lossless=not lossy))
        place = slice(26, 30) if lossy else slice(21, 25)
        webp[place] = b"\xff\x3f\xff\x3f" if lossy else b"\xff\xff\xff\x0f"
        with pytest.raises(UnreadableError, match="16384 x 16384|16383 x 16383"):
            read_picture(bytes(webp))


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\0\0\0\x18ftypheic" + bytes(40), "HEIC"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(40), "HEIC"),
        (b"\0\0\0\x18ftypmp42" + bytes(40), "a video"),
        (b"II*\0" + bytes(40), "TIFF"),
        (b"  <svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"%PDF-1.7", "PDF"),
        (b"\xff\x0a" + bytes(40), "JPEG XL"),
        (b"#EXTM3U\nfile:///etc/passwd", "no JPEG, PNG, WebP, GIF, AVIF or BMP"),
        (b"RIFF\0\0\0\0WEBP", "cut off"),
        (b"\xff\xd8\xff\xe0broken", "cannot be read"),
        (b"", "empty"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(data: bytes, name: str) -> None:
    with pytest.raises(UnreadableError, match=name):
        read_picture(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_of_a_file_that_was_cut_off_counts_what_is_there(kind: str) -> None:
    noise = Image.effect_noise((256, 256), 90).convert("RGB")
    noise.paste(RED, (0, 0, 256, 64))
    data = saved(noise, kind)
    cut = read_picture(data[: len(data) * 3 // 4])
    assert cut.rgb.shape == (256, 256, 3) and "damaged" in cut.remark
    assert near(tuple(cut.rgb[20, 20]), RED)
    with pytest.raises(UnreadableError, match="damaged or cut off"):
        read_picture(data[: data.index(b"\xff\xda") + 14] if kind == "JPEG" else data[:45])


SEEDS = [
    *(saved(flag(), kind) for kind in ("JPEG", "PNG", "GIF", "BMP", "AVIF")),
    saved(flag("RGBA"), "WEBP"),
    saved(flag("CMYK"), "JPEG", progressive=True),
    saved(flag("P"), "PNG", transparency=0),
    saved(flag(), "GIF", save_all=True, append_images=[Image.new("RGB", SIZE)]),
    png16(4, 30_000),
]


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(SEEDS), st.data())
def test_any_damage_gives_a_picture_within_bounds_or_a_refusal(seed: bytes, draw: Any) -> None:
    data = bytearray(seed)
    for _ in range(draw.draw(st.integers(1, 6))):
        at = draw.draw(st.integers(0, len(data) - 1))
        piece = draw.draw(st.binary(max_size=6))
        data[at : at + draw.draw(st.integers(0, 8))] = piece
        if not data:
            break
    try:
        rgb = read_picture(bytes(data), 10_000).rgb
    except UnreadableError as error:
        assert "picture" in str(error) and len(str(error)) < 250
        return
    assert rgb.dtype == np.uint8 and rgb.ndim == 3 and rgb.shape[2] == 3
    assert 0 < rgb.shape[0] * rgb.shape[1] <= 10_000
