"""The flow network's streaming state: attention cells and convolution tails of all slots.

Every tensor has a row per slot. A chunk is prepared for some rows (`FlowState.begin`), which
works out on the host where each frame goes; the network then reads and writes through views.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.models.flow_config import FlowConfig, Trim
from engine.models.stream_cache import CacheOrder, keep_ends

RECENT_FRAMES = 100
"""Mel frames (2 s) that trimming keeps beside as many frames as the voice prompt has."""


class RowCaches:
    """The attention cells of some rows during one chunk.

    `lengths` [B] frames cached, `positions` [B, S] the place of each cell's frame in time,
    `key_mask` [B, S+T] what a query may see: filled cells and the row's own new frames.
    """

    def __init__(
        self, store: Tensor, rows: Tensor, orders: list[CacheOrder], new: list[int]
    ) -> None:
        # store: [layers, slots, 2, H, cells + 1, D]; the last cell takes what is not kept.
        device = store.device
        lengths = [len(order) for order in orders]
        self.max_length, self._new = max(lengths), max(new)
        self._store, self._rows = store, rows
        spare = store.shape[4] - 1
        cells = torch.full((len(orders), self._new), spare)
        positions = torch.zeros(len(orders), self.max_length, dtype=torch.long)
        for row, (order, count) in enumerate(zip(orders, new, strict=True)):
            positions[row, : len(order)] = torch.tensor(order.positions(), dtype=torch.long)
            placed = order.add(count)
            cells[row, placed.frames] = torch.tensor(placed.cells, dtype=torch.long)
        self._cells = cells.to(device)
        self.positions = positions.to(device)
        self.lengths = torch.tensor(lengths, device=device)
        old = torch.arange(self.max_length, device=device) < self.lengths[:, None]
        fresh = torch.arange(self._new, device=device) < torch.tensor(new, device=device)[:, None]
        self.key_mask = torch.cat([old, fresh], dim=1)

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Return cached and new keys and values [B, H, S+T, D]; keep the new ones [B, H, T, D]."""
        store = self._store[layer]
        old = store[self._rows, :, :, : self.max_length].to(key.dtype)
        new = torch.stack([key, value], dim=1)  # [B, 2, H, T, D]
        store[self._rows[:, None], :, :, self._cells] = new.permute(0, 3, 1, 2, 4).to(store.dtype)
        both = torch.cat([old, new], dim=3)
        return both[:, 0], both[:, 1]

    def doubled(self) -> RowCaches:
        """The same for a batch [conditional rows | unconditional rows], slots laid out alike."""
        twin = object.__new__(RowCaches)
        twin.max_length, twin._new, twin._store = self.max_length, self._new, self._store
        twin._rows = torch.cat([self._rows, self._rows + self._store.shape[1] // 2])
        for name in ("_cells", "positions", "lengths", "key_mask"):
            setattr(twin, name, torch.cat([getattr(self, name)] * 2))
        return twin


class RowTails:
    """The last inputs of causal convolutions of some rows: what the next chunk is put behind."""

    def __init__(self, store: Tensor, rows: Tensor, new: Tensor) -> None:
        # store: [layers, slots, C, W]; new: [B] valid inputs of each row in this chunk
        self._store, self._rows = store, rows
        self._index = new[:, None] + torch.arange(store.shape[-1], device=store.device)  # [B, W]

    def extend(self, layer: int, x: Tensor) -> Tensor:
        """Put the tails before x [B, C, T] and keep the last valid columns for the next chunk."""
        store = self._store[layer]
        x = torch.cat([store[self._rows].to(x.dtype), x], dim=-1)
        index = self._index[:, None].expand(-1, x.shape[1], -1)
        store[self._rows] = x.gather(-1, index).to(store.dtype)
        return x


@dataclass(frozen=True)
class RateState:
    """One rate of the encoder during a chunk."""

    cache: RowCaches
    tails: RowTails

    def extend_tail(self, x: Tensor) -> Tensor:
        return self.tails.extend(0, x)


@dataclass(frozen=True)
class ChunkState:
    """Everything a chunk of some rows reads and writes."""

    low: RateState
    high: RateState
    estimator: RowCaches
    estimator_tails: RowTails
    offsets: list[int]
    """Frames in each row's estimator cache before the chunk: where its noise begins."""
    frames: list[int]
    """Mel frames each row gains."""


@dataclass(frozen=True)
class FlowBase:
    """The caches after the voice prompt, of one voice: where each turn starts."""

    frames: int
    """Mel frames of the prompt."""
    tensors: tuple[Tensor, ...]
    orders: tuple[CacheOrder, CacheOrder, CacheOrder]


class FlowState:
    """Caches of all slots; a slot is usable after `load`.

    `max_prompt` bounds the mel frames of a voice prompt (50 a second) and with it the memory.
    """

    def __init__(
        self, config: FlowConfig, steps: int, slots: int, max_prompt: int, like: Tensor
    ) -> None:
        self.config, self.steps, self.max_prompt = config, steps, max_prompt
        enc, dit = config.encoder, config.dit
        if max_prompt % enc.upsample:
            raise ValueError(f"{max_prompt} prompt frames are no multiple of {enc.upsample}")
        cells = max_prompt + RECENT_FRAMES
        head = enc.size // enc.num_heads
        low = cells // enc.upsample
        passes = steps * dit.depth

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=like.dtype, device=like.device)

        self._low = zeros(enc.num_blocks, slots, 2, enc.num_heads, low + 1, head)
        self._high = zeros(enc.num_up_blocks, slots, 2, enc.num_heads, cells + 1, head)
        # The slots of the unconditional branch follow those of the conditional one.
        self._kv = zeros(passes, 2 * slots, 2, dit.num_heads, cells + 1, dit.head_dim)
        self._low_tail = zeros(1, slots, enc.size, 2)
        self._high_tail = zeros(1, slots, enc.size, 2 * enc.upsample)
        self._kv_tail = zeros(2 * passes, 2 * slots, dit.hidden_size, 2)
        self._slots = slots
        self._orders: list[tuple[CacheOrder, CacheOrder, CacheOrder] | None] = [None] * slots

    def nbytes(self) -> int:
        return sum(t.nbytes for t in self._tensors())

    def cached(self, slot: int) -> tuple[int, int, int]:
        """Entries in the slot's caches: encoder at token rate, at mel rate, estimator."""
        orders = self._orders[slot]
        assert orders is not None, f"slot {slot} has no voice"
        return len(orders[0]), len(orders[1]), len(orders[2])

    def open(self, slot: int, prompt: int, trim: Trim = "reference") -> None:
        """Empty a slot for a voice whose prompt has `prompt` mel frames."""
        if prompt > self.max_prompt:
            raise ValueError(f"a voice prompt of {prompt} frames; {self.max_prompt} fit")
        up = self.config.encoder.upsample
        cells = self.max_prompt + RECENT_FRAMES
        low_keep = keep_ends(prompt // up, RECENT_FRAMES // up)
        keep = keep_ends(prompt, RECENT_FRAMES)
        self._orders[slot] = (
            CacheOrder(cells // up, low_keep),
            CacheOrder(cells, keep),
            CacheOrder(cells, keep, newest_first=trim == "reference"),
        )
        for tail in (self._low_tail, self._high_tail, self._kv_tail):
            tail[:, slot] = 0
        self._kv_tail[:, self._slots + slot] = 0

    def save(self, slot: int) -> FlowBase:
        """Copy a slot out, as it is after the voice prompt."""
        orders = self._orders[slot]
        assert orders is not None, f"slot {slot} has no voice"
        pair = [slot, self._slots + slot]
        return FlowBase(
            len(orders[2]),
            (
                self._low[:, slot, :, :, : len(orders[0])].clone(),
                self._high[:, slot, :, :, : len(orders[1])].clone(),
                self._kv[:, pair, :, :, : len(orders[2])],
                self._low_tail[:, slot].clone(),
                self._high_tail[:, slot].clone(),
                self._kv_tail[:, pair],
            ),
            (orders[0].copy(), orders[1].copy(), orders[2].copy()),
        )

    def load(self, slot: int, base: FlowBase) -> None:
        """Put a slot to the beginning of a turn with the voice of `base`."""
        if base.frames > self.max_prompt:
            raise ValueError(f"a voice prompt of {base.frames} frames; {self.max_prompt} fit")
        pair = [slot, self._slots + slot]
        low, high, kv, low_tail, high_tail, kv_tail = base.tensors
        self._low[:, slot, :, :, : low.shape[3]] = low
        self._high[:, slot, :, :, : high.shape[3]] = high
        self._kv[:, pair, :, :, : kv.shape[4]] = kv
        self._low_tail[:, slot] = low_tail
        self._high_tail[:, slot] = high_tail
        self._kv_tail[:, pair] = kv_tail
        first, second, third = (order.fitted(self._cells(i)) for i, order in enumerate(base.orders))
        self._orders[slot] = (first, second, third)

    def clear(self, slot: int) -> None:
        """Leave nothing of a session in the slot; it needs `load` before it is used again."""
        for tensor in (self._low, self._high, self._low_tail, self._high_tail):
            tensor[:, slot] = 0
        for tensor in (self._kv, self._kv_tail):
            tensor[:, [slot, self._slots + slot]] = 0
        self._orders[slot] = None

    def begin(self, slots: list[int], codes: list[int]) -> ChunkState:
        """Enter `codes[i]` fresh codes for slot `slots[i]`; slots are distinct."""
        assert len(set(slots)) == len(slots), f"a slot twice in {slots}"
        up = self.config.encoder.upsample
        device = self._kv.device
        rows = torch.tensor(slots, device=device)
        frames = [up * count for count in codes]
        orders = []
        for slot in slots:
            order = self._orders[slot]
            assert order is not None, f"slot {slot} has no voice"
            orders.append(order)
        offsets = [len(order[2]) for order in orders]
        fresh = torch.tensor(codes, device=device)
        tail_rows = torch.cat([rows, rows + self._slots])
        return ChunkState(
            RateState(
                RowCaches(self._low, rows, [o[0] for o in orders], codes),
                RowTails(self._low_tail, rows, fresh),
            ),
            RateState(
                RowCaches(self._high, rows, [o[1] for o in orders], frames),
                RowTails(self._high_tail, rows, up * fresh),
            ),
            RowCaches(self._kv, rows, [o[2] for o in orders], frames).doubled(),
            RowTails(self._kv_tail, tail_rows, torch.cat([up * fresh, up * fresh])),
            offsets,
            frames,
        )

    def _cells(self, index: int) -> int:
        return (self._low, self._high, self._kv)[index].shape[4] - 1

    def _tensors(self) -> tuple[Tensor, ...]:
        tails = (self._low_tail, self._high_tail, self._kv_tail)
        return (self._low, self._high, self._kv, *tails)
