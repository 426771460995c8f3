"""Keys and values of a decoder, one contiguous row per slot: plans, lengths, and sliding.

A forward works on *tokens*: all new positions of all its rows laid end to end. `KvPlan` says for
each of them which slot and position it takes, and for each row which cached positions it may see,
so that rows of different lengths and starts share one forward without padding in linear layers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from engine.gpu.kernels.decode_attention import decode16
from engine.gpu.kernels.decoder_layer import PackedHeads, rope_store, rotate_keys
from engine.gpu.layers.rope import Rope
from engine.gpu.layers.varlen_attention import VarlenLayout, varlen_attention

_MOVED_LAYERS = 6
"""Layers that are moved at once: more need more memory in between, fewer more launches."""


@dataclass(frozen=True)
class CacheSpec:
    """What a model's cache holds for a slot."""

    num_layers: int
    max_len: int
    """Positions."""
    num_kv_heads: int
    head_dim: int
    device: torch.device = torch.device("cpu")
    dtype: torch.dtype = torch.float32
    """Of queries, and of keys and values where they are read."""


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
class DeviceTokenPlan:
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


class SlotCache(ABC):
    """Rows of `num_slots` sessions, of at most `max_len` positions each.

    `lengths` is the only record of what a row holds; it moves by `advance`, never by a forward
    alone, so that a forward that failed leaves nothing behind. One extra position per row takes
    the writes of rows that a masked decode step does not advance.
    """

    def __init__(self, keys: Tensor, values: Tensor, *others: Tensor) -> None:
        """All of them [layers, slots, max_len + 1, ...], on one device and empty.

        `others` are what belongs to a position besides.
        """
        self._stored = (keys, values, *others)
        self.keys = list(keys)
        """[slots, max_len + 1, Hkv, D] of each layer, as they are stored."""
        self.values = list(values)
        self.num_slots = keys.shape[1]
        self.max_len = keys.shape[2] - 1
        self.lengths = [0] * self.num_slots
        self.device = keys.device

    @property
    def nbytes(self) -> int:
        """Memory of all rows."""
        return sum(tensor.nbytes for tensor in self._stored)

    @staticmethod
    @abstractmethod
    def bytes_per_position(spec: CacheSpec) -> int:
        """Bytes that attention reads for each position it sees, in all layers."""

    @classmethod
    def bytes_per_slot(cls, spec: CacheSpec) -> int:
        """Memory of one row, without making any."""
        return (spec.max_len + 1) * cls.bytes_per_position(spec)

    # ------------------------------------------------------------------ attention

    def attend(self, layer: int, heads: PackedHeads, layout: VarlenLayout) -> Tensor:
        """Store the keys and values of N tokens and mix what their queries see: [N, H, D]."""
        query = self._store(layer, heads)
        mixed = self._decode(layer, query, heads.rates, layout) if layout.max_query == 1 else None
        if mixed is None:
            keys, values = self._read(layer, heads.rates, layout)
            mixed = varlen_attention(query, keys, values, layout, causal=True)
        return mixed

    @abstractmethod
    def _store(self, layer: int, heads: PackedHeads) -> Tensor:
        """Store the keys and values of N tokens; return their rotated queries [N, H, D]."""

    @abstractmethod
    def _decode(
        self, layer: int, query: Tensor, rates: Tensor, layout: VarlenLayout
    ) -> Tensor | None:
        """Attention of one query per row by the format's own kernel; None where it is off."""

    @abstractmethod
    def _read(self, layer: int, rates: Tensor, layout: VarlenLayout) -> tuple[Tensor, Tensor]:
        """Rotated keys and values [slots, max_len + 1, Hkv, D] that `varlen_attention` takes."""

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
        # A place of the first row that is never read.
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
            for tensor in self._stored:
                tensor[:, slot].zero_()

    def move(self, slot: int, source: int, target: int, count: int, rope: Rope) -> None:
        """Copy positions [source, source+count) to `target`, where keys count as of there.

        Values stay as they are. `lengths` does not change; the caller truncates or advances.
        """
        assert 0 <= source and source + count <= self.max_len, f"{source}+{count}"
        assert 0 <= target and target + count <= self.max_len, f"{target}+{count}"
        if count == 0 or source == target:
            return
        old, new = slice(source, source + count), slice(target, target + count)
        for tensor in self._stored:
            for start in range(0, len(tensor), _MOVED_LAYERS):
                rows = tensor[start : start + _MOVED_LAYERS, slot]
                # Source and target may overlap.
                if tensor is self._stored[0]:
                    rows[:, new] = self._moved_keys(rows[:, old], target - source, rope)
                else:
                    rows[:, new] = rows[:, old].clone()

    @abstractmethod
    def _moved_keys(self, keys: Tensor, shift: int, rope: Rope) -> Tensor:
        """Keys [layers, T, Hkv, D] as they are stored `shift` positions further; a new tensor."""

    def remove(self, slot: int, start: int, count: int, rope: Rope) -> None:
        """Cut positions [start, start+count) out; what follows slides left, keys by `move`."""
        length = self.lengths[slot]
        assert 0 <= start and count >= 0 and start + count <= length, f"{start}+{count} of {length}"
        self.move(slot, start + count, start, length - start - count, rope)
        self.lengths[slot] = length - count

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of row `source` to `target`, e.g. a shared prefix."""
        assert length <= self.lengths[source], f"{length} of {self.lengths[source]}"
        for tensor in self._stored:
            tensor[:, target, :length] = tensor[:, source, :length]
        self.lengths[target] = length


class NativeKV(SlotCache):
    """Rows in a type of the model's. Keys are stored rotated to their position."""

    def __init__(self, spec: CacheSpec, num_slots: int) -> None:
        shape = (spec.num_layers, num_slots, spec.max_len + 1, spec.num_kv_heads, spec.head_dim)
        super().__init__(
            *(torch.zeros(shape, device=spec.device, dtype=spec.dtype) for _ in range(2))
        )

    @staticmethod
    def bytes_per_position(spec: CacheSpec) -> int:
        return 2 * spec.num_layers * spec.num_kv_heads * spec.head_dim * spec.dtype.itemsize

    def _store(self, layer: int, heads: PackedHeads) -> Tensor:
        return rope_store(heads, self.keys[layer], self.values[layer])

    def _decode(
        self, layer: int, query: Tensor, rates: Tensor, layout: VarlenLayout
    ) -> Tensor | None:
        return decode16(query, self.keys[layer], self.values[layer], layout)

    def _read(self, layer: int, rates: Tensor, layout: VarlenLayout) -> tuple[Tensor, Tensor]:
        return self.keys[layer], self.values[layer]

    def _moved_keys(self, keys: Tensor, shift: int, rope: Rope) -> Tensor:
        return rotate_keys(keys, shift, rope.frequencies(self.device))
