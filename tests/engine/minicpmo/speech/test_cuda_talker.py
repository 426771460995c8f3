"""The kernel that draws speech codes, beside the torch operations of the sampling."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from engine.gpu.kernels.talker_sampling import (
    FORCED_LOGIT,
    RECENT,
    CodeSettings,
    CodeState,
    draw_codes,
)
from engine.minicpmo.models.talker.sampling import RowSampling, choose, scores
from tests.engine.gpu.cuda_rig import cuda_only

pytestmark = cuda_only()

ROWS, COLUMNS, WIDTH = 6, 8, 48
NEVER = 1 << 30


def whole(*numbers: int) -> Tensor:
    return torch.tensor(numbers, device="cuda")


def settings() -> CodeSettings:
    """Of five rows: usual, greedy, without an end, forced to end, with a short window."""
    return CodeSettings(
        min_codes=whole(0, 0, 9, 0, 0),
        end_at=whole(NEVER, NEVER, NEVER, 2, NEVER),
        greedy=whole(0, 1, 0, 0, 0),
        window=whole(16, 16, 16, 16, 3),
        temperature=torch.tensor([0.8, 1.0, 0.5, 1.0, 1.3], device="cuda"),
        penalty=torch.tensor([1.05, 1.5, 1.05, 1.0, 2.0], device="cuda"),
    )


def state(generator: torch.Generator, size: int) -> CodeState:
    recent = torch.randint(-1, min(size - 1, 20), (ROWS, RECENT), generator=generator)
    return CodeState(
        draws=torch.rand(COLUMNS, ROWS, dtype=torch.float64, generator=generator).cuda(),
        recent=recent.cuda(),
        codes=torch.full((COLUMNS, ROWS), -7, device="cuda"),
        feed=torch.zeros(ROWS, WIDTH, dtype=torch.bfloat16, device="cuda"),
        step=whole(0),
        column=whole(0),
    )


@pytest.mark.parametrize("size", [5, 700, 6562, 8192])
def test_codes_are_drawn_as_by_torch(size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    table = torch.randn(size, WIDTH, generator=generator).to("cuda", torch.bfloat16)
    given, ours = settings(), state(generator, size)
    count, end = len(given.window), size - 1
    everything = RowSampling(
        given.temperature,
        given.penalty,
        given.window,
        torch.ones(count, device="cuda"),
        torch.full((count,), size, device="cuda"),
        given.greedy > 0,
    )
    for step in range(COLUMNS):
        raw = 3 * torch.randn(count, size, generator=generator).cuda()
        forced = raw.clone()
        forced[:, end] = forced[:, end].masked_fill(given.end_at == step, FORCED_LOGIT)
        before = ours.recent.clone()
        may_end = given.min_codes <= step
        wanted = scores(
            forced, everything, before[:count], may_end=may_end, is_cut=None, end_code=end
        )
        codes = choose(wanted, everything.greedy, ours.draws[step, :count])
        z = draw_codes(raw, given, ours, table, end)
        assert z is not None
        torch.testing.assert_close(z, wanted, rtol=1e-6, atol=0)
        assert ours.codes[step, :count].tolist() == codes.tolist()
        assert torch.equal(ours.recent[:count, -1], codes)
        assert torch.equal(ours.recent[:count, :-1], before[:count, 1:])
        assert torch.equal(ours.recent[count:], before[count:])
        assert torch.equal(ours.feed[:count], table[codes]) and not ours.feed[count:].any()
        # A row that has ended draws on, but the end is no code that is penalised.
        ours.recent.masked_fill_(ours.recent == end, 0)
        ours.step.add_(1)
        ours.column.add_(1)
    assert (ours.codes[:, count:] == -7).all()
    assert ours.codes[2, 3] == end


def test_draws_at_the_edges_are_codes_of_the_table() -> None:
    given = settings()
    table = torch.zeros(700, WIDTH, dtype=torch.bfloat16, device="cuda")
    ours = state(torch.Generator().manual_seed(1), 700)
    ours.draws[0] = 0.0
    ours.draws[1] = 1.0 - 2.0**-53
    # One code has all of the probability but for what float32 cannot tell.
    raw = torch.full((5, 700), -200.0, device="cuda")
    raw[:, 300] = 100.0
    for step in range(2):
        assert (
            draw_codes(raw, given._replace(penalty=given.penalty * 0 + 1), ours, table, 699)
            is not None
        )
        assert ours.codes[step, :3].tolist() == [300, 300, 300]
        ours.step.add_(1)
        ours.column.add_(1)
