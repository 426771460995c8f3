"""Token buckets: how often something may happen. Owned by whoever counts; no clock of their own."""

from collections import OrderedDict


class TokenBucket:
    """Admits `burst` events at once and `rate` per second over time; times are in seconds."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._at: float | None = None

    def take(self, now: float) -> bool:
        """Take one token if there is one."""
        self._refill(now)
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def wait_s(self, now: float) -> float:
        """Return how many seconds from `now` the next token will be there."""
        self._refill(now)
        return max(0.0, (1 - self._tokens) / self._rate)

    def _refill(self, now: float) -> None:
        if self._at is not None:
            elapsed = max(0.0, now - self._at)
            self._tokens = min(self._burst, self._tokens + elapsed * self._rate)
        self._at = now


class KeyedBuckets:
    """One bucket per key, for at most `max_keys` keys; the longest unused one is forgotten."""

    def __init__(self, rate: float, burst: float, max_keys: int = 4096) -> None:
        self._rate = rate
        self._burst = burst
        self._max_keys = max_keys
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, key: str, now: float) -> float:
        """Take one token of `key`; return 0.0, or the seconds to wait when there is none."""
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = TokenBucket(self._rate, self._burst)
            if len(self._buckets) > self._max_keys:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(key)
        return 0.0 if bucket.take(now) else bucket.wait_s(now)
