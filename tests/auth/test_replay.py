"""The table of used tickets."""

from __future__ import annotations

from tests.rejections import outcome
from wsbridge.auth.replay import MAX_CLOCK_SKEW_MS, UsedTickets
from wsbridge.protocol.ticket import Ticket, new_ticket_id
from wsbridge.reasons import Reason, Rejected

LONG_AGO = -3600.0
"""When a process started that has seen every ticket of these tests issued."""


def ticket(issued: int, expires: int, ticket_id: str | None = None) -> Ticket:
    """Make one."""
    return Ticket(ticket_id or new_ticket_id(), "vnc", issued, expires)


def detail(used: UsedTickets, one: Ticket, now: int) -> str:
    """Have a ticket rejected, which is no failed login, and return why."""
    denied = outcome(used.use, one, now, "alice")
    assert isinstance(denied, Rejected)
    assert (denied.reason, denied.failed_login, denied.genuine) == (Reason.UNAUTHENTICATED, False, True)
    return denied.detail


def test_once_and_never_again() -> None:
    """A ticket is valid the first time only."""
    used, one = UsedTickets(started=LONG_AGO), ticket(1000, 31_000)

    used.use(one, 2000, "alice")
    assert detail(used, one, 2001) == "the ticket was used before"


def test_what_an_earlier_process_may_have_seen_used_is_rejected() -> None:
    """Also a ticket of another host whose clock was ahead when the earlier process accepted it."""
    ahead = ticket(9500, 39_500)
    UsedTickets(started=LONG_AGO).use(ahead, 5000, "alice")

    restarted = UsedTickets(started=6.0)
    assert "before this process started" in detail(restarted, ahead, 9600)
    assert "before this process started" in detail(restarted, ticket(5999, 35_999), 9600)
    restarted.use(ticket(6000 + MAX_CLOCK_SKEW_MS, 40_000), 11_000, "alice")
    restarted.reject_earlier(20.0)
    assert "before this process started" in detail(restarted, ticket(12_000, 40_000), 21_000)


def test_own_tickets_are_valid_at_once() -> None:
    """The clock of this process is not ahead of itself, so its pages can reconnect right after a restart."""
    used, other = UsedTickets(started=6.0), UsedTickets(started=6.0)

    used.use(ticket(6000, 36_000, used.new_id()), 6000, "alice")
    assert "before this process started" in detail(used, ticket(6000, 36_000, other.new_id()), 6000)


def test_own_tickets_are_valid_where_the_clock_was_set_back_after_the_start() -> None:
    """Their ids prove that this process issued them; others would have to wait until the clock is there again."""
    used = UsedTickets(started=3600.0)
    own = ticket(6000, 36_000, used.new_id())

    used.use(own, 6000, "alice")
    assert "used before" in detail(used, own, 6000)
    assert "before this process started" in detail(used, ticket(6000, 36_000), 6000)


def test_a_full_table_rejects_and_forgets_nothing() -> None:
    """Beyond its size no ticket is accepted until one has expired; none becomes valid again."""
    used = UsedTickets(2, started=LONG_AGO)
    first, second, third = ticket(1000, 5000), ticket(1000, 9000), ticket(1000, 31_000)
    used.use(first, 2000, "alice")
    used.use(second, 2000, "bob")

    denied = outcome(used.use, third, 2000, "carol")

    assert isinstance(denied, Rejected)
    assert (denied.reason, denied.failed_login) == (Reason.AUTH_UNAVAILABLE, False)
    assert denied.detail == "the table of used tickets is full, and limits.used_tickets is 2"
    assert "before" in detail(used, first, 2000)
    used.use(third, 5000, "carol")
    assert used.count == 2


def test_nobody_fills_the_table_alone() -> None:
    """One identity has its part of it; others are served, and so is it when its tickets have expired."""
    used = UsedTickets(100, 3, started=LONG_AGO)
    for _ in range(3):
        used.use(ticket(1000, 5000), 2000, "alice")

    denied = outcome(used.use, ticket(1000, 5000), 2000, "alice")

    assert isinstance(denied, Rejected)
    assert (denied.reason, denied.failed_login) == (Reason.RATE_LIMITED, False)
    assert "limits.used_tickets_per_identity is 3" in denied.detail
    used.use(ticket(1000, 5000), 2000, "bob")
    used.use(ticket(5000, 9000), 5000, "alice")
    assert used.count == 1


def test_expired_ones_are_dropped() -> None:
    """The table does not grow with what has expired."""
    used = UsedTickets(1000, started=LONG_AGO)
    for at in range(0, 100_000, 100):
        used.use(ticket(at, at + 1000), at + 1, "alice")

    assert used.count <= 11


def test_a_clock_that_is_set_back_makes_none_valid_again() -> None:
    """What was dropped as expired stays rejected, with all that expire no later."""
    used, one = UsedTickets(started=LONG_AGO), ticket(1000, 31_000)
    used.use(one, 2000, "alice")
    used.use(ticket(40_000, 70_000), 40_000, "alice")

    assert "set back" in detail(used, one, 2000)
    used.use(ticket(2000, 32_000), 2000, "alice")
