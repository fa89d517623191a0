"""Token buckets that limit the bandwidth of a connection, or of several together."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

BURST_SECONDS = 0.1
"""Maximum burst, in seconds of the rate: tokens that accumulate while a bucket is idle."""

TURN_SECONDS = 0.04
"""Minimum wait, in seconds: less than a slot of the timer wheel, so that the next slot is used."""

WAITER_EXPIRY_SECONDS = 0.25
"""Seconds after its turn for which a grant still counts as waiting."""

MIN_GRANT_BYTES = 512
"""Minimum bytes of a read; at low rates an eighth of what is added in one turn."""


class TokenBucket:
    """A token bucket, shared by one or more grants.

    Args:
        rate: Bytes per second.

    Attributes:
        min_grant: Minimum bytes that are granted.
    """

    __slots__ = ("_consumed_until", "_next_turn", "_waiters", "min_grant", "rate")

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self.min_grant = max(1.0, min(rate * TURN_SECONDS / 8, MIN_GRANT_BYTES))
        self._consumed_until = 0.0  # everything that was added up to this time is consumed
        self._next_turn = 0.0
        self._waiters: dict[Grant, float] = {}

    def wait_time(self) -> float:
        """Return how many seconds one more grant has to wait until there is enough for each."""
        return max(TURN_SECONDS, (1 + len(self._waiters)) * 2 * self.min_grant / self.rate)

    def available(self, now: float) -> float:
        """Return how many bytes are available."""
        self._consumed_until = max(self._consumed_until, now - max(BURST_SECONDS, 2 * self.wait_time()))
        return (now - self._consumed_until) * self.rate

    def consume(self, count: float) -> None:
        """Remove bytes; a negative count returns them."""
        self._consumed_until += count / self.rate

    def waiting_count(self, now: float) -> int:
        """Return how many grants have waited and have their turn now."""
        count = 0
        for grant, until in list(self._waiters.items()):
            if until > now:
                break
            if until < now - WAITER_EXPIRY_SECONDS:
                del self._waiters[grant]  # its connection is closed, or has nothing to send
            else:
                count += 1
        return count

    def enqueue(self, grant: Grant, now: float) -> float:
        """Add a waiting grant; return until when it waits, which is the same for all that wait."""
        if now >= self._next_turn:
            self._next_turn = now + self.wait_time()
        self._waiters[grant] = self._next_turn
        return self._next_turn

    def dequeue(self, grant: Grant) -> None:
        """Remove a waiting grant."""
        self._waiters.pop(grant, None)


class Grant:
    """The share of one connection in a bucket.

    Attributes:
        blocked_until: Time before which no bytes are available.
    """

    __slots__ = ("_bucket", "_granted", "_granted_at", "blocked_until")

    def __init__(self, bucket: TokenBucket) -> None:
        self._bucket = bucket
        self._granted = 0.0
        self._granted_at = 0.0
        self.blocked_until = 0.0

    def available(self, now: float) -> int:
        """Return how many bytes may be consumed now; 0: none before `blocked_until`."""
        if now < self.blocked_until:
            return 0
        bucket = self._bucket
        if self._granted:
            if self._granted >= bucket.min_grant and now < self._granted_at + BURST_SECONDS:
                return int(self._granted)
            if now < self._granted_at + BURST_SECONDS:
                bucket.consume(-self._granted)
            self._granted = 0.0
        bucket.dequeue(self)
        others = bucket.waiting_count(now)
        part = bucket.available(now) / (1 + others)
        if part < bucket.min_grant or (
            others and now < self._granted_at + TURN_SECONDS
        ):  # the others have their turn first
            self.blocked_until = bucket.enqueue(self, now)
            return 0
        bucket.consume(part)
        self._granted, self._granted_at = part, now
        return int(part)

    def consume(self, count: int) -> None:
        """Consume bytes that were available."""
        self._granted -= count


class RateLimiter:
    """Rate limiter of one direction of a connection.

    Args:
        buckets: All buckets that limit it; none: unlimited.
        max_bytes: Maximum bytes of a read.

    Attributes:
        blocked_until: If nothing is available: the time before which nothing will be.
        rate_limited: Whether nothing was available at the last call.
    """

    __slots__ = ("_grants", "_max_bytes", "blocked_until", "rate_limited")

    def __init__(self, buckets: tuple[TokenBucket, ...], max_bytes: int) -> None:
        self._grants = tuple(Grant(bucket) for bucket in buckets)
        self._max_bytes = max_bytes
        self.blocked_until = 0.0
        self.rate_limited = False

    def available(self, now: float) -> int:
        """Return how many bytes may be read now; 0: none before `blocked_until`."""
        room = self._max_bytes
        for grant in self._grants:
            available = grant.available(now)
            if not available:
                self.blocked_until = grant.blocked_until
                self.rate_limited = True
                return 0
            room = min(room, available)
        self.rate_limited = False
        return room

    def consume(self, count: int) -> None:
        """Count bytes that were read."""
        for grant in self._grants:
            grant.consume(count)


@dataclass(slots=True)
class SharedBucket:
    """One bucket for each direction, shared by connections.

    Attributes:
        to_backend: For bytes from clients.
        to_client: For bytes from backends.
        connections: Connections that use it.
    """

    to_backend: TokenBucket
    to_client: TokenBucket
    connections: int = 0


class SharedBucketTable:
    """Buckets by key; unused ones are removed."""

    __slots__ = ("_buckets",)

    def __init__(self) -> None:
        self._buckets: dict[Hashable, SharedBucket] = {}

    def acquire(self, key: Hashable, rate: int) -> SharedBucket:
        """Return the bucket of a key, for one more connection."""
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = SharedBucket(TokenBucket(rate), TokenBucket(rate))
        bucket.connections += 1
        return bucket

    def release(self, key: Hashable) -> None:
        """Release the bucket of a key for one connection."""
        bucket = self._buckets[key]
        bucket.connections -= 1
        if not bucket.connections:
            del self._buckets[key]

    def __len__(self) -> int:
        """Return how many buckets there are."""
        return len(self._buckets)
