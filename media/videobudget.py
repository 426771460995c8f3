"""How many bits a camera may send, so that sound goes first. Pure logic, owned by the video uplink.

Sound and pictures of a caller share one way. Where packets of sound are lost or late the pictures
give way: the model needs few of them.
"""

MAX_BITRATE = 2_000_000
"""bit/s, of which two pictures a second use the smaller part."""
MIN_BITRATE = 60_000
MAX_LOSS = 0.03
MAX_SPREAD_S = 0.100
"""Sound that is lost, or later than other sound, by more than this is in the pictures' way."""
DECREASE = 0.7
INCREASE = 1.25
HOLD_S = 5.0
MIN_PACKETS = 10
"""Fewer packets of sound tell nothing of their loss."""


class VideoBudget:
    """Owns the limit, bit/s, that is told to the camera (REMB)."""

    def __init__(self) -> None:
        self.limit = MAX_BITRATE
        self._held_until_s = 0.0
        self._looked_s: float | None = None
        self._latest = (0, 0, 0)

    def look(
        self, now: float, sound_received: int, sound_lost: int, spread_s: float, video_bytes: int
    ) -> None:
        """Look at counters since the call began; `spread_s`: how late packets of sound come."""
        received, lost, size = self._latest
        elapsed_s = 0.0 if self._looked_s is None else now - self._looked_s
        self._looked_s = now
        self._latest = sound_received, sound_lost, video_bytes
        if elapsed_s <= 0:
            return
        received, lost = sound_received - received, max(0, sound_lost - lost)
        is_lossy = lost > MAX_LOSS * (received + lost) and received + lost >= MIN_PACKETS
        # Without sound the spread is of some time ago, and there is none to give way to.
        if is_lossy or (received > 0 and spread_s > MAX_SPREAD_S):
            # Below what is really sent: a limit that nobody reaches helps nobody.
            sent = (video_bytes - size) * 8 / elapsed_s
            if sent >= MIN_BITRATE:
                self.limit = max(MIN_BITRATE, int(DECREASE * min(self.limit, sent)))
            self._held_until_s = now + HOLD_S
        elif now >= self._held_until_s:
            self.limit = min(MAX_BITRATE, int(self.limit * INCREASE))
