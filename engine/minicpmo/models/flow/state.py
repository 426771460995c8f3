"""The flow network's streaming state: attention cells and convolution tails of all slots.

Every tensor has a row per slot and a spare one, which batches are padded with. A chunk is prepared
for some rows (`FlowState.begin`): the host works out where each frame goes and packs that into one
tensor, which `FlowState.chunk` takes apart on the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engine.minicpmo.models.flow.cache_order import CacheOrder, Orders, keep_ends
from engine.minicpmo.models.flow.cells import CellRows, Cells, TailRows, aligned
from engine.minicpmo.models.flow.config import FlowConfig, Trim
from engine.minicpmo.models.flow.dit import DitState
from engine.minicpmo.models.flow.encoder import FlowEncoder, RateState

RECENT_FRAMES = 100
"""Mel frames (2 s) that trimming keeps beside as many frames as the voice prompt has."""
MOST_FRESH = 28
"""Fresh codes of one window that there is room for behind full caches."""
HEADER = ("slot", "given", "fresh", "low", "high", "estimator")


@dataclass(frozen=True)
class Window:
    """Codes of one row for one chunk: fresh ones and, unless `last`, the lookahead after them."""

    slot: int
    codes: list[int]
    last: bool = False


@dataclass(frozen=True)
class Chunk:
    """Everything a chunk of some rows reads and writes."""

    slots: Tensor
    codes: Tensor
    """[B, width + lookahead], anything behind a row's own."""
    given: Tensor
    """[B] codes of each row."""
    low: RateState
    high: RateState
    estimator: DitState
    offsets: Tensor
    """[B] frames in each row's estimator cache before the chunk: where its noise begins."""
    targets: tuple[Tensor, Tensor, Tensor]
    """[B, frames] cells where the new frames of the three caches stay."""

    def keep(self) -> None:
        """Enter the new frames into the caches; once, after all layers have run."""
        low, high, estimator = self.targets
        self.low.cells.keep(low)
        self.high.cells.keep(high)
        self.estimator.cells.keep(torch.cat([estimator, estimator]))
        for tails in (self.low.tails, self.high.tails, self.estimator.tails):
            tails.keep()


@dataclass(frozen=True)
class FlowBase:
    """The caches after the voice prompt, of one voice: where each turn starts."""

    frames: int
    """Mel frames of the prompt."""
    tensors: tuple[Tensor, ...]
    orders: Orders
    speaker: Tensor
    """[mels]"""


