"""Keys and values of a decoder, one contiguous row per slot; owned by the engine process.

A forward works on *tokens*: all new positions of all its rows laid end to end. `KvPlan` says for
each of them which slot and position it takes, and for each row which cached positions it may see,
so that rows of different lengths and starts share one forward without padding in linear layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.layers.rope import Rope, rotate


@dataclass(frozen=True)
class KvPlan:
    """Where the tokens of one forward go and what they see. B rows, N tokens, T the longest row."""

    slots: Tensor
    """[B] the slot of each row."""
    span: tuple[int, int] | None
    """First slot and end, if the rows are consecutive slots: their cache is then a view."""
    token_slot: Tensor
    """[N]"""
    token_position: Tensor
    """[N] RoPE position of each token, its index in the slot."""
    token_write: Tensor
    """[N] index written in the slot; differs from the position only for masked-out rows."""
    token_row: Tensor
    """[N] row of each token among the B."""
    token_column: Tensor
    """[N] place of each token within its row."""
    visible: Tensor
    """[B, 1, T, context] True where a query may look."""
    last: Tensor
    """[B] index among the N tokens of each row's last one."""

    @property
    def num_rows(self) -> int:
        return int(self.visible.shape[0])

    @property
    def width(self) -> int:
        return int(self.visible.shape[2])

    @property
    def context(self) -> int:
        return int(self.visible.shape[3])

    @property
    def num_tokens(self) -> int:
        return int(self.token_slot.shape[0])

    @property
    def is_dense(self) -> bool:
        """All rows have the same number of tokens."""
        return self.num_tokens == self.num_rows * self.width


