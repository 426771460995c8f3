"""The time that a sender's timestamps mean, in 48 kHz ticks, whatever they count.

An Opus clock runs at 48 kHz (RFC 7587 section 4.1); senders are met whose clock counts samples of
their microphone. How long a packet lasts stands in the packet itself, and two packets in a row
cannot overlap: from that the rate is learned. Owned by the jitter buffer.
"""

from fractions import Fraction

from media.formats import RTP_OPUS_HZ

ALIKE_PACKETS = 8
"""Packets in a row that must agree before timestamps are read at another rate."""
MIN_DEVIATION = 0.02
MAX_FAST = 4
"""Times that a clock may be too fast; larger steps are pauses."""
SLACK_TICKS = RTP_OPUS_HZ // 400
"""Overlaps shorter than this are timestamps that are not exact."""
_MIN_SOUND_BYTES = 3
_HALF = 1 << 31


def _signed(value: int) -> int:
    return ((value + _HALF) & 0xFFFFFFFF) - _HALF


class SenderClock:
    """Translate the timestamps of one stream; right ones pass unchanged."""

    def __init__(self) -> None:
        self._ssrc: int | None = None
        self._sequence = 0
        self._timestamp = 0
        # Whole numbers as long as the clock is right, which costs a tenth of fractions.
        self._position: Fraction | int = 0
        self._ticks = 0
        self._rate: Fraction | int = 1
        self._candidate: Fraction | int = 1
        self._agreeing = 0
        self._since_s = 0.0
        self._sum_ticks = 0

    def translate(
        self,
        ssrc: int,
        sequence: int,
        timestamp: int,
        ticks: int | None,
        payload_bytes: int,
        now: float,
    ) -> int:
        """Return the packet's time as a 32-bit timestamp of a 48 kHz clock.

        `ticks` is its duration in 48 kHz ticks, None where it is not Opus.
        """
        if (
            ssrc == self._ssrc
            and self._ticks
            and self._rate == self._candidate == 1
            and sequence == (self._sequence + 1) & 0xFFFF
            and timestamp == (self._timestamp + self._ticks) & 0xFFFFFFFF
        ):
            # The next packet of a right clock, as nearly all are: nothing is to be learned.
            self._position += self._ticks
            self._sequence, self._timestamp, self._ticks = sequence, timestamp, ticks or 0
            return round(self._position) & 0xFFFFFFFF
        return self._translate(ssrc, sequence, timestamp, ticks, payload_bytes, now)

    def _translate(
        self,
        ssrc: int,
        sequence: int,
        timestamp: int,
        ticks: int | None,
        payload_bytes: int,
        now: float,
    ) -> int:
        """Do the same for any packet."""
        step = _signed(timestamp - self._timestamp)
        ahead = ((sequence - self._sequence + 0x8000) & 0xFFFF) - 0x8000
        if ssrc != self._ssrc or abs(step) > 2 * RTP_OPUS_HZ or abs(ahead) > 100:
            self._begin(ssrc, timestamp)
        elif ahead == 1 and self._ticks:
            self._learn(step, payload_bytes, now)
        position = self._position + _signed(timestamp - self._timestamp) * self._rate
        if self._ticks and ahead > 0 and step >= 0:
            if self._position + self._ticks - position > SLACK_TICKS:
                position = self._position + self._ticks * ahead
        if ahead > 0 or self._ticks == 0:
            self._sequence, self._timestamp, self._position = sequence, timestamp, position
            self._ticks = ticks or 0
        return round(position) & 0xFFFFFFFF

    def _begin(self, ssrc: int, timestamp: int) -> None:
        if ssrc != self._ssrc:
            self._rate = 1
        self._ssrc = ssrc
        self._timestamp = self._position = timestamp
        self._ticks = 0
        self._agreeing = 0

    def _learn(self, step: int, payload_bytes: int, now: float) -> None:
        rate: Fraction | int = 1
        if step != self._ticks:
            rate = Fraction(self._ticks, step) if step > 0 else 0
        is_sound = payload_bytes >= _MIN_SOUND_BYTES
        if not is_sound or rate != self._candidate or rate * MAX_FAST < 1:
            self._candidate, self._agreeing = rate, 0
            self._since_s, self._sum_ticks = now, 0
            return
        self._agreeing += 1
        self._sum_ticks += self._ticks
        if self._agreeing < ALIKE_PACKETS or rate == self._rate:
            return
        change = float(rate / self._rate)
        # Steps larger than the sound are pauses, unless the packets come as fast as the sound.
        elapsed_ticks = (now - self._since_s) * RTP_OPUS_HZ
        is_paused = change < 1 and elapsed_ticks > self._sum_ticks * (1 + 1 / change) / 2
        if abs(1 - change) > MIN_DEVIATION and not is_paused:
            self._rate = rate
