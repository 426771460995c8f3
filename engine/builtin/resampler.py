"""Streaming polyphase resampler of the CPU engines: int16 in and out, no clicks at the seams."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from engine.hearing.windows import windows

ZERO_CROSSINGS = 24
KAISER_BETA = 9.0
MIN_BLOCK = 120
"""Inputs per matrix row: large enough that the product, not the framing, takes the time."""
MAX_ROWS = 256
"""Bounds the temporary arrays of a long clause (about 40 000 samples at a time)."""

Pcm = NDArray[np.int16]


class Resampler:
    """Converts mono PCM from `from_hz` to `to_hz`, which must not be below `from_hz`."""

    def __init__(self, from_hz: int, to_hz: int) -> None:
        assert 0 < from_hz <= to_hz, (from_hz, to_hz)
        gcd = math.gcd(from_hz, to_hz)
        up, down = to_hz // gcd, from_hz // gcd
        repeat = math.ceil(MIN_BLOCK / down)
        self._in_block = down * repeat
        self._out_block = up * repeat
        self._half = ZERO_CROSSINGS
        self._kernel = self._build_kernel(down / up)
        self._carry = np.zeros(self._half, np.float32)
        self._taken = 0
        self._given = 0
        self._ratio = up / down

    def _build_kernel(self, step: float) -> NDArray[np.float32]:
        # [inputs, outputs]: output j sits at input time j * step, history of `half` before it.
        width = self._in_block + 2 * self._half
        positions = np.arange(self._out_block) * step + self._half
        offsets = np.arange(width)[:, None] - positions[None, :]
        cutoff = 0.97
        inside = np.clip(1.0 - (offsets / self._half) ** 2, 0.0, None)
        kaiser = np.i0(KAISER_BETA * np.sqrt(inside)) / np.i0(KAISER_BETA)
        window = np.where(np.abs(offsets) < self._half, kaiser, 0.0)
        kernel = cutoff * np.sinc(cutoff * offsets) * window
        kernel /= kernel.sum(axis=0, keepdims=True)
        return kernel.astype(np.float32)

    def push(self, pcm: Pcm) -> Pcm:
        """Take any number of samples; return what is complete (it lags by about 1 ms)."""
        self._taken += len(pcm)
        self._carry = np.concatenate([self._carry, pcm.astype(np.float32)])
        return self._drain()

    def flush(self) -> Pcm:
        """Return the rest and start afresh; all in all `round(n * to_hz / from_hz)` samples."""
        wanted = round(self._taken * self._ratio) - self._given
        self._carry = np.concatenate(
            [self._carry, np.zeros(self._in_block + 2 * self._half, np.float32)]
        )
        rest = self._drain()[:wanted]
        self._carry = np.zeros(self._half, np.float32)
        self._taken = self._given = 0
        return rest

    def _drain(self) -> Pcm:
        pieces: list[Pcm] = []
        while (rows := (len(self._carry) - 2 * self._half) // self._in_block) > 0:
            rows = min(rows, MAX_ROWS)
            span = rows * self._in_block + 2 * self._half
            rows_of_input = windows(
                self._carry[:span], self._in_block + 2 * self._half, self._in_block
            )
            out = np.rint(rows_of_input @ self._kernel).reshape(-1)
            pieces.append(np.clip(out, -32768, 32767).astype(np.int16))
            self._carry = self._carry[rows * self._in_block :]
        merged = np.concatenate(pieces) if pieces else np.zeros(0, np.int16)
        self._given += len(merged)
        return merged
