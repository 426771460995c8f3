"""One step of the model: a token for everybody in one forward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor

from engine.gpu.timing import Timer, timed
from engine.minicpmo.runner import Runner


class Mode(Protocol):
    """Drives the sessions of one kind."""

    def choose(self) -> dict[int, int]:
        """Decide one token for every session under way; the ids to feed, by slot."""

    def fed(self, states: Mapping[int, Tensor], timer: Timer) -> bool:
        """What was chosen is in the caches, with `states` [C] by slot; whether anything was."""


def step(runner: Runner, modes: Sequence[Mode]) -> bool:
    """A token for every session of these modes; whether there was any."""
    feeding: dict[int, int] = {}
    for mode in modes:
        feeding |= mode.choose()
    with timed(runner.model.device) as timer:
        states = dict(zip(feeding, runner.llm.step(feeding), strict=True))
    decided = [mode.fed(states, timer) for mode in modes]
    return any(decided)
