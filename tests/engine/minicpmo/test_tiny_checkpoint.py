"""The tiny checkpoint loads as a whole, and so does a model with weights drawn in place."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import pytest
import torch

from engine.minicpmo.checkpoint import load
from tests.random_weights import RandomCheckpoint, draw
from tests.tiny_checkpoint import write_checkpoint


def nothing(line: str) -> None:
    del line


@pytest.mark.parametrize("causal", [True, False])
def test_it_loads_with_a_voice(tiny_checkpoint: Path, tmp_path: Path, causal: bool) -> None:
    folder = tiny_checkpoint if causal else write_checkpoint(tmp_path, causal=False)
    model = load(folder, device="cpu", show=nothing)
    assert model.code2wav is not None and model.voices.names() == ["default"]
    base = model.code2wav.base(model.voices.named("default"))
    assert base is not None and len(model.recordings()) == 1


def test_steps_that_are_not_the_published_ones_are_told(tiny_checkpoint: Path) -> None:
    told: list[str] = []
    load(tiny_checkpoint, device="cpu", steps=5, show=told.append)
    assert [line for line in told if "5 steps; config.json says 10" in line and "2.0 times" in line]
    told.clear()
    load(tiny_checkpoint, device="cpu", steps=10, show=told.append)
    assert not any("config.json says" in line for line in told)


def test_weights_can_be_drawn_in_place(tiny_checkpoint: Path) -> None:
    with mock.patch("engine.minicpmo.checkpoint.Checkpoint", RandomCheckpoint):
        drawn = load(tiny_checkpoint, device="cpu", show=nothing)
    stored = load(tiny_checkpoint, device="cpu", show=nothing)
    for ours, theirs in ((drawn.llm, stored.llm), (drawn.vision, stored.vision)):
        assert [p.shape for p in ours.parameters()] == [p.shape for p in theirs.parameters()]
    assert all(p.isfinite().all() for p in drawn.llm.parameters())


def test_a_seed_gives_the_same_weights() -> None:
    assert torch.equal(draw("a.weight", (3, 4), 1), draw("a.weight", (3, 4), 1))
    assert not torch.equal(draw("a.weight", (3, 4), 1), draw("b.weight", (3, 4), 1))
    assert not torch.equal(draw("a.weight", (3, 4), 1), draw("a.weight", (3, 4), 2))
