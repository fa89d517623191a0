"""Meters: the tightest of several buckets, and when to ask again."""

from __future__ import annotations

import pytest

from wsbridge.limits.bucket import Bucket
from wsbridge.limits.meter import Meter


def test_no_bucket_bounds_nothing() -> None:
    """Only so much is read at a time."""
    meter = Meter((), 65536)
    assert meter.room(1.0) == 65536
    meter.take(65536)
    assert meter.room(1.0) == 65536
    assert not meter.starved


@pytest.mark.parametrize("rates", [(20_000,), (20_000, 1_000_000), (1_000_000, 20_000), (20_000, 20_000)])
def test_the_tightest_bucket_counts(rates: tuple[int, ...]) -> None:
    """Over ten seconds, woken when it said, it carries what the slowest allows."""
    meter = Meter(tuple(Bucket(rate) for rate in rates), 65536)
    now, total = 100.0, 0
    while now < 110.0:
        while room := meter.room(now):
            assert not meter.starved
            meter.take(room)
            total += room
        assert meter.starved
        assert now < meter.until <= now + 0.1
        now = meter.until
    assert total == pytest.approx(200_000, rel=0.03)
