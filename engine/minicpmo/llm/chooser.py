"""Decides the next token of slots from their newest logits, on the device."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

from engine.gpu.graphs import padded_size, sizes_up_to
from engine.gpu.staging import fetched
from engine.minicpmo.llm.rows import LlmRows
from engine.minicpmo.llm.sampler import RowTensors, SamplingSettings
from engine.minicpmo.llm.sampling_ops import GRAPH_TOP_K, MAX_RECENT, MAX_WINDOW, TIE_SLACK

Choose = Callable[[Tensor, Tensor, Tensor, int], Tensor]
"""Logits [B, V], numbers, recent, limit -> ids [B]; see `engine.minicpmo.llm.sampling_ops`."""


class Chooser:
    """One order of sampling over the rows of `LlmRows`, captured for all sizes of batches."""

    def __init__(self, name: Hashable, rows: LlmRows, choose: Choose) -> None:
        self._name = name
        self._rows = rows
        self._choose = choose
        self._limit = min(rows.model.config.vocab_size, GRAPH_TOP_K + TIE_SLACK)

    @staticmethod
    def takes(settings: SamplingSettings) -> bool:
        """Whether a fixed number of candidates and of recent ids is enough for these settings."""
        few = settings.takes_best or 0 < settings.top_k <= GRAPH_TOP_K
        return few and settings.repetition_window <= MAX_WINDOW

    @torch.inference_mode()
    def __call__(self, slots: Sequence[int], tensors: RowTensors) -> list[int]:
        """An id for each slot; waits for the device. `tensors.recent` is `MAX_RECENT` wide."""
        count = len(slots)
        size = padded_size(count) if self._rows.graphs.enabled else count
        index = torch.full((size,), self._rows.kv.num_slots, dtype=torch.int64)
        index[:count] = torch.tensor(list(slots))
        numbers = torch.zeros(size, tensors.numbers.shape[1], dtype=torch.float64)
        numbers[:count] = tensors.numbers
        recent = torch.full((size, MAX_RECENT), self._rows.model.config.vocab_size).int()
        recent[:count] = tensors.recent
        chosen = self._rows.graphs.run((self._name, size), self._run, index, numbers, recent)
        ids: list[int] = fetched(chosen)[:count].tolist()
        return ids

    def _run(self, index: Tensor, numbers: Tensor, recent: Tensor) -> Tensor:
        return self._choose(self._rows.logits[index], numbers, recent, self._limit)

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Capture the graphs of all sizes."""
        rows = self._rows
        if not rows.graphs.enabled:
            return
        with rows.graphs.capturing():
            for size in sizes_up_to(rows.kv.num_slots):
                index = torch.full((size,), rows.kv.num_slots, dtype=torch.int64)
                numbers = RowTensors.idle(size)
                recent = torch.full((size, MAX_RECENT), rows.model.config.vocab_size).int()
                rows.graphs.run((self._name, size), self._run, index, numbers, recent)
