"""A bounded cache whose entries expire."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import trio

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class TtlCache(Generic[Key, Value]):
    """Values that expire; the oldest is dropped where there are too many.

    Args:
        max_size: How many there may be.
        clock: Seconds by which they expire; never goes back.
    """

    def __init__(self, max_size: int, clock: Callable[[], float] = trio.current_time) -> None:
        self._max_size = max_size
        self._clock = clock
        self._entries: dict[Key, tuple[float, Value]] = {}  # in the order in which they were stored

    def __len__(self) -> int:
        """How many entries there are, those that have expired but were not dropped yet among them."""
        return len(self._entries)

    def get(self, key: Key) -> Value | None:
        """Return a value; None if there is none, or if it has expired."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if self._clock() < entry[0]:
            return entry[1]
        del self._entries[key]
        return None

    def put(self, key: Key, value: Value, ttl: float) -> None:
        """Store a value for `ttl` seconds, and drop entries at the front that have expired."""
        now = self._clock()
        self._entries.pop(key, None)
        while self._entries:
            oldest = next(iter(self._entries))
            if len(self._entries) < self._max_size and self._entries[oldest][0] > now:
                break
            del self._entries[oldest]
        if ttl > 0:
            self._entries[key] = (now + ttl, value)
