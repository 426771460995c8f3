"""How good a call sounds, on the scale of listeners' opinions (MOS, 1 to 4.4).

The E-model of ITU-T G.107, shortened as is usual for calls over packets: delay costs as in Cole and
Rosenbluth (2001), sound that was lost and concealed as `Ie,eff` with the robustness of Opus.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from signaling.session.core import ClientFigures

WINDOW = 10
"""Looks, one a second."""
FRESH_S = 15.0
"""So long a client's own figures count, which come each 5 s."""
BEST_R = 93.2
ROBUSTNESS_PCT = 20.0
"""Concealed sound that costs half of what can be lost."""


def mos(delay_ms: float, concealed_pct: float) -> float:
    """The opinion of a listener: one way's delay, and how much of the sound was made up."""
    delay_cost = 0.024 * delay_ms + 0.11 * max(0.0, delay_ms - 177.3)
    lost_cost = 95.0 * concealed_pct / (concealed_pct + ROBUSTNESS_PCT)
    r = max(0.0, BEST_R - delay_cost - lost_cost)
    return round(max(1.0, 1 + 0.035 * r + 7e-6 * r * (r - 60) * (100 - r)), 2)


class _Look(NamedTuple):
    samples: float
    concealed: float


class CallQuality:
    """Owns the figures of one call's last seconds; call `look` about once a second."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._looks: deque[_Look] = deque(maxlen=WINDOW)
        self._told: ClientFigures | None = None
        self._told_at = 0.0

    def look(self, inbound: Mapping[str, float]) -> None:
        """Take the counters of what came, as of `media.uplink`."""
        self._looks.append(_Look(inbound["totalSamplesReceived"], inbound["concealedSamples"]))

    def tell(self, figures: ClientFigures) -> None:
        """The client says how the call is on its side."""
        self._told, self._told_at = figures, self._clock()

    def row(self, inbound: Mapping[str, float], outbound: Mapping[str, float]) -> dict[str, Any]:
        """As an object of webrtc-stats: what the server hears (`mosIn`), what the client does."""
        row: dict[str, Any] = {"type": "call-quality", "kind": "audio"}
        told = self._told if self._clock() - self._told_at <= FRESH_S else None
        way_ms = outbound.get("roundTripTime", 0.0) * 500
        if told is not None and told.rtt_ms is not None:
            way_ms = told.rtt_ms / 2
        if len(self._looks) > 1:
            first, last = self._looks[0], self._looks[-1]
            samples = max(1.0, last.samples - first.samples)
            concealed_pct = 100 * max(0.0, last.concealed - first.concealed) / samples
            delay_ms = way_ms + 1000 * inbound.get("currentDelay", 0.0)
            row["mosIn"] = mos(delay_ms, min(100.0, concealed_pct))
        lost_pct, buffer_ms = 100 * outbound.get("fractionLost", 0.0), 0.0
        if told is not None:
            lost_pct = lost_pct if told.concealed_pct is None else told.concealed_pct
            buffer_ms = told.in_buffer_ms or 0.0
            row["client"] = {
                name: getattr(told, name)
                for name in told.__struct_fields__
                if getattr(told, name) is not None
            }
        row["mosOut"] = mos(way_ms + buffer_ms, lost_pct)
        return row
