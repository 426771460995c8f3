"""From logits to token ids on the device: what `sampler` describes, without the host.

Two orders of operations exist, one for full duplex and one for half duplex and chat; both follow
the MiniCPM-o 4.5 inference code, in float32. Shapes depend on the number of rows only and nothing
waits for the device, so that these functions can be captured in a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

MAX_WINDOW = 512
"""Longest repetition window of rows in a graph."""
MAX_RECENT = MAX_WINDOW + 16
"""Ids under the repetition penalty of such rows: a reply's chunk comes on top of the window."""
GRAPH_TOP_K = 128
TIE_SLACK = 32
"""Candidates beyond top-k, for logits equal to the last one kept."""


class Column(IntEnum):
    """What each column of a row's numbers [B, len(Column)] (float64) says."""

    TEMPERATURE = 0
    TOP_K = 1
    """0: off."""
    TOP_P = 2
    TAKES_BEST = 3
    REPETITION_PENALTY = 4
    LENGTH_PENALTY = 5
    LISTEN_SCALE = 6
    LISTEN_BIAS = 7
    LISTEN_TOP_K = 8
    """-1: off."""
    END_DRAW = 9
    """Uniform in [0, 1): whether the chunk ends."""
    DRAW = 10
    """Uniform in [0, 1): which id."""
    FORCED = 11
    """An id that is taken whatever the logits say; -1: none. For benchmarks and replays."""
    IS_FORBIDDING = 12
    """Whether the mask of forbidden ids counts for the row."""


@dataclass(frozen=True)
class DuplexIds:
    """The special ids that the duplex order needs."""

    chunk_eos: int
    turn_eos: int
    listen: int
    im_end: int


def duplex_scores(
    logits: Tensor, numbers: Tensor, recent: Tensor, ids: DuplexIds, forbidden: Tensor
) -> Tensor:
    """Logits [B, V] after forbidden ids, penalties and biases, before the temperature.

    `recent` [B, W]: ids under the repetition penalty, V where there are fewer.
    """
    x = logits.masked_fill(forbidden, float("-inf"))
    # Dividing raises negative logits: unlike the turn-based modes this ignores the sign.
    x = torch.where(_seen(x, recent), x / _column(numbers, Column.REPETITION_PENALTY, x), x)
    penalty = _column(numbers, Column.LENGTH_PENALTY, x)[:, 0]
    x[:, ids.turn_eos] = _by_sign(x[:, ids.turn_eos], penalty)
    x[:, ids.im_end] *= _column(numbers, Column.LISTEN_SCALE, x)[:, 0]
    x[:, ids.listen] += _column(numbers, Column.LISTEN_BIAS, x)[:, 0]
    return x


def choose_duplex(
    logits: Tensor,
    numbers: Tensor,
    recent: Tensor,
    ids: DuplexIds,
    forbidden: Tensor,
    limit: int,
) -> Tensor:
    """One id [B] per row of raw logits [B, V] (float32).

    chunk_eos is drawn first, from the untouched distribution at temperature 1; afterwards it is
    among the `forbidden` [V]. `limit`: see `draw`.
    """
    best = numbers[:, Column.TAKES_BEST] > 0
    chance = (logits[:, ids.chunk_eos] - logits.logsumexp(dim=-1)).exp().double()
    is_best = logits.argmax(dim=-1) == ids.chunk_eos
    ends = torch.where(best, is_best, numbers[:, Column.END_DRAW] < chance)
    x = duplex_scores(logits, numbers, recent, ids, forbidden)
    chosen = draw(x, numbers, limit, exact_k=False)
    rank = (x > x[:, ids.im_end : ids.im_end + 1]).sum(dim=-1)
    chosen = torch.where(rank < numbers[:, Column.LISTEN_TOP_K], ids.im_end, chosen)
    return _forced(torch.where(ends, ids.chunk_eos, chosen), numbers)


