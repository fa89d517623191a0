"""UsedTickets: one use per ticket."""

from __future__ import annotations

import heapq
import time
from typing import Final

from wsbridge.auth.identity import auth_unavailable, unauthenticated
from wsbridge.protocol.ticket import Ticket

MAX_USED_TICKETS: Final = 65536


class UsedTickets:
    """A table of fixed size. A full one refuses every ticket: forgetting one would make it good again.

    What has expired is dropped. Should the clock be set back afterwards, the dropped are refused all the same, with
    all that expire no later than the last of them.

    Args:
        size: Tickets that it holds.
        since: When the process began, in seconds since 1970: what an earlier process may have seen used is refused.
    """

    def __init__(self, size: int = MAX_USED_TICKETS, started: float | None = None) -> None:
        self._size = size
        self._started_ms = int((time.time() if started is None else started) * 1000)
        self._ids: set[str] = set()
        self._expiry_heap: list[tuple[int, str]] = []
        self._dropped_until = 0

    @property
    def count(self) -> int:
        """How many tickets it holds now."""
        return len(self._ids)

    def use(self, ticket: Ticket, now: int) -> None:
        """Use a ticket up. Of two that come at once one is refused: nothing is awaited here.

        Args:
            ticket: Signed, not expired.
            now: In milliseconds since 1970.

        Raises:
            Rejected: It is not valid, or not any more.
        """
        while self._expiry_heap and self._expiry_heap[0][0] <= now:
            self._dropped_until, gone = heapq.heappop(self._expiry_heap)
            self._ids.discard(gone)
        if ticket.issued < self._started_ms:
            raise unauthenticated("the ticket was issued before this process began")
        if ticket.id in self._ids:
            raise unauthenticated("the ticket was used before")
        if ticket.expires <= self._dropped_until:
            raise unauthenticated("the ticket is as old as those that are forgotten; was the clock set back?")
        if len(self._ids) >= self._size:
            raise auth_unavailable(f"the table of used tickets is full, {self._size}")
        self._ids.add(ticket.id)
        heapq.heappush(self._expiry_heap, (ticket.expires, ticket.id))
