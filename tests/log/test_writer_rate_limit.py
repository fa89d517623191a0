"""Limits: token buckets."""

from __future__ import annotations

from wsbridge.log.writer import EventRateLimiter, event_rate_limiters


def test_burst_then_rate() -> None:
    """After a burst only so many a second pass; quiet time fills the bucket again, up to the burst."""
    bucket = EventRateLimiter(rate=10, burst=20)

    assert sum(bucket.allow(1000.0) for _ in range(100)) == 20
    assert sum(bucket.allow(1001.0) for _ in range(100)) == 10
    assert sum(bucket.allow(2000.0) for _ in range(100)) == 20


def test_refused_are_counted_and_told_once() -> None:
    """What was refused is told once."""
    bucket = EventRateLimiter(rate=1, burst=1)
    for _ in range(5):
        bucket.allow(1000.0)

    assert bucket.suppressed == 4
    assert [bucket.take_suppressed_count(), bucket.take_suppressed_count()] == [4, 0]


def test_clock_set_back() -> None:
    """A clock that is set back neither fills the bucket nor stops it for good."""
    bucket = EventRateLimiter(rate=10, burst=20)
    for _ in range(20):
        bucket.allow(1000.0)

    assert not bucket.allow(500.0)
    assert bucket.allow(501.0)


def test_which_events() -> None:
    """The events that bad clients cause at will are limited, and no other; fewest are those that are all alike."""
    passed = {name: sum(bucket.allow(1000.0) for _ in range(1000)) for name, bucket in event_rate_limiters().items()}

    assert passed == {
        "accept.error": 5,
        "connection.shed": 5,
        "connection.banned": 5,
        "connection.rejected": 200,
        "http.request": 200,
    }
