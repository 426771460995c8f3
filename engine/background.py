"""Work that no unit waits for: pictures ahead, newcomers' prompts, messages; piece by piece."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from engine.fullduplex import FullDuplex
from engine.timing import passed
from engine.turntaking import TurnTaking

PATIENCE_S = 0.15
"""For so long nothing is done while units are under way: a piece takes 20 ms and fills the GPU, so
that each step of a unit would wait for one and its speech take twice as long."""


class Background:
    """Owned by the model's thread."""

    def __init__(
        self,
        device: torch.device,
        duplex: FullDuplex,
        turns: TurnTaking,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._device, self._duplex, self._turns = device, duplex, turns
        self._clock = clock
        self._had_turn = 0.0
        self._piece: torch.cuda.Event | None = None
        """Passed when the newest piece is done."""

    def go_on(self) -> bool:
        """Do a piece; whether there was one.

        While units are decided or spoken it has to wait, but not for ever.
        """
        now = self._clock()
        is_quiet = not (self._duplex.is_busy() or self._duplex.is_speaking())
        if not is_quiet and now - self._had_turn < PATIENCE_S:
            return False
        self._had_turn = now
        if self._piece is not None:
            # Units that become due wait for everything in the device's queue: one piece at most.
            self._piece.synchronize()
        found = is_quiet and self._duplex.look_ahead()
        found = found or self._duplex.read_on() or self._turns.read_on()
        self._piece = passed(self._device) if found else None
        return found
