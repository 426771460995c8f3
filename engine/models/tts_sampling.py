"""From the speech decoder's scores to audio codes, for rows with their own settings.

Source: MiniCPM-o 4.5 inference code. Duplex and the turn-based modes sample differently there;
both orders are kept: the decoder's lengths and prosody depend on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

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
        if not 0 < self.top_p <= 1 or self.top_k < 0:
            raise ValueError(f"speech top_p {self.top_p}, top_k {self.top_k} are out of range")


DUPLEX = SpeechSampling()
TURN_BASED = SpeechSampling(top_p=0.85, top_k=25)


@dataclass(frozen=True, slots=True)
class Choice:
    """What one row needs for its next code."""

    settings: SpeechSampling
    recent: Sequence[int]
    """Codes under the repetition penalty; the window is cut here."""
    may_end: bool = True
    is_first: bool = False
    """The first code of a turn is cut neither by top-p nor by top-k."""


def scores(logits: Tensor, choices: Sequence[Choice], end_code: int) -> Tensor:
    """Scores [B, V] that are sampled from, of raw ones [B, V] (float32)."""
    assert logits.shape[0] == len(choices), f"{logits.shape[0]} rows, {len(choices)} choices"
    device = logits.device
    heat = torch.tensor([c.settings.temperature for c in choices], device=device)
    z = _penalised(logits / heat[:, None], choices)
    held = torch.tensor([not c.may_end for c in choices], device=device)
    z[:, end_code] = z[:, end_code].masked_fill(held, -torch.inf)
    if any(_is_cut(c) for c in choices):
        z = _top_k(_top_p(z, choices), choices)
    return z


def choose(z: Tensor, choices: Sequence[Choice], draws: Sequence[float]) -> list[int]:
    """One code of each row: the best, or by inverse distribution at `draws[i]` in [0, 1).

    A draw of a row is used by that row only, whatever else is in the batch.
    """
    best = z.argmax(dim=-1)
    if not all(c.settings.greedy for c in choices):
        cumulative = z.softmax(dim=-1).double().cumsum(dim=-1)
        at = torch.tensor(list(draws), dtype=torch.float64, device=z.device)[:, None]
        drawn = torch.searchsorted(cumulative, at * cumulative[:, -1:], right=True)[:, 0]
        greedy = torch.tensor([c.settings.greedy for c in choices], device=z.device)
        best = torch.where(greedy, best, drawn.clamp(max=z.shape[1] - 1))
    codes: list[int] = best.tolist()
    return codes


def _is_cut(choice: Choice) -> bool:
    settings = choice.settings
    return not choice.is_first and (settings.top_p < 1 or settings.top_k > 0)


def _penalised(z: Tensor, choices: Sequence[Choice]) -> Tensor:
    """Each occurrence of a code in the window costs once more; applied after temperature."""
    counts = torch.zeros_like(z)
    windows = [list(c.recent)[-c.settings.repetition_window :] for c in choices]
    rows = [row for row, window in enumerate(windows) for _ in window]
    codes = [code for window in windows for code in window]
    if not codes:
        return z.clone()
    index = torch.tensor([rows, codes], device=z.device)
    counts.index_put_((index[0], index[1]), torch.ones(len(codes), device=z.device), True)
    base = torch.tensor([c.settings.repetition_penalty for c in choices], device=z.device)
    factor = base[:, None] ** counts
    return torch.where(z < 0, z * factor, z / factor)


def _top_p(z: Tensor, choices: Sequence[Choice]) -> Tensor:
    keep = torch.tensor([c.settings.top_p if _is_cut(c) else 1.0 for c in choices], device=z.device)
    ordered, index = z.sort(dim=-1)
    below = ordered.softmax(dim=-1).cumsum(dim=-1) <= 1 - keep[:, None]
    below[:, -MIN_CANDIDATES:] = False
    below &= (keep < 1)[:, None]
    return z.masked_fill(torch.zeros_like(below).scatter(1, index, below), -torch.inf)


def _top_k(z: Tensor, choices: Sequence[Choice]) -> Tensor:
    size = z.shape[1]
    counts = [
        max(c.settings.top_k, MIN_CANDIDATES) if _is_cut(c) and c.settings.top_k else size
        for c in choices
    ]
    place = torch.tensor([min(count, size) - 1 for count in counts], device=z.device)
    lowest = z.sort(dim=-1, descending=True).values.gather(1, place[:, None])
    return z.masked_fill(z < lowest, -torch.inf)
