"""Keys and values of a decoder, one contiguous row per slot; owned by the engine process.

A forward works on *tokens*: all new positions of all its rows laid end to end. `KvPlan` says for
each of them which slot and position it takes, and for each row which cached positions it may see,
so that rows of different lengths and starts share one forward without padding in linear layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from engine.layers.fused import turn_rows
from engine.layers.rope import Rope
from engine.layers.varlen import VarlenLayout

_MOVED_LAYERS = 6
"""Layers whose keys are moved at once: more need more memory in between, fewer more launches."""


class TokenPlan(Protocol):
    """What a layer has to know of the N tokens of a forward."""

    @property
    def positions(self) -> Tensor:
        """[N] int32, of the rotation."""
        ...

    @property
    def write(self) -> Tensor:
        """[N] int32, where the keys go among all slots' positions laid end to end."""
        ...

    @property
    def layout(self) -> VarlenLayout: ...


@dataclass(frozen=True)
class Tokens:
    """A `TokenPlan` put together on the device."""

    positions: Tensor
    write: Tensor
    layout: VarlenLayout


@dataclass(frozen=True)
class KvPlan:
    """Where the tokens of one forward go and what they see. N tokens of B rows, padded or not.

    All of it is one int32 tensor, so that a graph gets it with one copy.
    """

    packed: Tensor
    """[2 N + 5 B + 2]"""
    num_tokens: int
    num_rows: int
    max_query: int
    """At least the tokens of the longest row."""
    max_keys: int
    """At least the positions of the longest row."""

    @staticmethod
    def size(num_tokens: int, num_rows: int) -> int:
        """Length of `packed`."""
        return 2 * num_tokens + 5 * num_rows + 2

    def _part(self, start: int, count: int) -> Tensor:
        return self.packed[start : start + count]

    @property
    def positions(self) -> Tensor:
        """[N] RoPE position of each token, its index in the slot."""
        return self._part(0, self.num_tokens)

    @property
    def write(self) -> Tensor:
        """[N] where its key goes, among all slots' positions laid end to end."""
        return self._part(self.num_tokens, self.num_tokens)

    @property
    def last(self) -> Tensor:
        """[B] index among the N tokens of each row's last one."""
        return self._part(2 * self.num_tokens, self.num_rows)

    @property
    def slots(self) -> Tensor:
        """[B] slot of each row; those behind the last row have the number of slots."""
        return self._part(2 * self.num_tokens + self.num_rows, self.num_rows)

    @property
    def layout(self) -> VarlenLayout:
        """For `varlen_attention`."""
        rows, start = self.num_rows, 2 * self.num_tokens + 2 * self.num_rows
        return VarlenLayout(
            query_starts=self._part(start, rows + 1),
            key_starts=self._part(start + rows + 1, rows + 1),
            used=self._part(start + 2 * rows + 2, rows),
            max_query=self.max_query,
            max_keys=self.max_keys,
        )

    def on(self, packed: Tensor) -> KvPlan:
        """The same shapes over another tensor, e.g. a graph's input."""
        return replace(self, packed=packed)


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
        shape = (num_layers, num_slots, max_len + 1, num_kv_heads, head_dim)
        self._keys = torch.zeros(shape, device=device, dtype=dtype)
        self._values = torch.zeros(shape, device=device, dtype=dtype)
        self.keys = list(self._keys)
        """[slots, max_len + 1, Hkv, D] of each layer."""
        self.values = list(self._values)
        self.lengths = [0] * num_slots
        self.num_slots = num_slots
        self.max_len = max_len
        self.device = torch.device(device)

    @staticmethod
    def bytes_per_slot(
        num_layers: int, max_len: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype
    ) -> int:
        """Memory of one row, without making any."""
        return 2 * num_layers * (max_len + 1) * num_kv_heads * head_dim * dtype.itemsize

    @property
    def nbytes(self) -> int:
        return self._keys.nbytes + self._values.nbytes

    # ------------------------------------------------------------------ plans

    def plan(
        self,
        slots: Sequence[int],
        counts: Sequence[int],
        *,
        num_tokens: int | None = None,
        num_rows: int | None = None,
        max_query: int | None = None,
    ) -> KvPlan:
        """A plan that appends `counts[i]` tokens to row `slots[i]`, each row once.

        With `num_tokens` and `num_rows` it is padded to these: the tokens and rows behind the real
        ones keep nothing and see nothing. The plan lies on the host when it is padded.
        """
        self._check(slots, counts)
        starts = np.array([self.lengths[slot] for slot in slots], np.int32)
        sizes = np.array(counts, np.int32)
        real, rows = int(sizes.sum()), len(counts)
        padded = num_tokens is not None or num_rows is not None
        plan = self.idle_plan(num_tokens or real, num_rows or rows, max_query or int(sizes.max()))
        assert plan.num_tokens >= real and plan.num_rows >= rows, f"{real} tokens, {rows} rows"
        width = self.max_len + 1
        ends = sizes.cumsum(dtype=np.int32)
        places = np.array(slots, np.int32)
        positions = np.repeat(starts - ends + sizes, sizes) + np.arange(real, dtype=np.int32)
        plan.positions.numpy()[:real] = positions
        plan.write.numpy()[:real] = np.repeat(places * width, sizes) + positions
        plan.last.numpy()[:rows] = ends - 1
        plan.slots.numpy()[:rows] = places
        layout = plan.layout
        layout.query_starts.numpy()[1 : rows + 1] = ends
        layout.query_starts.numpy()[rows + 1 :] = real
        layout.key_starts.numpy()[:rows] = places * width
        layout.used.numpy()[:rows] = starts + sizes
        return plan if padded else plan.on(plan.packed.to(self.device))

    def idle_plan(self, num_tokens: int, num_rows: int, max_query: int) -> KvPlan:
        """A plan on the host of tokens that keep nothing and rows that see nothing."""
        packed = torch.zeros(KvPlan.size(num_tokens, num_rows), dtype=torch.int32)
        plan = KvPlan(packed, num_tokens, num_rows, max_query, self.max_len)
        # A place of the first row that none looks at.
        plan.write.fill_(self.max_len)
        plan.slots.fill_(self.num_slots)
        return plan

    def _check(self, slots: Sequence[int], counts: Sequence[int]) -> None:
        assert len(slots) == len(counts) > 0, f"{len(slots)} slots but {len(counts)} counts"
        assert len(set(slots)) == len(slots), f"a slot occurs twice in {list(slots)}"
        for slot, count in zip(slots, counts, strict=True):
            assert count > 0, f"no tokens for slot {slot}"
            if self.lengths[slot] + count > self.max_len:
                raise OverflowError(
                    f"slot {slot} holds {self.lengths[slot]} positions, "
                    f"{count} more exceed {self.max_len}"
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
            self._keys[:, slot].zero_()
            self._values[:, slot].zero_()

    def move(self, slot: int, source: int, target: int, count: int, rope: Rope) -> None:
        """Copy positions [source, source+count) to `target`, keys rotated to their new positions.

        Values stay as they are. `lengths` does not change; the caller truncates or advances.
        """
        assert 0 <= source and source + count <= self.max_len, f"{source}+{count}"
        assert 0 <= target and target + count <= self.max_len, f"{target}+{count}"
        if count == 0 or source == target:
            return
        rates = rope.frequencies(self.device)
        old, new = slice(source, source + count), slice(target, target + count)
        for start in range(0, len(self.keys), _MOVED_LAYERS):
            layers = slice(start, start + _MOVED_LAYERS)
            keys, values = self._keys[layers, slot], self._values[layers, slot]
            keys[:, new] = turn_rows(keys[:, old], target - source, rates)
            values[:, new] = values[:, old].clone()

    def remove(self, slot: int, start: int, count: int, rope: Rope) -> None:
        """Cut positions [start, start+count) out; what follows slides left and is re-rotated."""
        length = self.lengths[slot]
        assert 0 <= start and count >= 0 and start + count <= length, f"{start}+{count} of {length}"
        self.move(slot, start + count, start, length - start - count, rope)
        self.lengths[slot] = length - count

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of row `source` to `target`, e.g. a shared prefix."""
        assert length <= self.lengths[source], f"{length} of {self.lengths[source]}"
        for tensor in (self._keys, self._values):
            tensor[:, target, :length] = tensor[:, source, :length]
        self.lengths[target] = length
