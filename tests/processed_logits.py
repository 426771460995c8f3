"""Logits as they are before the temperature, for comparisons: the engine draws at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from engine.minicpmo.llm.sampler import DuplexRow, TurnRow, duplex_tensors, turn_tensors
from engine.minicpmo.llm.sampling_ops import DuplexIds, duplex_scores, turn_scores


def duplex_logits(
    logits: Tensor, rows: Sequence[DuplexRow], ids: DuplexIds, forbidden: Tensor
) -> Tensor:
    """Logits [B, V] after forbidden ids, penalties and biases."""
    settled = [replace(row, draws=replace(row.draws)) for row in rows]
    tensors = duplex_tensors(settled, logits.shape[1])
    numbers, recent = tensors.numbers.to(logits.device), tensors.recent.to(logits.device)
    return duplex_scores(logits.float(), numbers, recent, ids, forbidden)


def turn_logits(logits: Tensor, rows: Sequence[TurnRow], terminators: Sequence[int]) -> Tensor:
    """Logits [B, V] after penalties, of rows that forbid nothing."""
    settled = [replace(row, draws=replace(row.draws)) for row in rows]
    tensors = turn_tensors(settled, logits.shape[1])
    numbers, recent = tensors.numbers.to(logits.device), tensors.recent.to(logits.device)
    nothing = torch.zeros(logits.shape[1], dtype=torch.bool, device=logits.device)
    return turn_scores(logits.float(), numbers, recent, terminators, nothing)
