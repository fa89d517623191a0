"""Token buckets: bandwidth of a connection, shared bandwidth."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

BURST_SECONDS = 0.1
"""Seconds whose bytes may gather while nobody takes them: the largest burst."""

TURN_SECONDS = 0.04
"""Seconds that one waits: less than the wheel's slot, so that the next one is meant."""

WAITER_EXPIRY_SECONDS = 0.25
"""Seconds after its turn for which a taker still counts as one who waits."""

MIN_GRANT_BYTES = 512
"""Bytes for which it is always worth reading; where an eighth of what comes in a turn is less, that much."""


class TokenBucket:
    """Bytes for one taker or several.

    Args:
        rate: Bytes a second.

    Attributes:
        min_grant: Fewer bytes than this are not given out.
    """

    __slots__ = ("_consumed_until", "_next_turn", "_waiters", "min_grant", "rate")

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self.min_grant = max(1.0, min(rate * TURN_SECONDS / 8, MIN_GRANT_BYTES))
        self._consumed_until = 0.0  # up to this time, all that came is given out
        self._next_turn = 0.0
        self._waiters: dict[Grant, float] = {}

    def wait_time(self) -> float:
        """Return how many seconds one more taker has to wait, so that there is enough for each."""
        return max(TURN_SECONDS, (1 + len(self._waiters)) * 2 * self.min_grant / self.rate)

    def available(self, now: float) -> float:
        """Return how many bytes are there."""
        self._consumed_until = max(self._consumed_until, now - max(BURST_SECONDS, 2 * self.wait_time()))
        return (now - self._consumed_until) * self.rate

    def consume(self, count: float) -> None:
        """Give bytes out, or take them back."""
        self._consumed_until += count / self.rate

    def waiting_count(self, now: float) -> int:
        """Return how many waited and may take now."""
        count = 0
        for claim, until in list(self._waiters.items()):
            if until > now:
                break
            if until < now - WAITER_EXPIRY_SECONDS:
                del self._waiters[claim]  # it has ended, or has nothing to send
            else:
                count += 1
        return count

    def enqueue(self, grant: Grant, now: float) -> float:
        """Have a taker wait; return until when, which is the same for all who wait."""
        if now >= self._next_turn:
            self._next_turn = now + self.wait_time()
        self._waiters[grant] = self._next_turn
        return self._next_turn

    def dequeue(self, grant: Grant) -> None:
        """Have a taker wait no more."""
        self._waiters.pop(grant, None)


class Grant:
    """One taker's part in a bucket.

    Attributes:
        blocked_until: Before that time nothing is granted.
    """

    __slots__ = ("_bucket", "_granted", "_granted_at", "blocked_until")

    def __init__(self, bucket: TokenBucket) -> None:
        self._bucket = bucket
        self._granted = 0.0
        self._granted_at = 0.0
        self.blocked_until = 0.0

    def available(self, now: float) -> int:
        """Return how many bytes may be taken now; 0: none before `until`."""
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
        ):  # no second helping before theirs
            self.blocked_until = bucket.enqueue(self, now)
            return 0
        bucket.consume(part)
        self._granted, self._granted_at = part, now
        return int(part)

    def consume(self, count: int) -> None:
        """Take bytes, for which there was room."""
        self._granted -= count


class RateLimiter:
    """One direction.

    Args:
        buckets: What it draws from; none: it is bounded no more.
        max_bytes: Bytes per read.

    Attributes:
        blocked_until: Where there was no room: the time before which there will be none.
        rate_limited: Whether there was none when it was asked last.
    """

    __slots__ = ("_grants", "_max_bytes", "blocked_until", "rate_limited")

    def __init__(self, buckets: tuple[TokenBucket, ...], max_bytes: int) -> None:
        self._grants = tuple(Grant(bucket) for bucket in buckets)
        self._max_bytes = max_bytes
        self.blocked_until = 0.0
        self.rate_limited = False

    def available(self, now: float) -> int:
        """Return how many bytes may be read now; 0: none before `until`."""
        room = self._max_bytes
        for claim in self._grants:
            least = claim.available(now)
            if not least:
                self.blocked_until = claim.blocked_until
                self.rate_limited = True
                return 0
            room = min(room, least)
        self.rate_limited = False
        return room

    def consume(self, count: int) -> None:
        """Count bytes that were read."""
        for claim in self._grants:
            claim.consume(count)


@dataclass(slots=True)
class SharedBucket:
    """One bucket each way.

    Attributes:
        to_backend: For what accepted sides send.
        to_client: For what dialled sides send.
        connections: Connections that draw from it.
    """

    to_backend: TokenBucket
    to_client: TokenBucket
    connections: int = 0


class SharedBucketTable:
    """Buckets by key; those that no connection draws from take no room."""

    __slots__ = ("_buckets",)

    def __init__(self) -> None:
        self._buckets: dict[Hashable, SharedBucket] = {}

    def acquire(self, key: Hashable, rate: int) -> SharedBucket:
        """Give the share of a key to one more connection."""
        share = self._buckets.get(key)
        if share is None:
            share = self._buckets[key] = SharedBucket(TokenBucket(rate), TokenBucket(rate))
        share.connections += 1
        return share

    def release(self, key: Hashable) -> None:
        """Note that a connection takes no more."""
        share = self._buckets[key]
        share.connections -= 1
        if not share.connections:
            del self._buckets[key]

    def __len__(self) -> int:
        """Give how many there are."""
        return len(self._buckets)
