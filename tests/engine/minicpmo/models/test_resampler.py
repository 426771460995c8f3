"""The resampler: positions, the right multiplication, and independent rows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from engine.gpu.weights import empty
from engine.minicpmo.models.config import ResamplerConfig
from engine.minicpmo.models.vision.resampler import VisionResampler, axis_table
from tests.picture_batches import PatchBatch, resample_batch
from tests.random_weights import random_weights

CONFIG = ResamplerConfig(num_queries=8, embed_dim=64, num_heads=2, kv_dim=24)
GRIDS = [(3, 4), (1, 9), (5, 5), (2, 2), (4, 3), (75, 1), (6, 2), (1, 1)]


@pytest.fixture(scope="module")
def resampler() -> VisionResampler:
    torch.set_num_threads(1)
    module = empty(lambda: VisionResampler(CONFIG))
    random_weights(module, seed=1)
    return module


def batch(grids: list[tuple[int, int]]) -> PatchBatch:
    return PatchBatch(torch.zeros(len(grids), max(r * c for r, c in grids), 1), tuple(grids))


def grid_table(grid: tuple[int, int], width: int) -> Tensor:
    """Positions [rows * columns, width] as the original makes them."""
    rows, columns = grid
    across = axis_table(columns, width // 2).expand(rows, -1, -1)
    down = axis_table(rows, width // 2)[:, None].expand(-1, columns, -1)
    return torch.cat([across, down], dim=2).flatten(0, 1)


def test_positions_are_column_first() -> None:
    table = grid_table((2, 3), 16).view(2, 3, 16)
    assert torch.equal(table[0, 2, :8], table[1, 2, :8])
    assert torch.equal(table[1, 0, 8:], table[1, 2, 8:])
    torch.testing.assert_close(table[0, 2, 0], torch.tensor(2.0).sin())
    torch.testing.assert_close(table[1, 0, 12], torch.tensor(1.0).cos())


def test_rows_of_a_batch_equal_single_ones(resampler: VisionResampler) -> None:
    generator = torch.Generator().manual_seed(3)
    vision = torch.randn(len(GRIDS), 75, 24, generator=generator)
    with torch.inference_mode():
        together = resample_batch(resampler, vision, batch(GRIDS))
        assert together.shape == (len(GRIDS), 8, 64)
        for row, grid in enumerate(GRIDS):
            count = grid[0] * grid[1]
            alone = resample_batch(resampler, vision[row : row + 1, :count], batch([grid]))
            torch.testing.assert_close(together[row], alone[0], atol=1e-5, rtol=0)


def test_it_equals_torch_attention(resampler: VisionResampler) -> None:
    vision = torch.randn(1, 12, 24, generator=torch.Generator().manual_seed(4))
    attention = torch.nn.MultiheadAttention(64, 2, batch_first=True)
    attention.load_state_dict(resampler.attn.state_dict())
    with torch.inference_mode():
        hidden = resampler.ln_kv(resampler.kv_proj(vision))
        query = resampler.ln_q(resampler.query)[None]
        mixed, _ = attention(query, hidden + grid_table((3, 4), 64), hidden)
        expected = resampler.ln_post(mixed) @ resampler.proj
        ours = resample_batch(resampler, vision, batch([(3, 4)]))
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)
