"""From the speech decoder's scores to audio codes, for rows with their own settings.

Source: MiniCPM-o 4.5 inference code. Duplex and the turn-based modes sample differently there;
both orders are kept: the decoder's lengths and prosody depend on them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.gpu.kernels.talker_sampling import RECENT

MIN_CANDIDATES = 3
"""What top-p and top-k leave at least."""


@dataclass(frozen=True, slots=True)
class SpeechSampling:
    """Settings of one row."""

    temperature: float = 0.8
    repetition_penalty: float = 1.05
    repetition_window: int = 16
    top_p: float = 1.0
    """1: off."""
    top_k: int = 0
    """0: off."""
    greedy: bool = False

    def __post_init__(self) -> None:
        if self.temperature <= 0 or self.repetition_penalty <= 0:
            raise ValueError(
                f"speech temperature {self.temperature} and repetition penalty "
                f"{self.repetition_penalty} must be above 0"
            )
        if not 0 <= self.repetition_window <= RECENT:
            raise ValueError(f"speech repetition window {self.repetition_window}; {RECENT} at most")
        if not 0 < self.top_p <= 1 or self.top_k < 0:
            raise ValueError(f"speech top_p {self.top_p}, top_k {self.top_k} are out of range")


DUPLEX = SpeechSampling()
TURN_BASED = SpeechSampling(top_p=0.85, top_k=25)


@dataclass(frozen=True)
class RowSampling:
    """Settings of B rows as tensors."""

    temperature: Tensor
    penalty: Tensor
    window: Tensor
    top_p: Tensor
    top_k: Tensor
    """As large as the vocabulary: off."""
    greedy: Tensor
    """bool"""


def scores(
    logits: Tensor,
    rows: RowSampling,
    recent: Tensor,
    *,
    may_end: Tensor,
    is_cut: Tensor | None,
    end_code: int,
) -> Tensor:
    """Scores [B, V] that are sampled from, of raw ones [B, V] (float32).

    Args:
        recent: the last codes [B, RECENT], newest at the end, -1 before the first.
        may_end: [B] False where the end code is out of reach.
        is_cut: [B] rows that top-p and top-k act on; None: no row, and their sort is saved.
    """
    z = _penalised(logits / rows.temperature[:, None], rows, recent, end_code)
    z[:, end_code] = z[:, end_code].masked_fill(~may_end, -torch.inf)
    return z if is_cut is None else _cut(z, rows, is_cut)


def choose(z: Tensor, greedy: Tensor, draws: Tensor) -> Tensor:
    """One code of each row [B]: the best, or by inverse distribution at `draws` [B] in [0, 1).

    A draw of a row is used by that row only, whatever else is in the batch.
    """
    cumulative = z.softmax(dim=-1).double().cumsum(dim=-1)
    at = draws[:, None] * cumulative[:, -1:]
    drawn = torch.searchsorted(cumulative, at, right=True)[:, 0].clamp(max=z.shape[1] - 1)
    return torch.where(greedy, z.argmax(dim=-1), drawn)


def _penalised(z: Tensor, rows: RowSampling, recent: Tensor, end_code: int) -> Tensor:
    """Each occurrence of a code in the window costs once more; applied after temperature."""
    ages = torch.arange(RECENT, 0, -1, device=z.device)
    counts = (recent >= 0) & (ages <= rows.window[:, None])
    times = ((recent[:, :, None] == recent[:, None]) & counts[:, None]).sum(-1)
    # The end code is never among them: entries that do not count point there and change nothing.
    index = recent.masked_fill(~counts, end_code)
    seen = z.gather(1, index)
    factor = (rows.penalty[:, None] ** times).masked_fill(~counts, 1)
    return z.scatter(1, index, torch.where(seen < 0, seen * factor, seen / factor))


def _cut(z: Tensor, rows: RowSampling, is_cut: Tensor) -> Tensor:
    """Top-p and of what it leaves top-k; `MIN_CANDIDATES` stay in any case."""
    size = z.shape[1]
    ordered, index = z.sort(dim=-1)
    below = ordered.softmax(dim=-1).cumsum(dim=-1) <= 1 - rows.top_p[:, None]
    below[:, -MIN_CANDIDATES:] = False
    below &= (is_cut & (rows.top_p < 1))[:, None]
    place = size - rows.top_k.clamp(min(MIN_CANDIDATES, size), size)
    place = place.masked_fill(~is_cut, 0)[:, None]
    lowest = ordered.gather(1, place).masked_fill(below.gather(1, place), -torch.inf)
    dropped = torch.zeros_like(below).scatter(1, index, below)
    return z.masked_fill(dropped | (z < lowest), -torch.inf)
