"""Where and in which type a golden set is replayed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from engine.gpu.graphs import GraphPool
from tests.exactness import exact
from tests.golden.limits import Limits


@dataclass(frozen=True)
class Place:
    """Device and type of the networks that read the checkpoint; token2wav is float32 always."""

    device: torch.device = torch.device("cpu")
    dtype: torch.dtype = torch.float32

    @property
    def is_narrow(self) -> bool:
        """Fewer digits than the set: free choices may differ, so the stored ones are replayed."""
        return self.dtype != torch.float32

    def pool(self) -> GraphPool:
        """Graphs as the engine has them; none in float32, which is the check without them."""
        return GraphPool(self.device, enabled=self.is_narrow)

    def limits(self) -> Limits:
        return Limits.of(on_cpu=self.device.type == "cpu", narrow=self.is_narrow)

    @contextmanager
    def running(self) -> Iterator[None]:
        """What a replay runs within."""
        if self.device.type == "cuda" and not self.is_narrow:
            with exact():
                yield
        else:
            yield
