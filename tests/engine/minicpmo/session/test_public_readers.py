"""Names by which others read files as the native engine does: they stay where they are."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from engine.clip import read_clip
from engine.readitem import decode_picture


def test_a_picture_is_upright_rgb() -> None:
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20), "orange").save(file, "JPEG", exif=exif)
    assert tuple(decode_picture(file.getvalue()).shape) == (40, 20, 3)


def test_what_is_no_file_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="picture"):
        decode_picture(b"nonsense")
    with pytest.raises(ValueError):
        read_clip(b"nonsense")
