"""Comparing logits of which a set stores only the best, and states as they are computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from engine.kvcache import KvPlan
from engine.llm_rows import Feed, LlmRows
from engine.models.qwen3 import Qwen3
from engine.weights import empty
from tests.golden.golden_set import GoldenSet
from tests.golden.report import TENSOR, Report

IMAGE_ROW = -1
AUDIO_ROW = -2
FORCED_LOGIT = 10_000.0


def load_llm(golden: GoldenSet) -> Qwen3:
    """The set's language model, float32 on the CPU."""
    model = empty(lambda: Qwen3(golden.config.llm))
    with golden.checkpoint() as checkpoint:
        checkpoint.load(model, "llm.", device="cpu", dtype=torch.float32)
    return model


class RecordingRows(LlmRows):
    """Keeps, by slot, what was fed and every position's state, until told to forget."""

    def __init__(self, model: Qwen3, num_slots: int, max_len: int) -> None:
        super().__init__(model, num_slots, max_len)
        self.fed: list[list[int]] = [[] for _ in range(num_slots)]
        self.states: list[list[Tensor]] = [[] for _ in range(num_slots)]
        self.audio: set[int] = set()
        """Identities of embeddings that are sound; all others are pictures."""

    def forget(self, slot: int) -> None:
        self.fed[slot], self.states[slot] = [], []

    def _run(self, feeds: Sequence[Feed], *, want_logits: bool) -> None:
        for feed in feeds:
            for piece in feed.pieces:
                if isinstance(piece, Tensor):
                    row = AUDIO_ROW if id(piece) in self.audio else IMAGE_ROW
                    self.fed[feed.slot] += [row] * len(piece)
                else:
                    self.fed[feed.slot] += piece
        super()._run(feeds, want_logits=want_logits)

    def step(self, tokens: Mapping[int, int]) -> Tensor:
        for slot, token in tokens.items():
            self.fed[slot].append(token)
        return super().step(tokens)

    def _forward(self, x: Tensor, packed: Tensor, *, want_logits: bool, plan: KvPlan) -> Tensor:
        plan = plan.on(packed)
        hidden: Tensor = self.model(x, self.kv, plan)
        starts = plan.layout.query_starts.tolist()
        for row, slot in enumerate(plan.slots.tolist()):
            self.states[slot] += hidden[starts[row] : starts[row + 1]]
        states = hidden[plan.last]
        self.hidden[plan.slots.long()] = states
        self.logits[plan.slots.long()] = self.model.logits(states)
        return states


def compare_top(
    report: Report, key: str, logits: Tensor, stored: tuple[Tensor, Tensor], kind: str
) -> None:
    """Compare logits [n, V] with the stored best values and ids [n, k] of `key`_values, _ids.

    Ids may swap places where their logits are equal within the tolerance.
    """
    values, ids = stored[0], stored[1].long()
    if logits.shape[0] != ids.shape[0]:
        empty_rows = logits.new_zeros(logits.shape[0], ids.shape[1])
        report.add(f"{key}_values", empty_rows, values, kind=kind)
        return
    at_stored = logits.gather(1, ids)
    report.add(f"{key}_values", at_stored, values, kind=kind)
    ours = logits.topk(ids.shape[1], dim=-1)
    slack = TENSOR * values.square().mean().sqrt() if values.numel() else 0.0
    same = bool(((ours.values - at_stored).abs() <= slack).all())
    distinct = all(len(set(row)) == len(row) for row in ids.tolist())
    report.equal(f"{key}_ids", ids if same and distinct else ours.indices, ids, kind)
