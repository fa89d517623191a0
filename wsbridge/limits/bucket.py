"""Bucket: bytes a second, given out in small portions.

Lives here: how much is there, who waits for it, and what each of them gets. Must not live here: the clock (handed in),
sockets.

Whoever finds too little waits a turn. When turns are over, what has come meanwhile is split among those who waited, in
whatever order they come for it; what one of them does not take is there for the others.
"""

from __future__ import annotations

DEPTH = 0.1
"""Seconds whose bytes may gather while nobody takes them: the largest burst."""

TURN = 0.04
"""Seconds that one waits: less than the wheel's slot, so that the next one is meant."""

LATE = 0.25
"""Seconds after its turn for which a taker still counts as one who waits."""

SMALLEST = 512
"""Bytes for which it is always worth reading; where an eighth of what comes in a turn is less, that much."""


class Bucket:
    """Bytes for one taker or several.

    Args:
        rate: Bytes a second.

    Attributes:
        grain: Fewer bytes than this are not given out.
    """

    __slots__ = ("_gone", "_next", "_waiting", "grain", "rate")

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self.grain = max(1.0, min(rate * TURN / 8, SMALLEST))
        self._gone = 0.0  # up to this time, all that came is given out
        self._next = 0.0
        self._waiting: dict[Claim, float] = {}

    def turn(self) -> float:
        """Tell how many seconds one more taker has to wait, so that there is enough for each."""
        return max(TURN, (1 + len(self._waiting)) * 2 * self.grain / self.rate)

    def there(self, now: float) -> float:
        """Tell how many bytes are there."""
        self._gone = max(self._gone, now - max(DEPTH, 2 * self.turn()))
        return (now - self._gone) * self.rate

    def give(self, count: float) -> None:
        """Give bytes out, or take them back."""
        self._gone += count / self.rate

    def others(self, now: float) -> int:
        """Tell how many waited and may take now."""
        count = 0
        for claim, until in list(self._waiting.items()):
            if until > now:
                break
            if until < now - LATE:
                del self._waiting[claim]  # it has ended, or has nothing to send
            else:
                count += 1
        return count

    def wait(self, claim: Claim, now: float) -> float:
        """Have a taker wait; tell until when, which is the same for all who wait."""
        if now >= self._next:
            self._next = now + self.turn()
        self._waiting[claim] = self._next
        return self._next

    def wait_no_more(self, claim: Claim) -> None:
        """Have a taker wait no more."""
        self._waiting.pop(claim, None)


class Claim:
    """One taker's part in a bucket.

    Attributes:
        until: Before that time there is nothing for him.
    """

    __slots__ = ("_bucket", "_part", "_since", "until")

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._part = 0.0
        self._since = 0.0
        self.until = 0.0

    def room(self, now: float) -> int:
        """Tell how many bytes he may take now; 0: none before `until`."""
        if now < self.until:
            return 0
        bucket = self._bucket
        if self._part:
            if self._part >= bucket.grain and now < self._since + DEPTH:
                return int(self._part)
            if now < self._since + DEPTH:
                bucket.give(-self._part)
            self._part = 0.0
        bucket.wait_no_more(self)
        others = bucket.others(now)
        part = bucket.there(now) / (1 + others)
        if part < bucket.grain or (others and now < self._since + TURN):  # no second helping before theirs
            self.until = bucket.wait(self, now)
            return 0
        bucket.give(part)
        self._part, self._since = part, now
        return int(part)

    def take(self, count: int) -> None:
        """Take bytes, for which there was room."""
        self._part -= count
