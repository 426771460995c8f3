"""Drawing speech codes on CUDA: all that lies between a forward's scores and the next one's input.

In torch operations these are about fifty small kernels for each code of 25 a second.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from engine.gpu.kernels.loader import Kernel

RECENT = 16
"""Codes that the penalty sees at most."""
FORCED_LOGIT = 10_000.0
_THREADS = 1024
_MOST_CODES = 8 * _THREADS

_DRAW_CODES = Kernel("draw_codes", torch.float32)


class CodeSettings(NamedTuple):
    """Of B rows, [B] each; integers are int64, the others float32."""

    min_codes: Tensor
    """Steps in which the end code is out of reach."""
    end_at: Tensor
    """The step that the end code is forced at."""
    greedy: Tensor
    window: Tensor
    """Recent codes that are penalised, `RECENT` at most."""
    temperature: Tensor
    penalty: Tensor


class CodeState(NamedTuple):
    """What a draw reads and changes; R rows of which the first B are drawn for."""

    draws: Tensor
    """[columns, R] uniform numbers, float64."""
    recent: Tensor
    """[R, RECENT] the last codes, newest at the end, -1 before the first."""
    codes: Tensor
    """[columns, R]"""
    feed: Tensor
    """[R, C] the next forward's input."""
    step: Tensor
    column: Tensor
    """[1] each; the caller moves them on."""


def draw_codes(
    raw: Tensor, settings: CodeSettings, state: CodeState, table: Tensor, end_code: int
) -> Tensor | None:
    """Draw a code of each row from raw scores [B, V] (float32); the scores drawn from [B, V].

    As `scores` and `choose` of the sampling without top-p and top-k, whose results differ where
    sums of float32 round otherwise. `table`: embeddings of the codes [V, C]. None where no kernel
    can do it: then nothing has changed.
    """
    kernel = _DRAW_CODES.on(raw, table.element_size() == 2 and raw.shape[1] <= _MOST_CODES)
    if kernel is None:
        return None
    assert raw.is_contiguous() and table.is_contiguous()
    assert all(t.is_contiguous() for t in (*settings, *state)), "rows of other strides"
    count, size = raw.shape
    out = torch.empty_like(raw)
    inputs = [raw, *settings, state.draws, state.step, state.column, table]
    outputs = [out, state.codes, state.recent, state.feed]
    numbers = [size, end_code, state.codes.shape[1], table.shape[1], FORCED_LOGIT]
    kernel((count, 1, 1), (_THREADS, 1, 1), [*inputs, *outputs, *numbers])
    return out
