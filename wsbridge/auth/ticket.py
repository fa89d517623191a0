"""By ticket: a pass for one connection, out of the query of its URL.

Lives here: the section behind `auth: {kind: ticket, …}`, the class, what a ticket must hold. Must not live here: its
text form (`protocol.ticket`), which ones were used (`spent`), giving tickets (`routes.ticket`).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator

from wsbridge.auth.auth import Lent
from wsbridge.auth.caller import Caller
from wsbridge.auth.identity import Denied, Identity
from wsbridge.config.network import UNIX
from wsbridge.config.scalars import Name
from wsbridge.config.ticket import LONGEST_LIFE, TakesTickets
from wsbridge.log.redact import HIDDEN, redact
from wsbridge.net.address import Peer
from wsbridge.protocol.ticket import Ticket, read

AHEAD = 5000
"""Milliseconds that the clock of another host, where tickets are made as well, may be ahead of ours."""


def unseen(parameter: str) -> str:
    """Check that the log hides the value of a parameter."""
    if HIDDEN not in redact(f"/?{parameter}=x"):
        raise ValueError(f'the log would show the value of "{parameter}": take a name with ticket or token in it')
    return parameter


class TicketConfig(TakesTickets):
    """Tickets for one connection each, which another route or `wsbridge ticket` gives."""

    kind: Literal["ticket"] = "ticket"
    """ticket: by a pass that is good for one connection, soon."""
    parameter: Annotated[Name, AfterValidator(unseen)] = "ticket"
    """The query parameter that carries the ticket. Its name must be one whose value the log hides."""


def place(peer: Peer) -> str:
    """Give what a ticket calls the address of a client: an IP address, or `unix`."""
    return peer.host or UNIX


class TicketAuth:
    """See `wsbridge.auth.auth.Auth`. The identity is the one that the ticket was given to."""

    def __init__(self, config: TicketConfig, lent: Lent) -> None:
        self._key = config.key.reveal().encode()
        self._parameter = config.parameter
        self._bound = config.bind_address
        self._lent = lent

    async def identify(self, caller: Caller) -> Identity | Denied:
        """Read the ticket, hold it to what it says, and use it up."""
        shown = [] if caller.request is None else _values(caller.request.target, self._parameter)
        if len(shown) != 1:
            if shown:
                return Denied(f"the query has {len(shown)} parameters {self._parameter}, not one", tried=True)
            return Denied(f"no ticket: the query has no parameter {self._parameter}")
        ticket = read(shown[0], self._key)
        if isinstance(ticket, str):
            return Denied(ticket, tried=True)
        now = int(self._lent.wall() * 1000)
        wrong = self._unfit(ticket, caller, now)
        if wrong is not None:
            return Denied(
                wrong
            )  # it is signed, so nobody guesses: a page that comes again with an old one is not banned
        denied = self._lent.spent.spend(ticket, now)
        if denied is not None:
            return denied
        return Identity(
            name=ticket.name,
            method="ticket",
            claims=ticket.claims,
            expires=None if ticket.until is None else ticket.until / 1000,
            target=ticket.target,
        )

    def _unfit(self, ticket: Ticket, caller: Caller, now: int) -> str | None:
        """Say what forbids to use a ticket here and now; never what it says of somebody."""
        here = place(caller.peer)
        if ticket.route != caller.route:
            return f"the ticket is for the route {ticket.route}"
        if ticket.address is None and self._bound:
            return "the ticket is bound to no address, and bind_address asks for that"
        if ticket.address is not None and ticket.address != here:
            return f"the ticket is for a client at {ticket.address}"
        if ticket.issued > now + AHEAD:
            return f"the ticket was issued in {(ticket.issued - now) / 1000:g} s; are the clocks right?"
        if not 0 < ticket.expires - ticket.issued <= LONGEST_LIFE * 1000:
            return f"the ticket is for {(ticket.expires - ticket.issued) / 1000:g} s, and {LONGEST_LIFE:g} are the most"
        if ticket.expires <= now:
            return f"the ticket expired {(now - ticket.expires) / 1000:g} s ago"
        if ticket.until is not None and ticket.until <= now:
            return "who the ticket was given to is known no more"
        return None


def _values(target: str, name: str) -> list[str]:
    """Give all values of a parameter as sent; a ticket needs no escapes, and none is undone."""
    pairs = (pair.partition("=") for pair in target.partition("?")[2].split("&"))
    return [value for key, _, value in pairs if key == name]
