"""Where the tokens of a forward go in a cache of slots, and what they see.

A forward works on *tokens*: all new positions of all its rows laid end to end. `KvPlan` says for
each of them which slot and position it takes, and for each row which cached positions it may see,
so that rows of different lengths and starts share one forward without padding in linear layers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor

from engine.gpu.layers.varlen_attention import VarlenLayout


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
