"""Token buckets admit a burst, then a rate, and forget old keys."""

from signaling.ratelimit import KeyedBuckets, TokenBucket


def test_burst_then_rate() -> None:
    bucket = TokenBucket(rate=2, burst=3)
    assert [bucket.take(0.0) for _ in range(4)] == [True, True, True, False]
    assert bucket.wait_s(0.0) == 0.5
    assert bucket.take(0.5)
    assert not bucket.take(0.5)


def test_clock_going_backwards_gives_nothing() -> None:
    bucket = TokenBucket(rate=1, burst=1)
    assert bucket.take(10.0)
    assert not bucket.take(5.0)


def test_keys_are_bounded() -> None:
    buckets = KeyedBuckets(rate=1, burst=1, max_keys=2)
    assert buckets.take("a", 0.0) == 0.0
    assert buckets.take("a", 0.0) > 0.0
    for key in "bc":
        buckets.take(key, 0.0)
    assert len(buckets) == 2
    assert buckets.take("a", 0.0) == 0.0
