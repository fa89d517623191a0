"""Limits: how many lines a second an event may cost that bad clients can cause at will.

Lives here: the token bucket, one for each event that the table in `events` limits. Must not live here: the line that
tells of suppressed records; the writer makes it from the counts.
"""

from __future__ import annotations

from wsbridge.log.events import EVENTS


class Bucket:
    """Tokens of one event. `take` is for the callers, `untold` for the writer; neither locks.

    Args:
        rate: Records a second.
        burst: Records that may come at once after a quiet time.
    """

    __slots__ = ("_burst", "_last", "_rate", "_tokens", "_told", "suppressed")

    def __init__(self, rate: float, burst: float) -> None:
        self._rate, self._burst = rate, burst
        self._tokens, self._last = burst, 0.0
        self._told = 0
        self.suppressed = 0
        """Records refused so far; only ever grows."""

    def take(self, now: float) -> bool:
        """Whether one more record may be written at `now` (seconds; a clock set back gives nothing)."""
        passed = now - self._last
        self._last = now
        if passed > 0:
            self._tokens = min(self._burst, self._tokens + passed * self._rate)
        if self._tokens < 1:
            self.suppressed += 1
            return False
        self._tokens -= 1
        return True

    def untold(self) -> int:
        """How many were refused since the last call."""
        count = self.suppressed - self._told
        self._told += count
        return count


def buckets() -> dict[str, Bucket]:
    """A fresh bucket for each limited event, by its name."""
    return {name: Bucket(*event.most) for name, event in EVENTS.items() if event.most is not None}
