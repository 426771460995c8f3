"""How long a Live session has lasted, and whether anybody says anything in it. Media worker."""

from signaling.live.server_events import LiveUsage


class SessionClock:
    """Owns the seconds of one session; `now` counts monotonic seconds."""

    def __init__(self, *, tells_pauses: bool) -> None:
        self._tells_pauses = tells_pauses
        self._since: float | None = None
        self._paused_at: float | None = None
        self._paused_s = 0.0

    @property
    def is_paused(self) -> bool:
        return self._paused_at is not None

    def start(self, now: float) -> None:
        self._since = now

    def pause(self, now: float) -> None:
        if self._paused_at is None:
            self._paused_at = now

    def resume(self, now: float) -> None:
        if self._paused_at is not None:
            self._paused_s += now - self._paused_at
            self._paused_at = None

    def usage(self, now: float) -> LiveUsage:
        seconds = 0.0 if self._since is None else max(0.0, now - self._since)
        if not self._tells_pauses:
            return LiveUsage(seconds=round(seconds, 1))
        paused = self._paused_s + (0.0 if self._paused_at is None else now - self._paused_at)
        return LiveUsage(
            seconds=round(seconds, 1),
            active_seconds=round(seconds - paused),
            paused_seconds=round(paused),
        )


class IdleWatch:
    """Owns since when neither side has spoken."""

    def __init__(self, timeout_s: float | None, now: float) -> None:
        self._timeout_s = timeout_s
        self._quiet_since = now
        self._is_user_speaking = False
        self._is_model_speaking = False

    def user(self, is_speaking: bool, now: float) -> None:
        self._is_user_speaking = is_speaking
        self._quiet_since = now

    def model(self, is_speaking: bool, now: float) -> None:
        self._is_model_speaking = is_speaking
        self._quiet_since = now

    def touch(self, now: float) -> None:
        """Somebody did something other than speak."""
        self._quiet_since = now

    def is_due(self, now: float) -> bool:
        """Return whether it has been quiet for so long that the session is to pause."""
        if self._timeout_s is None or self._is_user_speaking or self._is_model_speaking:
            return False
        return now - self._quiet_since >= self._timeout_s
