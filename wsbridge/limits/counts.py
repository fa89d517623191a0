"""Counts: connections open now, by what they are counted under.

Lives here: the numbers. Must not live here: what there is a limit of (`quota`).
"""

from __future__ import annotations

from collections.abc import Hashable


class Counts:
    """Numbers by key; a key whose number is zero takes no room."""

    __slots__ = ("_open",)

    def __init__(self) -> None:
        self._open: dict[Hashable, int] = {}

    def enter(self, key: Hashable, most: int) -> bool:
        """Count one in; False: there are as many as may be, and it was not counted."""
        count = self._open.get(key, 0)
        if count >= most:
            return False
        self._open[key] = count + 1
        return True

    def leave(self, key: Hashable) -> None:
        """Count one out that was counted in."""
        count = self._open[key] - 1
        if count:
            self._open[key] = count
        else:
            del self._open[key]

    def __getitem__(self, key: Hashable) -> int:
        """Give how many are open."""
        return self._open.get(key, 0)

    def __len__(self) -> int:
        """Give how many keys have any."""
        return len(self._open)
