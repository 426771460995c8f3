"""The language model for many sessions: feeds rows of ids and embeddings, keeps their cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.config import KvCacheType
from engine.gpu.graphs import GraphPool, padded_size, sizes_up_to
from engine.gpu.kv.cache import KvPlan, NativeKV
from engine.gpu.kv.fp8 import Fp8KV
from engine.minicpmo.llm.context_window import Cut, Slide
from engine.minicpmo.models.llm.qwen3 import Qwen3

CACHES: dict[KvCacheType, type[NativeKV] | type[Fp8KV]] = {"auto": NativeKV, "fp8": Fp8KV}

Piece = Sequence[int] | Tensor
"""Token ids, or embeddings [T, C] of a picture or of sound."""

MAX_FORWARD_TOKENS = 4096
"""Longer feeds are cut: the memory of a forward grows with its tokens."""

PREFILL_SIZES = (
    *(16, 32, 48, 64, 80, 96, 128, 160, 240, 320, 400, 480, 560, 640, 800, 960),
    *(1120, 1280, 1600, 1920, 2240, 2560, 3072, 3584, 4096),
)
"""Tokens that forwards of more than one token a row are padded to."""
SHORT_ROW = 96
"""A forward of rows no longer than this, e.g. a unit with one picture, has graphs of its own."""
LONG_ROW = 512
"""Tokens of a row in one forward by graph; longer ones take several."""


def prefill_sizes(num_slots: int) -> tuple[int, ...]:
    """Those of `PREFILL_SIZES` that forwards of so many slots are padded to."""
    most = padded_size(min(MAX_FORWARD_TOKENS, num_slots * LONG_ROW), PREFILL_SIZES)
    return tuple(size for size in PREFILL_SIZES if size <= most)


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


def cut(feed: Feed, most: int) -> Iterator[Feed]:
    """A long feed as several of at most `most` positions."""
    pieces: list[Piece] = []
    room = most
    for piece in feed.pieces:
        while len(piece) > room:
            pieces.append(piece[:room])
            piece = piece[room:]
            yield Feed(feed.slot, pieces)
            pieces, room = [], most
        pieces.append(piece)
        room -= len(piece)
    if any(len(piece) for piece in pieces):
        yield Feed(feed.slot, pieces)


class LlmRows:
    """Rows of `num_slots` sessions. The model's weights are shared, the rows are owned here.

    Keeps the newest state and logits of each slot on the device; the row behind the last slot's
    takes what padding gives.
    """

    def __init__(
        self,
        model: Qwen3,
        num_slots: int,
        max_context: int,
        graphs: GraphPool | None = None,
        *,
        sizes: Sequence[int] | None = None,
        kv_cache: KvCacheType = "auto",
    ) -> None:
        """`max_context`: positions of a row.

        `sizes`: tokens that forwards by graph are padded to, ascending; None: those that so many
        slots can come to.
        """
        self.model = model
        self._sizes = prefill_sizes(num_slots) if sizes is None else sizes
        self.kv = CACHES[kv_cache](model.cache_spec(max_context), num_slots)
        self.graphs = GraphPool(model.device, enabled=False) if graphs is None else graphs
        config = model.config
        self.hidden = torch.zeros(
            num_slots + 1, config.hidden_size, device=model.device, dtype=model.dtype
        )
        """[S + 1, C], after the final norm."""
        self.logits = torch.zeros(num_slots + 1, config.vocab_size, device=model.device)
        """[S + 1, V], raw, float32."""

    def length(self, slot: int) -> int:
        return self.kv.lengths[slot]

    @torch.inference_mode()
    def feed(self, feeds: Sequence[Feed]) -> list[Fed]:
        """Append rows of any lengths; returns the last position of each.

        One forward, or several where the feeds are longer than `MAX_FORWARD_TOKENS` together.
        Raises `OverflowError` before anything is written if a row does not fit.
        """
        self._run(feeds, want_logits=True)
        return self.newest([feed.slot for feed in feeds])

    @torch.inference_mode()
    def append(self, feeds: Sequence[Feed], *, want_logits: bool = False) -> None:
        """Append rows; logits are computed where the newest are wanted in `logits`."""
        self._run(feeds, want_logits=want_logits)

    @torch.inference_mode()
    def newest(self, slots: Sequence[int]) -> list[Fed]:
        """Copies of the newest state and logits of slots."""
        index = self.graphs.upload(torch.tensor(list(slots)))
        return [Fed(*pair) for pair in zip(self.hidden[index], self.logits[index], strict=True)]

    @torch.inference_mode()
    def step(self, tokens: Mapping[int, int]) -> Tensor:
        """Append one token to each slot, by slot; returns the states [B, C] in that order.

        Fixed shapes for a padded number of rows: one graph.
        """
        if not tokens:
            return self.hidden[:0]
        slots, ids = list(tokens), list(tokens.values())
        size = padded_size(len(slots)) if self.graphs.enabled else len(slots)
        plan = self.kv.plan(slots, [1] * len(slots), num_tokens=size, num_rows=size, max_query=1)
        given = torch.zeros(size, dtype=torch.int32)
        given[: len(ids)] = torch.tensor(ids, dtype=torch.int32)
        packed = torch.cat([plan.packed, given])
        states = self.graphs.run(("llm step", size), partial(self._step, plan, size), packed)
        self.kv.advance(slots, [1] * len(slots))
        return states[: len(slots)].clone()

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
        # The kept units move first: computing `ids` then fills what lies in front of them.
        self.kv.move(slot, slide.resume, target, count, rope)
        self.kv.truncate(slot, slide.keep)
        self.append([Feed(slot, [slide.ids])])
        self.kv.advance([slot], [count])

    @torch.inference_mode()
    def reset(self, slot: int) -> None:
        self.kv.reset([slot])

    # ------------------------------------------------------------------ forwards

    def _run(self, feeds: Sequence[Feed], *, want_logits: bool) -> None:
        for feed in feeds:
            length = self.length(feed.slot)
            assert len(feed), f"slot {feed.slot} is fed nothing"
            if length + len(feed) > self.kv.max_len:
                raise OverflowError(
                    f"slot {feed.slot}: {length} + {len(feed)} positions exceed {self.kv.max_len}"
                )
        slots, counts = [feed.slot for feed in feeds], [len(feed) for feed in feeds]
        most = LONG_ROW if self.graphs.enabled else MAX_FORWARD_TOKENS
        if sum(counts) <= MAX_FORWARD_TOKENS and max(counts) <= most:
            self._prefill(slots, counts, self.embed(feeds, self._size(sum(counts))), want_logits)
            return
        rows = torch.split(self.embed(feeds), counts)
        share = max(1, min(most, MAX_FORWARD_TOKENS // len(feeds)))
        for start in range(0, max(counts), share):
            active = [index for index, row in enumerate(rows) if start < len(row)]
            parts = [rows[index][start : start + share] for index in active]
            sizes = [len(part) for part in parts]
            lacking = self._size(sum(sizes)) - sum(sizes)
            x = F.pad(torch.cat(parts), (0, 0, 0, lacking))
            self._prefill([slots[index] for index in active], sizes, x, want_logits)

    def _size(self, count: int) -> int:
        return padded_size(count, self._sizes) if self.graphs.enabled else count

    @torch.inference_mode()
    def embed(self, feeds: Sequence[Feed], size: int | None = None) -> Tensor:
        """Embeddings [T, C] of feeds end to end, padded to `size` rows."""
        width, device = self.model.config.hidden_size, self.model.device
        ids: list[int] = []
        places: list[int] = []
        media: list[Tensor] = []
        for feed in feeds:
            for piece in feed.pieces:
                if isinstance(piece, Tensor):
                    assert piece.ndim == 2 and piece.shape[1] == width, (
                        f"embeddings {tuple(piece.shape)} for a model of width {width}"
                    )
                    places += range(len(ids), len(ids) + len(piece))
                    media.append(piece)
                    ids += [0] * len(piece)
                else:
                    ids += piece
        ids += [0] * ((size or len(ids)) - len(ids))
        index = self.graphs.upload(torch.tensor(ids + places, dtype=torch.int32))
        x = self.model.embed(index[: len(ids)])
        if media:
            given = torch.cat([rows.to(device=device, dtype=x.dtype) for rows in media])
            x.index_copy_(0, index[len(ids) :].long(), given)
        return x

    def _prefill(self, slots: list[int], counts: list[int], x: Tensor, want_logits: bool) -> None:
        """Run the tokens x [N, C] of rows, padded or not, and count them."""
        most: int | None = max(counts)
        if self.graphs.enabled:
            most = SHORT_ROW if max(counts) <= SHORT_ROW else LONG_ROW
        plan = self.kv.plan(
            slots,
            counts,
            num_tokens=len(x),
            num_rows=padded_size(self.kv.num_slots) if self.graphs.enabled else len(slots),
            max_query=most,
        )
        forward = partial(self._forward, want_logits=want_logits, plan=plan)
        self.graphs.run(("llm", len(x), most, want_logits), forward, x, plan.packed)
        self.kv.advance(slots, counts)

    def _step(self, plan: KvPlan, size: int, packed: Tensor) -> Tensor:
        """`packed`: the plan's numbers, then the ids."""
        x = self.model.embed(packed[-size:])
        return self._forward(x, packed[:-size], want_logits=True, plan=plan)

    def _forward(self, x: Tensor, packed: Tensor, *, want_logits: bool, plan: KvPlan) -> Tensor:
        """The states [B, C] of the rows' last tokens; keeps them and their logits by slot.

        `plan` says the shapes, `packed` the numbers.
        """
        plan = plan.on(packed)
        states: Tensor = self.model(x, self.kv, plan)[plan.last]
        # All padding rows use the row after the last slot's.
        slots = plan.slots.long()
        self.hidden.index_copy_(0, slots, states)
        if want_logits:
            self.logits.index_copy_(0, slots, self.model.logits(states).float())
        return states

    # ------------------------------------------------------------------ start

    @torch.inference_mode()
    def warm_up(self, show: Callable[[str], None]) -> None:
        """Capture the graphs of all sizes, with tokens that are kept nowhere."""
        if not self.graphs.enabled:
            return
        device = self.model.device
        with self.graphs.capturing():
            show("language model, steps")
            for size in sizes_up_to(self.kv.num_slots):
                plan = self.kv.idle_plan(size, size, 1)
                ids = torch.zeros(size, dtype=torch.int32)
                self.graphs.run(
                    ("llm step", size),
                    partial(self._step, plan, size),
                    torch.cat([plan.packed, ids]),
                )
            rows = padded_size(self.kv.num_slots)
            for size in reversed(self._sizes):
                show(f"language model, {size} tokens")
                x = torch.zeros(
                    size, self.model.config.hidden_size, device=device, dtype=self.model.dtype
                )
                is_short = size <= padded_size(self.kv.num_slots * SHORT_ROW, self._sizes)
                for most in (SHORT_ROW, LONG_ROW) if is_short else (LONG_ROW,):
                    plan = self.kv.idle_plan(size, rows, most)
                    for want_logits in (True, False):
                        self.graphs.run(
                            ("llm", size, most, want_logits),
                            partial(self._forward, want_logits=want_logits, plan=plan),
                            x,
                            plan.packed,
                        )
