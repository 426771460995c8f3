"""The language model for many sessions: feeds rows of ids and embeddings, keeps their cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.models.qwen3 import Qwen3
from engine.window import Cut, Slide

Piece = Sequence[int] | Tensor
"""Token ids, or embeddings [T, C] of a picture or of sound."""

MAX_FORWARD_TOKENS = 2048
"""Longer feeds are cut: the attention mask grows with tokens times context."""


@dataclass(frozen=True)
class Feed:
    """What one slot's row takes next."""

    slot: int
    pieces: Sequence[Piece]

    def __len__(self) -> int:
        return sum(len(piece) for piece in self.pieces)


@dataclass(frozen=True)
class Fed:
    """The outcome for one row, at its last position."""

    hidden: Tensor
    """[C], after the final norm."""
    logits: Tensor
    """[V], raw, float32."""


class LlmRows:
    """One `Qwen3`, one cache. Rows go together in one forward; a row's result does not depend on
    which others do."""

    def __init__(self, model: Qwen3, num_slots: int, max_len: int) -> None:
        self.model = model
        self.kv = model.make_cache(num_slots, max_len)

    def length(self, slot: int) -> int:
        return self.kv.lengths[slot]

    def embed(self, pieces: Sequence[Piece]) -> Tensor:
        """Embeddings [T, C] of pieces in order; all ids are looked up together."""
        size, device = self.model.config.hidden_size, self.model.device
        ids = [token for piece in pieces if not isinstance(piece, Tensor) for token in piece]
        table = self.model.embed(torch.tensor(ids, dtype=torch.long, device=device))
        rows: list[Tensor] = []
        taken = 0
        for piece in pieces:
            if isinstance(piece, Tensor):
                assert piece.ndim == 2 and piece.shape[1] == size, (
                    f"embeddings {tuple(piece.shape)} for a model of width {size}"
                )
                rows.append(piece.to(device=device, dtype=self.model.dtype))
            else:
                rows.append(table[taken : taken + len(piece)])
                taken += len(piece)
        return torch.cat(rows) if rows else table

    @torch.inference_mode()
    def feed(self, feeds: Sequence[Feed]) -> list[Fed]:
        """Append rows of any lengths; returns the last position of each.

        One forward, or several where the feeds are longer than `MAX_FORWARD_TOKENS` together.
        Raises `OverflowError` before anything is written if a row does not fit.
        """
        states = self._run(feeds)
        logits = self.model.logits(states).float()
        return [Fed(state, row) for state, row in zip(states, logits, strict=True)]

    @torch.inference_mode()
    def append(self, feeds: Sequence[Feed]) -> None:
        """Append rows of which no result is needed: no logits are computed."""
        self._run(feeds)

    @torch.inference_mode()
    def step(
        self, ids: Tensor, active: Tensor, lengths: Tensor, context: int
    ) -> tuple[Tensor, Tensor]:
        """One token for all slots in fixed shapes, so that it can be captured as a CUDA graph.

        `ids`, `active`, `lengths`: [S] on the device; `context` bounds the lengths plus one.
        Returns hidden [S, C] and logits [S, V] (float32) of every slot; those of slots that are
        not active are meaningless. Counting the tokens is the caller's: `kv.advance`.
        """
        plan = self.kv.decode_plan(active, lengths, context)
        hidden = self.model(self.model.embed(ids), self.kv, plan)
        return hidden, self.model.logits(hidden).float()

    def truncate(self, slot: int, length: int) -> None:
        self.kv.truncate(slot, length)

    @torch.inference_mode()
    def apply(self, slot: int, slide: Slide) -> None:
        """Carry out what a window decided."""
        rope = self.model.rope
        if isinstance(slide, Cut):
            self.kv.remove(slot, slide.start, slide.count, rope)
            return
        count = self.length(slot) - slide.resume
        target = slide.keep + len(slide.ids)
        assert target <= slide.resume, f"rebuilt to {target}, beyond {slide.resume}"
        # The kept units move first: computing `ids` then overwrites what lies in front of them.
        self.kv.move(slot, slide.resume, target, count, rope)
        self.kv.truncate(slot, slide.keep)
        self.append([Feed(slot, [slide.ids])])
        self.kv.advance([slot], [count])

    def reset(self, slot: int) -> None:
        self.kv.reset([slot])

    def _run(self, feeds: Sequence[Feed]) -> Tensor:
        """Hidden states [B, C] of the feeds' last positions."""
        embeds = [self.embed(feed.pieces) for feed in feeds]
        for feed, rows in zip(feeds, embeds, strict=True):
            length = self.length(feed.slot)
            assert len(rows), f"slot {feed.slot} is fed nothing"
            if length + len(rows) > self.kv.max_len:
                raise OverflowError(
                    f"slot {feed.slot}: {length} + {len(rows)} positions exceed {self.kv.max_len}"
                )
        share = max(1, MAX_FORWARD_TOKENS // len(feeds))
        states = embeds[0].new_empty(len(feeds), self.model.config.hidden_size)
        for start in range(0, max(len(rows) for rows in embeds), share):
            active = [index for index, rows in enumerate(embeds) if start < len(rows)]
            parts = [embeds[index][start : start + share] for index in active]
            states[active] = self._forward([feeds[index].slot for index in active], parts)
        return states

    def _forward(self, slots: list[int], rows: list[Tensor]) -> Tensor:
        """Hidden states [B, C] of the rows' last tokens."""
        counts = [len(part) for part in rows]
        plan = self.kv.plan(slots, counts)
        hidden: Tensor = self.model(torch.cat(rows), self.kv, plan)
        self.kv.advance(slots, counts)
        return hidden[plan.last]
