"""Seeing many pictures at once: every picture as if it were alone, whatever its size."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from engine.gpu.graphs import GraphPool
from engine.minicpmo.encoders.slicing import SlicePlan, cut, plan_slices
from engine.minicpmo.encoders.vision import VisionEncoder
from tests.engine.minicpmo.encoder_rig import make_vision_encoder, tiny_sizes
from tests.picture_batches import encode_batch, patch_batch, resample_batch

# Width, height and most slices: squares, slices, equal ones, and one that no graph has room for.
PICTURES = [
    (112, 112, 1),
    (160, 120, 1),
    (160, 120, 9),
    (400, 300, 9),
    (160, 120, 1),
    (300, 400, 2),
    (2800, 20, 1),
    (9, 7, 1),
]


@pytest.fixture(scope="module")
def vision() -> VisionEncoder:
    torch.set_num_threads(1)
    return make_vision_encoder(tiny_sizes(), GraphPool("cpu"))


def picture(place: int) -> tuple[Tensor, int]:
    width, height, most = PICTURES[place]
    generator = torch.Generator().manual_seed(place)
    shape = (height, width, 3)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator), most


def by_parts(vision: VisionEncoder, rgb: Tensor, most: int) -> list[Tensor]:
    """Image by image, without padding."""
    with torch.inference_mode():
        batches = [patch_batch([x], vision.config) for x in cut(rgb, vision.config, most).images]
        return [
            resample_batch(vision.resampler, encode_batch(vision.vision, batch), batch)[0]
            for batch in batches
        ]


def test_pictures_of_a_call_equal_single_ones(vision: VisionEncoder) -> None:
    pictures = [picture(place) for place in range(len(PICTURES))]
    seen = vision.look(pictures)
    assert [(s.columns, s.rows) for s in seen[:3]] == [(0, 0), (0, 0), (2, 1)]
    for (rgb, most), together in zip(pictures, seen, strict=True):
        expected = by_parts(vision, rgb, most)
        assert len(together.images) == len(expected) == 1 + together.columns * together.rows
        for ours, theirs in zip(together.images, expected, strict=True):
            assert ours.shape == (8, 64)
            torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=0)
        (alone,) = vision.look([(rgb, most)])
        for ours, theirs in zip(together.images, alone.images, strict=True):
            torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=0)


def test_scaled_images_are_the_ones_that_are_cut_on_their_own(vision: VisionEncoder) -> None:
    rgb, most = picture(3)
    whole = cut(rgb, vision.config, most)
    (group,) = vision.cut([rgb], [plan_of(vision, rgb, most)])
    patches = [patch_batch([image], vision.config) for image in whole.images]
    assert [image.grid for image in group] == [batch.grids[0] for batch in patches]
    for image, batch in zip(group, patches, strict=True):
        values = (image.patches / 255.0 - 0.5) / 0.5
        torch.testing.assert_close(values, batch.patches[0], atol=1e-6, rtol=0)


def test_a_call_of_many_images_is_made_up_of_usual_batches(vision: VisionEncoder) -> None:
    sizes: list[int] = []
    run = vision.graphs.run

    def watch(key: tuple[object, ...], *rest: object) -> Tensor:
        assert isinstance(key[1], int)
        sizes.append(key[1])
        result: Tensor = run(key, *rest)  # type: ignore[arg-type]
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vision.graphs, "run", watch)
        assert len(vision.look([picture(0)] * 23)) == 23
    assert sizes == [16, 4, 2, 1]


def test_results_stay_when_the_next_picture_is_seen(vision: VisionEncoder) -> None:
    vision.warm_up(lambda line: None)
    (first,) = vision.look([picture(0)])
    kept = first.images[0].clone()
    vision.look([picture(1)])
    assert torch.equal(first.images[0], kept)
    assert vision.look([]) == []


def plan_of(vision: VisionEncoder, rgb: Tensor, most: int) -> SlicePlan:
    return plan_slices((rgb.shape[1], rgb.shape[0]), vision.config, most)
