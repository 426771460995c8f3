"""Two channels to the one that is heard, by what they carry.

A plain mean silences a microphone whose channels are inverted to each other and halves one that
records on one side. Owned by the uplink.
"""

import numpy as np

MEMORY = 0.8
"""Part of what is known of the channels that one piece of 20 ms leaves."""
MIN_CORRELATION = -0.4
"""Below it the channels are taken as inverted to each other."""
QUIET_RATIO = 0.06
"""Energy of a channel, as part of the other's, below which it is left out."""

_MEAN = (0.5, 0.5)
_LEFT, _RIGHT = (1.0, 0.0), (0.0, 1.0)
_DIFFERENCE = (0.5, -0.5)


class Mixdown:
    """Mix pieces of one stream; a change of the mix is faded in over a piece."""

    def __init__(self) -> None:
        self._weights: tuple[float, float] | None = None
        self._left = self._right = self._cross = 0.0

    def mix(self, pcm: bytes) -> bytes:
        """Return the mono int16 PCM of stereo int16 PCM, whose samples alternate."""
        samples = np.frombuffer(pcm, np.int16).reshape(-1, 2).astype(np.float32)
        if not len(samples):
            return b""
        left, right = samples[:, 0], samples[:, 1]
        self._left = self._left * MEMORY + float(left @ left)
        self._right = self._right * MEMORY + float(right @ right)
        self._cross = self._cross * MEMORY + float(left @ right)
        target = self._wanted()
        current = self._weights or target
        self._weights = target
        if current == target:
            mixed = left * target[0] + right * target[1]
        else:
            ramp = np.linspace(0.0, 1.0, len(samples), dtype=np.float32)
            mixed = left * (current[0] + ramp * (target[0] - current[0]))
            mixed += right * (current[1] + ramp * (target[1] - current[1]))
        return np.clip(np.rint(mixed), -32768, 32767).astype(np.int16).tobytes()

    def _wanted(self) -> tuple[float, float]:
        left, right = self._left, self._right
        if right < left * QUIET_RATIO:
            return _LEFT
        if left < right * QUIET_RATIO:
            return _RIGHT
        if self._cross < MIN_CORRELATION * (left * right) ** 0.5:
            return _DIFFERENCE
        return _MEAN
