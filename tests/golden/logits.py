"""Comparing logits of which a set stores only the best, and states as they are computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from engine.gpu.graphs import GraphPool
from engine.gpu.kv.cache import KvPlan
from engine.gpu.weights import empty
from engine.minicpmo.llm.rows import Feed, LlmRows
from engine.minicpmo.models.llm.qwen3 import Qwen3
from tests.golden.golden_set import GoldenSet
from tests.golden.report import TENSOR, Report

IMAGE_ROW = -1
AUDIO_ROW = -2
FORCED_LOGIT = 10_000.0


def load_llm(golden: GoldenSet) -> Qwen3:
    """The set's language model."""
    model, place = empty(lambda: Qwen3(golden.config.llm)), golden.place
    with golden.checkpoint() as checkpoint:
        checkpoint.load(model, "llm.", device=place.device, dtype=place.dtype)
    return model


class RecordingRows(LlmRows):
    """Keeps, by slot, what was fed and every position's state, until told to forget.

    With graphs the state of a feed's last position only; the others are not numbers.
    """

    def __init__(
        self, model: Qwen3, num_slots: int, max_len: int, graphs: GraphPool | None = None
    ) -> None:
        super().__init__(model, num_slots, max_len, graphs)
        self.fed: list[list[int]] = [[] for _ in range(num_slots)]
        self.states: list[list[Tensor]] = [[] for _ in range(num_slots)]
        self.audio: set[int] = set()
        """Identities of embeddings that are sound; all others are pictures."""
        self._unseen = torch.full(
            (model.config.hidden_size,), torch.nan, device=model.device, dtype=model.dtype
        )
        self.warm_up(lambda text: None)

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
        for feed in feeds if self.graphs.enabled else ():
            self.states[feed.slot] += [self._unseen] * (len(feed) - 1)
            self.states[feed.slot].append(self.hidden[feed.slot].clone())

    def step(self, tokens: Mapping[int, int]) -> Tensor:
        for slot, token in tokens.items():
            self.fed[slot].append(token)
        states = super().step(tokens)
        for slot, state in zip(tokens, states, strict=True):
            if self.graphs.enabled:
                self.states[slot].append(state)
        return states

    def _forward(self, x: Tensor, packed: Tensor, *, want_logits: bool, plan: KvPlan) -> Tensor:
        if self.graphs.enabled:
            return super()._forward(x, packed, want_logits=want_logits, plan=plan)
        plan = plan.on(packed)
        hidden: Tensor = self.model(x, self.kv, plan)
        starts = plan.layout.query_starts.tolist()
        for row, slot in enumerate(plan.slots.tolist()):
            self.states[slot] += hidden[starts[row] : starts[row + 1]]
        states = hidden[plan.last]
        self.hidden[plan.slots.long()] = states
        self.logits[plan.slots.long()] = self.model.logits(states).float()
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
    at_stored = logits.float().gather(1, ids)
    report.add(f"{key}_values", at_stored, values, kind=kind)
    if not report.limits.keeps_ranks:
        report.given(f"{key}_ids", "ranks may swap: the values are compared at the stored ids")
        return
    ours = logits.topk(ids.shape[1], dim=-1)
    slack = (
        report.limits.limit(f"{key}_values", TENSOR) * values.square().mean().sqrt()
        if values.numel()
        else 0.0
    )
    same = bool(((ours.values - at_stored).abs() <= slack).all())
    distinct = all(len(set(row)) == len(row) for row in ids.tolist())
    report.equal(f"{key}_ids", ids if same and distinct else ours.indices, ids, kind)