class FlowState:
    """Caches of all slots; a slot is usable after `load`.

    `max_prompt` bounds the mel frames of a voice prompt (50 a second) and with it the memory.
    """

    def __init__(
        self,
        config: FlowConfig,
        encoder: FlowEncoder,
        steps: int,
        slots: int,
        max_prompt: int,
    ) -> None:
        self.config, self.max_prompt = config, max_prompt
        enc, dit, up = config.encoder, config.dit, config.encoder.upsample
        if max_prompt % up:
            raise ValueError(f"{max_prompt} prompt frames are not a multiple of {up}")
        like = encoder.after_norm.weight
        cells = max_prompt + RECENT_FRAMES + up * MOST_FRESH
        heads = (enc.num_heads, enc.size // enc.num_heads)
        passes, rows = steps * dit.depth, slots + 1
        self.slots, self.rows = slots, rows
        self._low = Cells(enc.num_blocks, rows, cells // up, heads, like)
        self._high = Cells(enc.num_up_blocks, rows, cells, heads, like)
        # The rows of the unconditional branch follow those of the conditional one.
        self._kv = Cells(passes, 2 * rows, cells, (dit.num_heads, dit.head_dim), like)
        self._low_tail = like.new_zeros(1, rows, 2, enc.size)
        self._high_tail = like.new_zeros(1, rows, 2 * up, enc.size)
        self._kv_tail = like.new_zeros(2 * passes, 2 * rows, 2, dit.hidden_size)
        self.speakers = like.new_zeros(rows, config.num_mels)
        self._tables = encoder.place_tables(self._low.cells, self._high.cells)
        self._orders: list[Orders | None] = [None] * slots

    @staticmethod
    def bytes_per_slot(config: FlowConfig, steps: int, max_prompt: int, item_size: int) -> int:
        """Memory of one row, without making any."""
        enc, dit, up = config.encoder, config.dit, config.encoder.upsample
        cells = max_prompt + RECENT_FRAMES + up * MOST_FRESH
        low, high, passes = aligned(cells // up), aligned(cells), steps * dit.depth
        count = 2 * enc.size * (enc.num_blocks * low + enc.num_up_blocks * high)
        count += 2 * 2 * passes * high * dit.num_heads * dit.head_dim
        count += enc.size * (2 + 2 * up) + 2 * 2 * passes * 2 * dit.hidden_size + config.num_mels
        return count * item_size

    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self._tensors())

    def cached(self, slot: int) -> tuple[int, int, int]:
        """Entries in the slot's caches: encoder at token rate, at mel rate, estimator."""
        low, high, estimator = self._order(slot).orders
        return len(low), len(high), len(estimator)

    # ------------------------------------------------------------------ slots

    def open(self, slot: int, prompt: int, speaker: Tensor, trim: Trim = "reference") -> None:
        """Empty a slot for a voice [mels] whose prompt has `prompt` mel frames."""
        self._check_prompt(prompt)
        up = self.config.encoder.upsample
        low_keep = keep_ends(prompt // up, RECENT_FRAMES // up)
        keep = keep_ends(prompt, RECENT_FRAMES)
        estimator = CacheOrder(keep, newest_first=trim == "reference")
        self._orders[slot] = Orders((CacheOrder(low_keep), CacheOrder(keep), estimator))
        for tensor in self._views(slot)[6:]:
            tensor.zero_()
        self.speakers[slot] = speaker

    def save(self, slot: int) -> FlowBase:
        """Copy a slot out, as it is after the voice prompt."""
        low, high, estimator = self.cached(slot)
        counts = (low, low, high, high, estimator, estimator)
        views = self._views(slot)
        cut = [view[..., :count, :, :] for view, count in zip(views, counts, strict=False)]
        tensors = tuple(view.clone() for view in (*cut, *views[6:]))
        return FlowBase(estimator, tensors, self._order(slot), self.speakers[slot].clone())

    def load(self, slot: int, base: FlowBase) -> None:
        """Put a slot to the beginning of a turn with the voice of `base`."""
        self._check_prompt(base.frames)
        views = self._views(slot)
        for view, tensor in zip(views[:6], base.tensors, strict=False):
            view[..., : tensor.shape[-3], :, :] = tensor
        for view, tensor in zip(views[6:], base.tensors[6:], strict=True):
            view.copy_(tensor)
        self.speakers[slot] = base.speaker
        self._orders[slot] = base.orders

    def clear(self, slot: int) -> None:
        """Leave nothing of a session in the slot; it needs `load` before it is used again."""
        for view in self._views(slot):
            view.zero_()
        self.speakers[slot] = 0
        self._orders[slot] = None

    # ------------------------------------------------------------------ chunks

    def begin(
        self, windows: Sequence[Window], width: int, rows: int = 0
    ) -> tuple[Tensor, list[int]]:
        """Enter one window each of distinct slots, padded to `width` fresh codes and `rows` rows.

        Returns what `chunk` wants, on the host, and where each row's noise begins.
        """
        assert len({w.slot for w in windows}) == len(windows), "a slot occurs twice"
        enc = self.config.encoder
        up, ahead = enc.upsample, enc.lookahead
        rows, trash = max(rows, len(windows)), (self._low.cells - 1, self._high.cells - 1)
        header = np.zeros((rows, len(HEADER)), np.int32)
        header[:, :3] = self.slots, width + ahead, width
        codes = np.zeros((rows, width + ahead), np.int32)
        low_at, high_at = (
            np.tile(np.arange(cells.cells, dtype=np.int32), (rows, 1))
            for cells in (self._low, self._high)
        )
        targets = [
            np.full((rows, count), cell, np.int32)
            for count, cell in ((width, trash[0]), (up * width, trash[1]), (up * width, trash[1]))
        ]
        for row, window in enumerate(windows):
            fresh = len(window.codes) - (0 if window.last else ahead)
            orders = self._order(window.slot)
            low, high, estimator = orders.orders
            self._check_room(len(low), width)
            header[row] = window.slot, len(window.codes), fresh, len(low), len(high), len(estimator)
            codes[row, : len(window.codes)] = window.codes
            low_at[row, : len(low)] = low.positions
            high_at[row, : len(high)] = high.positions
            placed, self._orders[window.slot] = orders.add((fresh, up * fresh, up * fresh))
            for target, cells in zip(targets, placed, strict=True):
                own = target[row, : len(cells)]
                np.copyto(own, cells, where=cells >= 0, casting="same_kind")
        packed = np.concatenate([header, codes, low_at, high_at, *targets], axis=1)
        return torch.from_numpy(packed), header[: len(windows), -1].tolist()

    def chunk(self, packed: Tensor, width: int) -> Chunk:
        """Unpack what `begin` packed, on the device, with fixed shapes and without waiting."""
        enc = self.config.encoder
        up = enc.upsample
        sizes = [len(HEADER), width + enc.lookahead, self._low.cells, self._high.cells]
        parts = torch.split(packed.long(), [*sizes, width, up * width, up * width], dim=1)
        header, codes, low_at, high_at, *targets = parts
        slots, given, fresh, low, high, estimator = header.unbind(1)
        frames = up * fresh
        doubled = torch.cat([slots, slots + self.rows])
        lengths, news = torch.cat([estimator, estimator]), torch.cat([frames, frames])
        return Chunk(
            slots,
            codes,
            given,
            RateState(
                CellRows(self._low, slots, low, width),
                TailRows(self._low_tail, slots, fresh, width),
                low_at,
                fresh,
                self._tables[0],
            ),
            RateState(
                CellRows(self._high, slots, high, up * width),
                TailRows(self._high_tail, slots, frames, up * width),
                high_at,
                frames,
                self._tables[1],
            ),
            DitState(
                CellRows(self._kv, doubled, lengths, up * width),
                TailRows(self._kv_tail, doubled, news, up * width),
                lengths + news,
            ),
            estimator,
            (targets[0], targets[1], targets[2]),
        )

    # ------------------------------------------------------------------ details

    def _order(self, slot: int) -> Orders:
        orders = self._orders[slot]
        assert orders is not None, f"slot {slot} has no voice"
        return orders

    def _check_prompt(self, frames: int) -> None:
        if frames > self.max_prompt:
            raise ValueError(f"a voice prompt of {frames} frames; {self.max_prompt} fit")

    def _check_room(self, used: int, width: int) -> None:
        if used + width >= self._low.cells:
            raise ValueError(f"{width} fresh codes; {self._low.cells - 1 - used} fit")

    def _views(self, slot: int) -> list[Tensor]:
        """The slot's part of every cache: six of keys and values, then the tails."""
        views = [t[:, slot] for cells in (self._low, self._high) for t in cells.tensors]
        views += [
            t.view(t.shape[0], 2, self.rows, *t.shape[2:])[:, :, slot] for t in self._kv.tensors
        ]
        views += [self._low_tail[:, slot], self._high_tail[:, slot]]
        tails = self._kv_tail.view(-1, 2, self.rows, *self._kv_tail.shape[2:])
        return [*views, tails[:, :, slot]]

    def _tensors(self) -> tuple[Tensor, ...]:
        cells = (*self._low.tensors, *self._high.tensors, *self._kv.tensors)
        return (*cells, self._low_tail, self._high_tail, self._kv_tail, self.speakers)
