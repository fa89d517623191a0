"""Meters: the tightest of several buckets, and when to ask again."""

from __future__ import annotations

import pytest

from wsbridge.limits.rate import RateLimiter, TokenBucket


def test_no_bucket_bounds_nothing() -> None:
    """Only so much is read at a time."""
    meter = RateLimiter((), 65536)
    assert meter.available(1.0) == 65536
    meter.consume(65536)
    assert meter.available(1.0) == 65536
    assert not meter.rate_limited


@pytest.mark.parametrize("rates", [(20_000,), (20_000, 1_000_000), (1_000_000, 20_000), (20_000, 20_000)])
def test_the_tightest_bucket_counts(rates: tuple[int, ...]) -> None:
    """Over ten seconds, woken when it said, it carries what the slowest allows."""
    meter = RateLimiter(tuple(TokenBucket(rate) for rate in rates), 65536)
    now, total = 100.0, 0
    while now < 110.0:
        while room := meter.available(now):
            assert not meter.rate_limited
            meter.consume(room)
            total += room
        assert meter.rate_limited
        assert now < meter.blocked_until <= now + 0.1
        now = meter.blocked_until
    assert total == pytest.approx(200_000, rel=0.03)
