"""The vision tower: position buckets, and pictures of a padded batch that equal single ones."""

from __future__ import annotations

import pytest
import torch

from engine.gpu.weights import empty
from engine.minicpmo.models.config import PictureConfig, VisionConfig
from engine.minicpmo.models.vision.siglip import VisionTower, bucket_ids
from tests.picture_batches import encode_batch, patch_batch
from tests.random_weights import random_weights

VISION = VisionConfig(
    hidden_size=48,
    intermediate_size=96,
    num_layers=2,
    num_heads=3,
    patch_size=14,
    side=70,
    layer_norm_eps=1e-6,
)
PICTURE = PictureConfig(14, 112, 9, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
SIZES = [(8, 8), (1, 12), (12, 1), (5, 7), (7, 5), (10, 6), (3, 3), (8, 8)]


@pytest.mark.parametrize(("count", "index", "bucket"), [(32, 31, 67), (25, 5, 13), (70, 69, 69)])
def test_buckets_round_like_float32(count: int, index: int, bucket: int) -> None:
    assert bucket_ids((count, 1), 70)[index].item() // 70 == bucket
    assert bucket_ids((1, count), 70)[index].item() == bucket


def test_buckets_cover_the_table_row_by_row() -> None:
    assert bucket_ids((70, 70), 70).max() == 70 * 70 - 1
    assert bucket_ids((2, 2), 70).tolist() == [0, 35, 35 * 70, 35 * 70 + 35]
    assert len(set(bucket_ids((140, 1), 70).tolist())) == 70


def test_pictures_of_a_batch_equal_single_ones() -> None:
    torch.set_num_threads(1)
    tower = empty(lambda: VisionTower(VISION))
    random_weights(tower, seed=1)
    generator = torch.Generator().manual_seed(2)
    images = [
        torch.randint(0, 256, (14 * rows, 14 * columns, 3), dtype=torch.uint8, generator=generator)
        for rows, columns in SIZES
    ]
    with torch.inference_mode():
        together = encode_batch(tower, patch_batch(images, PICTURE))
        for row, image in enumerate(images):
            alone = encode_batch(tower, patch_batch([image], PICTURE))
            rows, columns = SIZES[row]
            assert alone.shape == (1, rows * columns, 48)
            torch.testing.assert_close(together[row, : rows * columns], alone[0], atol=1e-5, rtol=0)
