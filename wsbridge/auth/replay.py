"""UsedTickets: one use per ticket."""

from __future__ import annotations

import heapq
import hmac
import secrets
import time
from collections.abc import Hashable
from typing import Final

from wsbridge.auth.identity import auth_unavailable, unauthenticated
from wsbridge.limits.clients import ConnectionCounts
from wsbridge.protocol.ticket import TICKET_ID_CHARS, Ticket, new_ticket_id
from wsbridge.reasons import Reason, Rejected

MAX_USED_TICKETS: Final = 65536
MAX_USED_TICKETS_PER_IDENTITY: Final = 1024
MAX_CLOCK_SKEW_MS: Final = 5000
"""Milliseconds by which the clock of another host that issues tickets may be ahead of this one's."""

_RANDOM_CHARS: Final = TICKET_ID_CHARS - 6


class UsedTickets:
    """A table of fixed size. A full one rejects every ticket, since forgetting one would make it valid again.

    Expired ones are dropped. Should the clock be set back afterwards, they are rejected all the same, with all that
    expire no later than the last of them. What an earlier process may have seen used is rejected: every ticket of
    another issuer that was issued before this process started, or in the `MAX_CLOCK_SKEW_MS` after that, since the
    clock of its issuer may be ahead. The ids of own tickets are marked with a key of the process, so that these are
    valid whatever the clock says: it may have been set back since the process started.

    Args:
        size: How many tickets it holds.
        size_per_owner: How many tickets of one identity it holds, so that nobody can fill it alone.
        started: When the process started, in seconds since 1970.
    """

    def __init__(
        self,
        size: int = MAX_USED_TICKETS,
        size_per_owner: int = MAX_USED_TICKETS_PER_IDENTITY,
        started: float | None = None,
    ) -> None:
        self._size = size
        self._size_per_owner = size_per_owner
        self._started_ms = int((time.time() if started is None else started) * 1000)
        self._key = secrets.token_bytes(32)
        self._ids: set[str] = set()
        self._owners = ConnectionCounts()
        self._expiry_heap: list[tuple[int, str, Hashable]] = []
        self._dropped_until = 0

    def configure(self, size: int, size_per_owner: int) -> None:
        """Change the limits; tickets that it holds beyond them stay until they expire."""
        self._size, self._size_per_owner = size, size_per_owner

    def reject_earlier(self, now: float) -> None:
        """Count this as the start of the process: until now another one has seen tickets used.

        Args:
            now: Seconds since 1970.
        """
        self._started_ms = int(now * 1000)

    @property
    def count(self) -> int:
        """How many tickets it holds now."""
        return len(self._ids)

    def new_id(self) -> str:
        """Make the id of a new ticket of this process."""
        random = new_ticket_id()[:_RANDOM_CHARS]
        return random + self._mark(random)

    def use(self, ticket: Ticket, now: int, owner: Hashable) -> None:
        """Use a ticket up. Of two at the same time one is rejected: nothing is awaited here.

        Args:
            ticket: Signed, not expired.
            now: In milliseconds since 1970.
            owner: Whose ticket it is.

        Raises:
            Rejected: It is not valid, or not any more.
        """
        while self._expiry_heap and self._expiry_heap[0][0] <= now:
            self._dropped_until, expired, its_owner = heapq.heappop(self._expiry_heap)
            self._ids.discard(expired)
            self._owners.release(its_owner)
        own = hmac.compare_digest(ticket.id[_RANDOM_CHARS:], self._mark(ticket.id[:_RANDOM_CHARS]))
        if not own and ticket.issued < self._started_ms + MAX_CLOCK_SKEW_MS:
            raise unauthenticated("the ticket was issued before this process started, or just after", genuine=True)
        if ticket.id in self._ids:
            raise unauthenticated("the ticket was used before", genuine=True)
        if ticket.expires <= self._dropped_until:
            text = "the ticket is as old as those that were dropped; was the clock set back?"
            raise unauthenticated(text, genuine=True)
        if len(self._ids) >= self._size:
            raise auth_unavailable(f"the table of used tickets is full, and limits.used_tickets is {self._size}")
        if not self._owners.acquire(owner, self._size_per_owner):
            most = self._size_per_owner
            text = f"{most} tickets of this identity were used, and limits.used_tickets_per_identity is {most}"
            raise Rejected(Reason.RATE_LIMITED, text)
        self._ids.add(ticket.id)
        heapq.heappush(self._expiry_heap, (ticket.expires, ticket.id, owner))

    def _mark(self, random: str) -> str:
        """The end of the id of an own ticket: enough that no other issuer hits it by chance."""
        return hmac.digest(self._key, random.encode(), "sha256").hex()[: TICKET_ID_CHARS - _RANDOM_CHARS]