class SlotKV:
    """Key-value rows of `num_slots` sessions. Keys are stored rotated to their position.

    `lengths` is the only record of what a row holds; it moves by `advance`, never by a forward
    alone, so that a forward that failed leaves nothing behind. One extra position per row takes
    the writes of rows that a masked decode step does not advance.
    """

    def __init__(
        self,
        num_layers: int,
        num_slots: int,
        max_len: int,
        num_kv_heads: int,
        head_dim: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        shape = (num_slots, max_len + 1, num_kv_heads, head_dim)
        self.keys = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(num_layers)]
        self.values = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(num_layers)]
        self.lengths = [0] * num_slots
        self.num_slots = num_slots
        self.max_len = max_len
        self.device = torch.device(device)
        self._arange = torch.arange(max_len + 1, device=device)
        self._slots = torch.arange(num_slots, device=device)

    # ------------------------------------------------------------------ plans

    def plan(self, slots: Sequence[int], counts: Sequence[int]) -> KvPlan:
        """A plan that appends `counts[i]` tokens to row `slots[i]`, each row once."""
        assert len(slots) == len(counts) > 0, f"{len(slots)} slots but {len(counts)} counts"
        assert len(set(slots)) == len(slots), f"a slot occurs twice in {list(slots)}"
        starts = [self.lengths[slot] for slot in slots]
        for slot, start, count in zip(slots, starts, counts, strict=True):
            assert count > 0, f"no tokens for slot {slot}"
            if start + count > self.max_len:
                raise OverflowError(
                    f"slot {slot} holds {start} positions, {count} more exceed {self.max_len}"
                )
        width = max(counts)
        context = max(start + count for start, count in zip(starts, counts, strict=True))
        rows: list[int] = []
        columns: list[int] = []
        positions: list[int] = []
        ends: list[int] = []
        for row, (start, count) in enumerate(zip(starts, counts, strict=True)):
            rows += [row] * count
            columns += range(count)
            positions += range(start, start + count)
            ends.append(len(rows) - 1)
        index = torch.tensor([rows, columns, positions], device=self.device)
        start_of = torch.tensor(starts, device=self.device)
        slot_of = torch.tensor(list(slots), device=self.device)
        query = start_of[:, None] + self._arange[:width]  # [B, T]
        return KvPlan(
            slots=slot_of,
            span=_span(slots),
            token_slot=slot_of[index[0]],
            token_position=index[2],
            token_write=index[2],
            token_row=index[0],
            token_column=index[1],
            visible=self._arange[None, None, None, :context] <= query[:, None, :, None],
            last=torch.tensor(ends, device=self.device),
        )

    def decode_plan(self, active: Tensor, lengths: Tensor, context: int) -> KvPlan:
        """A plan of one token for every slot, of the same shapes whatever `active` and `lengths`.

        `active` [S] bool, `lengths` [S] int64 on this cache's device, `context` an upper bound of
        the lengths plus one. Rows that are not active compute something and keep nothing.
        """
        assert active.shape == lengths.shape == (self.num_slots,), (
            f"active {tuple(active.shape)}, lengths {tuple(lengths.shape)}, slots {self.num_slots}"
        )
        assert 0 < context <= self.max_len, f"context {context} of {self.max_len}"
        slots = self._slots
        return KvPlan(
            slots=slots,
            span=(0, self.num_slots),
            token_slot=slots,
            token_position=lengths,
            token_write=torch.where(active, lengths, self.max_len),
            token_row=slots,
            token_column=torch.zeros_like(slots),
            visible=self._arange[None, None, None, :context] <= lengths[:, None, None, None],
            last=slots,
        )

    # ------------------------------------------------------------------ one layer of a forward

    def append(self, layer: int, plan: KvPlan, keys: Tensor, values: Tensor) -> None:
        """Write keys and values [N, H, D] of the plan's tokens."""
        self.keys[layer][plan.token_slot, plan.token_write] = keys
        self.values[layer][plan.token_slot, plan.token_write] = values

    def rows(self, layer: int, plan: KvPlan) -> tuple[Tensor, Tensor]:
        """Keys and values [B, context, H, D] of the plan's rows."""
        keys, values = self.keys[layer], self.values[layer]
        if plan.span is not None:
            first, end = plan.span
            return keys[first:end, : plan.context], values[first:end, : plan.context]
        return (
            keys[:, : plan.context].index_select(0, plan.slots),
            values[:, : plan.context].index_select(0, plan.slots),
        )

    # ------------------------------------------------------------------ rows

    def advance(self, slots: Sequence[int], counts: Sequence[int]) -> None:
        """Count the tokens of a forward that succeeded."""
        for slot, count in zip(slots, counts, strict=True):
            assert self.lengths[slot] + count <= self.max_len, f"slot {slot} overflows"
            self.lengths[slot] += count

    def truncate(self, slot: int, length: int) -> None:
        """Forget everything from position `length` on."""
        assert 0 <= length <= self.lengths[slot], f"{length} of {self.lengths[slot]} in slot {slot}"
        self.lengths[slot] = length

    def reset(self, slots: Sequence[int]) -> None:
        """Empty these rows. What they held is cleared too: rows of free slots hold nothing."""
        for slot in slots:
            self.lengths[slot] = 0
            for tensor in (*self.keys, *self.values):
                tensor[slot].zero_()

    def move(self, slot: int, source: int, target: int, count: int, rope: Rope) -> None:
        """Copy positions [source, source+count) to `target`, keys rotated to their new positions.

        Values stay as they are. `lengths` does not change; the caller truncates or advances.
        """
        assert 0 <= source and source + count <= self.max_len, f"{source}+{count}"
        assert 0 <= target and target + count <= self.max_len, f"{target}+{count}"
        if count == 0 or source == target:
            return
        shift = torch.tensor([target - source], device=self.device)
        cos, sin = rope(shift)
        for keys, values in zip(self.keys, self.values, strict=True):
            moved = keys[slot, source : source + count].clone()
            keys[slot, target : target + count] = rotate(moved, cos, sin)
            values[slot, target : target + count] = values[slot, source : source + count].clone()

    def remove(self, slot: int, start: int, count: int, rope: Rope) -> None:
        """Cut positions [start, start+count) out; what follows slides left and is re-rotated."""
        length = self.lengths[slot]
        assert 0 <= start and count >= 0 and start + count <= length, f"{start}+{count} of {length}"
        self.move(slot, start + count, start, length - start - count, rope)
        self.lengths[slot] = length - count

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of row `source` to `target`, e.g. a shared prefix."""
        assert length <= self.lengths[source], f"{length} of {self.lengths[source]}"
        for tensor in (*self.keys, *self.values):
            tensor[target, :length] = tensor[source, :length]
        self.lengths[target] = length


def _span(slots: Sequence[int]) -> tuple[int, int] | None:
    first = slots[0]
    if list(slots) == list(range(first, first + len(slots))):
        return first, first + len(slots)
    return None
