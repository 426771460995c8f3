"""The pieces that the jitter buffer asks the decoder for, and its counters."""

import enum
from dataclasses import dataclass
from typing import NamedTuple


class Action(enum.Enum):
    """The way to the samples of a piece."""

    DECODE = "decode"
    FEC = "fec"
    """From the copy in `payload`, the packet behind the gap."""
    CONCEAL = "conceal"
    COMFORT = "comfort"
    """Extrapolated as well, but the sender is silent on purpose (DTX): nothing was lost."""
    NOISE = "noise"
    """The background alone: nothing came for so long that nothing is left to extrapolate."""


class Piece(NamedTuple):
    """The next samples of the timeline."""

    action: Action
    samples: int
    """16 kHz samples to deliver."""
    payload: bytes = b""
    skip: int = 0
    """16 kHz samples at the start of the decoded payload whose time was already delivered."""


@dataclass(slots=True)
class JitterCounters:
    """Counters of packets and samples since the stream began; samples are at 16 kHz."""

    packets_received: int = 0
    """Without duplicates."""
    packets_expected: int = 0
    packets_late: int = 0
    """Dropped: their time had been filled."""
    packets_duplicate: int = 0
    packets_invalid: int = 0
    """Dropped: empty, or not Opus."""
    packets_ahead: int = 0
    """Dropped: the sender runs faster than real time."""
    packets_stray: int = 0
    """Dropped: far from the stream, and no second packet confirmed a new one."""
    resyncs: int = 0
    samples: int = 0
    """Delivered, in whatever way."""
    concealed_samples: int = 0
    """Of these, extrapolated or noise in the place of lost sound."""
    silent_concealed_samples: int = 0
    """Of the concealed samples, background noise."""
    concealment_events: int = 0
    fec_samples: int = 0
    """Lost and recovered from FEC or a copy; not in `concealed_samples`."""
    fec_packets: int = 0
    comfort_samples: int = 0
    """Filled while the sender was silent on purpose."""
    delay_s: float = 0.0
    """From arrival to delivery, of the latest packet."""
    total_delay_s: float = 0.0
    """The same, summed over all `emitted_samples` (webrtc-stats jitterBufferDelay)."""
    emitted_samples: int = 0
    """Delivered from packets."""

    @property
    def packets_lost(self) -> int:
        """Return how many packets never came (RFC 3550 section 6.4.1, but never negative)."""
        return max(0, self.packets_expected - self.packets_received)
