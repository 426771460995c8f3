"""Work that no unit waits for: room in contexts, pictures ahead, newcomers' prompts, messages."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from engine.gpu.timing import passed
from engine.minicpmo.modes.full_duplex import FullDuplex
from engine.minicpmo.modes.half_duplex import HalfDuplex

PATIENCE_S = 0.15
"""For so long nothing is done while units are under way: a piece takes 20 ms and fills the GPU, so
that each step of a unit would wait for one and its speech take twice as long."""


class Background:
    """Owned by the model's thread."""

    def __init__(
        self,
        device: torch.device,
        duplex: FullDuplex,
        turns: HalfDuplex,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._device, self._duplex, self._turns = device, duplex, turns
        self._clock = clock
        self._had_turn = 0.0
        self._piece: torch.cuda.Event | None = None
        """Passed when the newest piece is done."""

    def go_on(self) -> bool:
        """Do a piece; return whether there was one.

        Full contexts and pictures wait while units are decided. Prompts and messages wait for units
        that are spoken, too, but not for ever.
        """
        now, is_busy = self._clock(), self._duplex.is_busy()
        if not is_busy and (
            self._paced(self._duplex.make_room) or self._paced(self._duplex.look_ahead)
        ):
            return True
        if (is_busy or self._duplex.is_speaking()) and now - self._had_turn < PATIENCE_S:
            return False
        self._had_turn = now
        return self._paced(self._duplex.read_on) or self._paced(self._turns.read_on)

    def _paced(self, do: Callable[[], bool]) -> bool:
        """Do a piece once the one before is done: units that become due wait for everything in
        the device's queue."""
        if self._piece is not None:
            self._piece.synchronize()
            self._piece = None
        found = do()
        if found:
            self._piece = passed(self._device)
        return found
