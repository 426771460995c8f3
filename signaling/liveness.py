"""Whether a peer is still there: the connect deadline and the silence watch. Owned by Peer."""

CONNECT_DEADLINE_S = 15.0
SILENCE_S = 10.0
"""Silence after which a peer has vanished.

Unless its owner waits longer: never for more than consent lasts, 30 s (RFC 7675 section 5.1).
"""
REFUSED_SILENCE_S = 2.0
"""The same where the peer's host says that its port is closed.

Not at once: such a message (ICMP) is not authenticated, and a live peer answers a consent check
each second.
"""
TICK_S = 0.25


class Liveness:
    """Judges one peer from a clock and from what was certainly heard of it, checked every TICK_S.

    Only what is signed or decrypted counts as heard. The clock is one that leaves out standstills
    (`signaling.awake`): if this process stood still, nobody has vanished.
    """

    def __init__(
        self,
        now: float,
        *,
        connect_deadline_s: float = CONNECT_DEADLINE_S,
        silence_s: float = SILENCE_S,
        refused_silence_s: float = REFUSED_SILENCE_S,
    ) -> None:
        self._connect_by = now + connect_deadline_s
        self._silence_s = silence_s
        self._refused_silence_s = refused_silence_s
        self._is_connected = False
        self._heard = 0
        self._refusals = 0
        self._heard_at = now

    def connected(self, now: float) -> None:
        """From now on silence counts instead of the connect deadline."""
        self._is_connected = True
        self._heard_at = now

    def silent_s(self, now: float) -> float:
        """Return for how long nothing was heard; 0 before the connection."""
        return now - self._heard_at if self._is_connected else 0.0

    def spoke(self, now: float) -> None:
        """The client was heard of by another way than its media's."""
        self._heard_at = now

    def check(self, now: float, heard: int, refusals: int = 0) -> str | None:
        """Return why the peer is gone ("connect_timeout", "vanished"), or None if it is there.

        `heard` and `refusals` count from the beginning of the call; refusals before the last sign
        of life do not count.
        """
        if not self._is_connected:
            return "connect_timeout" if now >= self._connect_by else None
        if heard != self._heard:
            self._heard, self._refusals = heard, refusals
            self._heard_at = now
            return None
        is_refused = refusals != self._refusals
        limit_s = self._refused_silence_s if is_refused else self._silence_s
        return "vanished" if now - self._heard_at >= limit_s else None
