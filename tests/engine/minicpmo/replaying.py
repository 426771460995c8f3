"""CUDA graphs without a GPU: operations are written down once and replayed over the same tensors.

What a captured function asks the host, decides by values or allocates anew is frozen here as it
would be there, so that results show it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from unittest import mock

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from engine.gpu.graphs import GraphPool
from engine.gpu.layers.varlen_attention import varlen_attention

T = TypeVar("T")

USERS = ("engine.gpu.kv.cache", "engine.minicpmo.models.flow.dit")
"""Modules whose attention is one kernel on a GPU, and a loop over values here."""


class Recording(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The operations of one run, with the tensors that they worked on."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.steps: list[tuple[Callable[[], Any], list[Tensor]]] = []
        self._is_paused = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if not self._is_paused:
            self._note(lambda: func(*args, **kwargs), (args, kwargs), result, func)
        return result

    def attention(self, *args: Any, **kwargs: Any) -> Tensor:
        self._is_paused = True
        result = varlen_attention(*args, **kwargs)
        self._is_paused = False
        self.steps.append((lambda: varlen_attention(*args, **kwargs), [result]))
        return result

    def replay(self) -> None:
        for run, kept in self.steps:
            result = run()
            for own, new in zip(kept, tensors_in(result), strict=False):
                own.copy_(new)

    def _note(self, run: Callable[[], Any], given: Any, result: Any, func: Any) -> None:
        if func._schema.is_mutable:
            self.steps.append((run, []))
            return
        inputs = {tensor.untyped_storage().data_ptr() for tensor in tensors_in(given)}
        outputs = list(tensors_in(result))
        if any(tensor.untyped_storage().data_ptr() in inputs for tensor in outputs):
            return
        self.steps.append((run, outputs))


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors of an operation's arguments or result, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from tensors_in(part)
    elif isinstance(value, dict):
        yield from tensors_in(list(value.values()))


class ReplayingPool(GraphPool):
    """A pool that captures on the CPU, for keys that are new while it is `capturing`."""

    def __init__(self) -> None:
        super().__init__("cpu")
        self.keys: dict[Hashable, tuple[Recording, tuple[Tensor, ...], Any]] = {}
        self.replays = 0

    @property
    def has_to_warm_up(self) -> bool:
        return True

    def run(self, key: Hashable, function: Callable[..., T], *inputs: Tensor) -> T:
        if key not in self.keys:
            if not self._is_capturing:
                self.misses += 1
                return function(*inputs)
            own = tuple(tensor.clone() for tensor in inputs)
            with _recorded() as recording:
                result = function(*own)
            self.keys[key] = recording, own, result
            return result
        recording, own, kept = self.keys[key]
        for mine, given in zip(own, inputs, strict=True):
            assert mine.shape == given.shape and mine.dtype == given.dtype, key
            mine.copy_(given)
        recording.replay()
        self.replays += 1
        result = kept
        return result


@contextmanager
def _recorded() -> Any:
    recording = Recording()
    patches = [mock.patch(f"{user}.varlen_attention", recording.attention) for user in USERS]
    for patch in patches:
        patch.start()
    try:
        with recording:
            yield recording
    finally:
        for patch in patches:
            patch.stop()