def turn_scores(
    logits: Tensor,
    numbers: Tensor,
    recent: Tensor,
    terminators: Sequence[int],
    forbidden: Tensor,
) -> Tensor:
    """Logits [B, V] after forbidden ids and penalties, before the temperature."""
    forbids = numbers[:, Column.IS_FORBIDDING, None] > 0
    x = logits.masked_fill(forbidden & forbids, float("-inf"))
    penalised = _by_sign(x, _column(numbers, Column.REPETITION_PENALTY, x))
    x = torch.where(_seen(x, recent), penalised, x)
    penalty = _column(numbers, Column.LENGTH_PENALTY, x)[:, 0]
    for terminator in sorted(set(terminators)):
        x[:, terminator] = _by_sign(x[:, terminator], penalty)
    return x


def choose_turn(
    logits: Tensor,
    numbers: Tensor,
    recent: Tensor,
    terminators: Sequence[int],
    forbidden: Tensor,
    limit: int,
) -> Tensor:
    """One id [B] per row of raw logits [B, V] (float32)."""
    x = turn_scores(logits, numbers, recent, terminators, forbidden)
    return _forced(draw(x, numbers, limit, exact_k=True), numbers)


def draw(x: Tensor, numbers: Tensor, limit: int, *, exact_k: bool) -> Tensor:
    """Draw from x [B, V] after temperature, top-k and top-p; rows that take the best do not draw.

    Top-k keeps everything equal to the k-th value, or with `exact_k` exactly k of it. Equal values
    are ordered by id, so that a draw does not depend on how a device sorts. Only the `limit` best
    are looked at: more than any row's top-k.
    """
    best = numbers[:, Column.TAKES_BEST] > 0
    heat = torch.where(best, 1.0, numbers[:, Column.TEMPERATURE]).to(x.dtype)
    values, ids, kept = candidates(x / heat[:, None], numbers, limit, exact_k)
    values = values.masked_fill(~kept, float("-inf"))
    sums = torch.softmax(values, dim=-1).cumsum(dim=-1)
    before = torch.nn.functional.pad(sums[:, :-1], (1, 0))
    kept = kept & ~(before > _column(numbers, Column.TOP_P, x))
    weights = torch.softmax(values.masked_fill(~kept, float("-inf")), dim=-1).double()
    sums = weights.cumsum(dim=-1)
    aims = numbers[:, Column.DRAW, None] * sums[:, -1:]
    place = (sums <= aims).sum(dim=-1, keepdim=True).minimum(kept.sum(dim=-1, keepdim=True) - 1)
    # A row without a single number keeps nothing; an index of -1 would end all sessions.
    drawn = ids.gather(1, place.clamp(min=0))[:, 0]
    return torch.where(best, x.argmax(dim=-1), drawn)


def candidates(
    x: Tensor, numbers: Tensor, limit: int, exact_k: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The `limit` best of x [B, V] as values and ids, best first, and a mask of those kept."""
    wanted = numbers[:, Column.TOP_K].long()
    last = torch.where(wanted > 0, wanted, limit).clamp(max=limit)[:, None] - 1
    values, ids = x.topk(limit, dim=-1)
    floor = values.gather(1, last)
    ids, order = ids.sort(dim=-1)
    values, order = values.gather(1, order).sort(dim=-1, descending=True, stable=True)
    ids = ids.gather(1, order)
    if exact_k:
        kept = torch.arange(limit, device=x.device)[None] <= last
    else:
        kept = values >= floor
    return values, ids, kept & (values > float("-inf"))


def _column(numbers: Tensor, column: Column, like: Tensor) -> Tensor:
    """[B, 1] in the type of `like`."""
    return numbers[:, column, None].to(like.dtype)


def _seen(x: Tensor, recent: Tensor) -> Tensor:
    """[B, V] True at the row's recent ids."""
    mask = torch.zeros(x.shape[0], x.shape[1] + 1, dtype=torch.bool, device=x.device)
    return mask.scatter_(1, recent.long(), True)[:, :-1]


def _by_sign(x: Tensor, factor: Tensor) -> Tensor:
    """Make x less likely by a penalty: positive logits shrink, negative ones grow."""
    return torch.where(x > 0, x / factor, x * factor)


def _forced(chosen: Tensor, numbers: Tensor) -> Tensor:
    forced = numbers[:, Column.FORCED].long()
    return torch.where(forced >= 0, forced, chosen)
