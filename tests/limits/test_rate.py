"""Bandwidth limits: the rate over time, bursts, waiting connections in turn, several rates, and shared rates."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from wsbridge.limits.rate import BURST_SECONDS, Grant, RateLimiter, SharedBucketTable, TokenBucket

RATE = 20_000


def taken(
    claims: list[Grant], seconds: float, step: float = 0.05, most: int = 65536
) -> Iterator[tuple[float, int, int]]:
    """Have takers that always want more be woken each `step`; give time, taker and bytes."""
    for turn in itertools.count():
        now = 100 + turn * step
        if now >= 100 + seconds:
            return
        for number, claim in enumerate(claims):
            while room := claim.available(now):
                count = min(room, most)
                claim.consume(count)
                yield now, number, count


@pytest.mark.parametrize("rate", [1024, RATE, 1_000_000, 1_000_000_000])
@pytest.mark.parametrize("step", [0.001, 0.03, 0.05])
def test_the_rate_holds(rate: int, step: float) -> None:
    """Over ten seconds within 2 %, however often one asks."""
    total = sum(count for _, _, count in taken([Grant(TokenBucket(rate))], 10, step))
    assert total == pytest.approx(10 * rate, rel=0.02)


def test_bursts_are_small() -> None:
    """No more than 100 ms' worth comes at once, even after a long silence."""
    claim = Grant(TokenBucket(RATE))
    first = list(taken([claim], 5))
    for _, group in itertools.groupby(first, key=lambda step: step[0]):
        assert sum(count for _, _, count in group) <= RATE * BURST_SECONDS + 1
    assert claim.available(500.0) <= RATE * BURST_SECONDS + 1


def test_there_is_nothing_before_the_time_given() -> None:
    """Who waits until then finds a portion, and one who asks before finds none."""
    claim = Grant(TokenBucket(RATE))
    while room := claim.available(100.0):
        claim.consume(room)
    assert 100.0 < claim.blocked_until <= 100.0 + BURST_SECONDS
    assert claim.available(claim.blocked_until - 0.001) == 0
    assert claim.available(claim.blocked_until) > 0


@pytest.mark.parametrize("takers", [2, 3, 7, 30, 100])
def test_takers_of_one_bucket_get_the_same(takers: int) -> None:
    """In whatever order they are woken, and together no more than the rate."""
    bucket = TokenBucket(RATE)
    sums = [0] * takers
    for _, number, count in taken([Grant(bucket) for _ in range(takers)], 20):
        sums[number] += count
    assert sum(sums) == pytest.approx(20 * RATE, rel=0.05)
    assert max(sums) - min(sums) < RATE * BURST_SECONDS * 2


def test_one_who_wants_little_gets_it_beside_one_who_wants_all() -> None:
    """A greedy client does not starve one that needs 100 bytes now and then."""
    bucket = TokenBucket(RATE)
    greedy, modest = Grant(bucket), Grant(bucket)
    got = 0
    for turn in range(200):
        now = 100 + turn * 0.05
        while room := greedy.available(now):
            greedy.consume(room)
        if room := modest.available(now):
            modest.consume(min(100, room))
            got += 1
    assert got >= 40


def test_what_is_given_cannot_be_heaped_up() -> None:
    """A portion that nobody took is gone after a while."""
    claim = Grant(TokenBucket(RATE))
    while room := claim.available(100.0):
        claim.consume(room)
    assert claim.available(claim.blocked_until) <= RATE * BURST_SECONDS
    assert claim.available(200.0) <= RATE * BURST_SECONDS


def test_no_bucket_limits_nothing() -> None:
    """Only so much is read at a time."""
    limiter = RateLimiter((), 65536)
    assert limiter.available(1.0) == 65536
    limiter.consume(65536)
    assert limiter.available(1.0) == 65536
    assert not limiter.rate_limited


@pytest.mark.parametrize("rates", [(20_000,), (20_000, 1_000_000), (1_000_000, 20_000), (20_000, 20_000)])
def test_the_tightest_bucket_counts(rates: tuple[int, ...]) -> None:
    """Over ten seconds, woken when it said, it carries what the slowest allows."""
    limiter = RateLimiter(tuple(TokenBucket(rate) for rate in rates), 65536)
    now, total = 100.0, 0
    while now < 110.0:
        while room := limiter.available(now):
            assert not limiter.rate_limited
            limiter.consume(room)
            total += room
        assert limiter.rate_limited
        assert now < limiter.blocked_until <= now + 0.1
        now = limiter.blocked_until
    assert total == pytest.approx(200_000, rel=0.03)


def test_connections_of_one_key_share() -> None:
    """The same buckets for the same key, others for another; both ways are apart."""
    shares = SharedBucketTable()
    one, two, other = shares.acquire("a", 1000), shares.acquire("a", 1000), shares.acquire("b", 2000)
    assert one is two
    assert one is not other
    assert one.to_backend is not one.to_client
    assert (one.to_backend.rate, other.to_client.rate) == (1000, 2000)
    shares.release("a")
    assert shares.acquire("a", 1000) is one
    for key in ("a", "a", "b"):
        shares.release(key)
    assert len(shares) == 0
    assert shares.acquire("a", 1000) is not one
