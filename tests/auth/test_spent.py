"""Tickets that were used."""

from __future__ import annotations

from tests.rejections import outcome
from wsbridge.auth.replay import UsedTickets
from wsbridge.protocol.ticket import Ticket, new_ticket_id
from wsbridge.reasons import Reason, Rejected


def ticket(issued: int, expires: int) -> Ticket:
    """Make one."""
    return Ticket(new_ticket_id(), "vnc", issued, expires)


def detail(spent: UsedTickets, *arguments: object) -> str:
    """Give why it was refused, as a wrong credential."""
    denied = outcome(spent.use, *arguments)
    assert isinstance(denied, Rejected)
    assert (denied.reason, denied.failed_login) == (Reason.UNAUTHENTICATED, False)
    return denied.detail


def test_once_and_never_again() -> None:
    """A ticket is good the first time only."""
    spent, one = UsedTickets(10, started=0), ticket(1000, 31_000)

    spent.use(one, 2000)
    assert detail(spent, one, 2001) == "the ticket was used before"


def test_what_was_issued_before_the_start_is_refused() -> None:
    """An earlier process may have seen it used."""
    spent = UsedTickets(10, started=5)

    assert detail(spent, ticket(4999, 31_000), 6000) == "the ticket was issued before this process began"
    spent.use(ticket(5000, 31_000), 6000)


def test_a_full_table_refuses_and_forgets_nothing() -> None:
    """Beyond its size no ticket is taken until one has expired; none becomes good again."""
    spent = UsedTickets(2, started=0)
    first, second, third = ticket(1000, 5000), ticket(1000, 9000), ticket(1000, 31_000)
    spent.use(first, 2000)
    spent.use(second, 2000)

    denied = outcome(spent.use, third, 2000)

    assert isinstance(denied, Rejected)
    assert (denied.reason, denied.failed_login) == (Reason.AUTH_UNAVAILABLE, False)
    assert denied.detail == "the table of used tickets is full, 2"
    assert "before" in detail(spent, first, 2000)
    spent.use(third, 5000)
    assert spent.count == 2


def test_expired_ones_are_dropped() -> None:
    """The table does not grow with what is over."""
    spent = UsedTickets(1000, started=0)
    for at in range(0, 100_000, 100):
        spent.use(ticket(at, at + 1000), at + 1)

    assert spent.count <= 11


def test_a_clock_that_is_set_back_makes_none_good_again() -> None:
    """What was dropped as expired stays refused, with all that end no later."""
    spent, one = UsedTickets(10, started=0), ticket(1000, 31_000)
    spent.use(one, 2000)
    spent.use(ticket(40_000, 70_000), 40_000)

    assert "set back" in detail(spent, one, 2000)
    spent.use(ticket(2000, 32_000), 2000)
