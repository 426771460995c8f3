"""What the replay makes of a set: which images belong to which picture."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from engine.minicpmo.models.config import PictureConfig
from tests.golden.stage_pictures import image_counts

PICTURES = {"small": (28, 28, 3), "wide": (112, 448, 3), "large": (448, 448, 3)}


def golden() -> Any:
    config = SimpleNamespace(picture=PictureConfig(14, 112, 9, (0.5,) * 3, (0.5,) * 3))
    return SimpleNamespace(
        config=config, picture=lambda name: torch.zeros(PICTURES[name], dtype=torch.uint8)
    )


def test_each_picture_of_a_unit_has_the_images_it_is_cut_into() -> None:
    """A set stores the number of a whole call only, which says nothing of its pictures."""
    inputs = {"images": ["small", "wide", "large"], "max_slice_nums": 4}
    counts = image_counts(golden(), inputs)
    assert len(counts) == 3 and counts[0] == 1
    assert all(1 < count <= 5 for count in counts[1:])


def test_without_slices_a_picture_is_one_image() -> None:
    inputs = {"images": ["wide", "large"], "max_slice_nums": 1}
    assert image_counts(golden(), inputs) == [1, 1]
