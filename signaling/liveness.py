"""Whether a peer is still there: the connect deadline and the silence watch. Owned by Peer."""

CONNECT_DEADLINE_S = 15.0
SILENCE_S = 3.0
TICK_S = 0.25


class Liveness:
    """Judges one peer from a clock and the number of datagrams received, checked every TICK_S.

    A live client sends at least answers to our consent checks, one a second. Silence is summed
    over checks, of which a late one counts no more than two ticks: if this process stood still,
    nobody has vanished.
    """

    def __init__(
        self,
        now: float,
        *,
        connect_deadline_s: float = CONNECT_DEADLINE_S,
        silence_s: float = SILENCE_S,
    ) -> None:
        self._checked_at = now
        self._connect_by = now + connect_deadline_s
        self._silence_s = silence_s
        self._is_connected = False
        self._datagrams = 0
        self._silent_s = 0.0

    def connected(self) -> None:
        """From now on silence counts instead of the connect deadline."""
        self._is_connected = True
        self._silent_s = 0.0

    def check(self, now: float, datagrams: int) -> str | None:
        """Return why the peer is gone ("connect_timeout", "vanished"), or None if it is there."""
        elapsed = min(now - self._checked_at, 2 * TICK_S)
        self._checked_at = now
        if not self._is_connected:
            return "connect_timeout" if now >= self._connect_by else None
        if datagrams != self._datagrams:
            self._datagrams = datagrams
            self._silent_s = 0.0
            return None
        self._silent_s += elapsed
        return "vanished" if self._silent_s >= self._silence_s else None
