"""Wheel: when each pair is to be looked at next, in coarse slots.

Lives here: slots of time and what is in them. Must not live here: what is done when one comes.
"""

from __future__ import annotations

import heapq
from math import ceil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wsbridge.relay.pair import Pair

SLOT = 0.05
"""Seconds a slot is wide: how late a deadline may be noticed."""


class Wheel:
    """Slots by number; a pair is in one slot at most, so that pairs that ended leave nothing behind."""

    __slots__ = ("_order", "_slots")

    def __init__(self) -> None:
        self._slots: dict[int, set[Pair]] = {}
        self._order: list[int] = []

    def put(self, pair: Pair, when: float) -> None:
        """Have a pair looked at no later than `when` (plus a slot); an earlier appointment stays."""
        number = ceil(when / SLOT)
        if pair.due is not None:
            if pair.due <= number:
                return
            self._slots[pair.due].discard(pair)
        pair.due = number
        slot = self._slots.get(number)
        if slot is None:
            self._slots[number] = {pair}
            heapq.heappush(self._order, number)
        else:
            slot.add(pair)

    def remove(self, pair: Pair) -> None:
        """Forget a pair."""
        if pair.due is not None:
            self._slots[pair.due].discard(pair)
            pair.due = None

    def next_time(self) -> float | None:
        """Give when the next slot with a pair in it comes."""
        while self._order:
            number = self._order[0]
            if self._slots[number]:
                return number * SLOT
            heapq.heappop(self._order)
            del self._slots[number]
        return None

    def take(self, now: float) -> list[Pair]:
        """Give the pairs whose time has come, and forget their appointments."""
        due: list[Pair] = []
        while (when := self.next_time()) is not None and when <= now:
            number = heapq.heappop(self._order)
            for pair in self._slots.pop(number):
                pair.due = None
                due.append(pair)
        return due
