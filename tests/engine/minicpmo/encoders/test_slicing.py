"""Pictures: sizes and slices of the specification's table, Pillow's filter, patches."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from engine.minicpmo.encoders.slicing import cut, plan_slices, resize
from engine.minicpmo.models.config import PictureConfig
from engine.minicpmo.models.vision.siglip import num_patches
from tests.picture_batches import grid_of, patch_batch, strip

CONFIG = PictureConfig(14, 448, 9, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def noise(height: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize(
    ("size", "slices", "grid", "images", "piece"),
    [
        ((448, 448), 9, (32, 32), 1, None),
        ((224, 224), 1, (32, 32), 1, None),
        ((640, 480), 1, (28, 37), 1, None),
        ((640, 480), 2, (28, 37), 3, (39, 26)),
        ((640, 480), 9, (28, 37), 3, (39, 26)),
        ((1280, 720), 1, (24, 43), 1, None),
        ((1280, 720), 2, (24, 43), 3, (34, 30)),
        ((1280, 720), 4, (24, 43), 4, (42, 25)),
        ((1280, 720), 9, (24, 43), 7, (29, 35)),
        ((1920, 1080), 2, (24, 43), 3, None),
        ((1920, 1080), 4, (24, 43), 4, None),
        ((1920, 1080), 9, (24, 43), 9, (34, 30)),
        ((720, 1280), 2, (43, 24), 3, None),
        ((720, 1280), 9, (43, 24), 7, None),
        ((2240, 2240), 2, (32, 32), 3, None),
        ((2240, 2240), 4, (32, 32), 5, None),
        ((2240, 2240), 9, (32, 32), 10, None),
    ],
)
def test_sizes_and_slices(
    size: tuple[int, int],
    slices: int,
    grid: tuple[int, int],
    images: int,
    piece: tuple[int, int] | None,
) -> None:
    plan = plan_slices(size, CONFIG, slices)
    assert (plan.source[1] // 14, plan.source[0] // 14) == grid
    assert plan.num_images == images
    if piece is not None:
        assert (plan.piece[1] // 14, plan.piece[0] // 14) == piece


def test_an_extreme_shape_keeps_one_patch() -> None:
    assert min(plan_slices((4000, 2), CONFIG, 1).source) == 14
    with pytest.raises(ValueError, match="0 x 5"):
        plan_slices((0, 5), CONFIG, 1)


def test_slices_tile_the_refined_picture_row_by_row() -> None:
    picture = noise(860, 900)
    pieces = cut(picture, CONFIG, 9)
    assert len(pieces.images) == 1 + pieces.columns * pieces.rows
    assert pieces.columns > 1 and pieces.rows > 1
    height, width = pieces.images[1].shape[:2]
    refined = resize(picture, (width * pieces.columns, height * pieces.rows))
    rows = [
        torch.cat(pieces.images[1 + row * pieces.columns :][: pieces.columns], 1)
        for row in range(pieces.rows)
    ]
    assert torch.equal(torch.cat(rows), refined)


def test_scaling_is_bicubic_with_clipped_overshoot() -> None:
    edge = torch.zeros(4, 8, 3, dtype=torch.uint8)
    edge[:, 4:] = 200
    wide = resize(edge, (16, 4))[0, :, 0].tolist()
    # What Pillow gives: the overshoot above 200 stays, the one below 0 is clipped.
    assert wide == [0, 0, 0, 0, 0, 0, 0, 41, 159, 214, 205, 200, 200, 200, 200, 200]
    assert torch.equal(resize(edge, (8, 4)), edge)


@pytest.mark.parametrize("size", [(126, 98), (140, 84), (518, 392), (80, 75), (320, 240)])
def test_scaling_equals_pillow(size: tuple[int, int]) -> None:
    image = pytest.importorskip("PIL.Image")
    numpy = pytest.importorskip("numpy")
    picture = noise(120, 160, 4)
    theirs = image.fromarray(picture.numpy()).resize(size, image.Resampling.BICUBIC)
    assert torch.equal(resize(picture, size), torch.from_numpy(numpy.array(theirs)))


def test_patches_are_rows_of_pixels_channel_first() -> None:
    picture = noise(28, 42)
    batch = patch_batch([picture, noise(14, 14, 1)], CONFIG)
    assert batch.grids == ((2, 3), (1, 1)) and batch.patches.shape == (2, 6, 588)
    patch = batch.patches[0, 4].view(3, 14, 14)
    expected = picture[14:28, 14:28].permute(2, 0, 1) / 255.0 * 2 - 1
    torch.testing.assert_close(patch, expected, atol=1e-6, rtol=0)
    assert strip(batch.patches[0], 14).shape == (3, 14, 84)
    assert num_patches(batch.index(70)).tolist() == [6, 1]


def test_a_picture_that_is_no_multiple_of_a_patch_is_refused() -> None:
    with pytest.raises(AssertionError, match="15 x 14 in patches of 14"):
        grid_of(noise(14, 15), 14)
