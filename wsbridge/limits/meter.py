"""Meter: what one direction of a connection may carry now, by all buckets that bound it.

Lives here: the smallest of several. Must not live here: the buckets (`bucket`), reading.
"""

from __future__ import annotations

from wsbridge.limits.bucket import Bucket, Claim


class Meter:
    """One direction.

    Args:
        buckets: What it draws from; none: it is bounded no more.
        most: Bytes to read at a time.

    Attributes:
        until: Where there was no room: the time before which there will be none.
        starved: Whether there was none when it was asked last.
    """

    __slots__ = ("_claims", "_most", "starved", "until")

    def __init__(self, buckets: tuple[Bucket, ...], most: int) -> None:
        self._claims = tuple(Claim(bucket) for bucket in buckets)
        self._most = most
        self.until = 0.0
        self.starved = False

    def room(self, now: float) -> int:
        """Tell how many bytes may be read now; 0: none before `until`."""
        room = self._most
        for claim in self._claims:
            least = claim.room(now)
            if not least:
                self.until = claim.until
                self.starved = True
                return 0
            room = min(room, least)
        self.starved = False
        return room

    def take(self, count: int) -> None:
        """Count bytes that were read."""
        for claim in self._claims:
            claim.take(count)
