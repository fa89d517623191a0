"""One-time tickets: issue, check, replay table."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Annotated, Literal

from pydantic import AfterValidator

from wsbridge.auth.base import AuthServices
from wsbridge.auth.identity import Identity, unauthenticated
from wsbridge.auth.replay import MAX_CLOCK_SKEW_MS, UsedTickets
from wsbridge.config.base import Credential
from wsbridge.config.route import MAX_TICKET_TTL, TicketAuthConfig, TicketIssuerConfig
from wsbridge.config.types import UNIX_CLIENTS, Name
from wsbridge.context import ConnectionContext
from wsbridge.limits.clients import client_key
from wsbridge.log.format import REDACTED, redact
from wsbridge.net.address import Peer
from wsbridge.protocol.http1 import Request
from wsbridge.protocol.ticket import Ticket, decode_ticket, encode_ticket, new_ticket_id
from wsbridge.reasons import Rejected
from wsbridge.responders.base import HttpResponse, plain_text_response


def check_redacted(parameter: str) -> str:
    """Check that the log hides the value of a parameter."""
    if REDACTED not in redact(f"/?{parameter}=x"):
        raise ValueError(f'the log would show the value of "{parameter}": use a name with ticket or token in it')
    return parameter


class TicketConfig(TicketAuthConfig):
    """Single-use tickets, issued by another route or by `wsbridge ticket`."""

    kind: Literal["ticket"] = "ticket"
    """ticket: single-use, short-lived signed token in the URL."""
    query_parameter: Annotated[Name, AfterValidator(check_redacted)] = "ticket"
    """Query parameter that carries the ticket. Its name must be one whose value the log redacts."""

    def credentials(self) -> Iterable[Credential]:
        """See `AuthSection.credentials`."""
        return [("query", self.query_parameter)]

    def accepts_cross_site_credentials(self) -> bool:
        """See `AuthSection.accepts_cross_site_credentials`: the ticket is part of the URL."""
        return True


def ticket_address(peer: Peer) -> str:
    """The address of a client as tickets have it: an IP address, or `unix`."""
    return peer.host or UNIX_CLIENTS


class TicketAuth:
    """See `wsbridge.auth.base.Authenticator`. The identity is the one that the ticket was issued to."""

    def __init__(self, config: TicketConfig, services: AuthServices) -> None:
        self._key = config.key.reveal().encode()
        self._query_parameter = config.query_parameter
        self._bind_client_address = config.bind_client_address
        self._services = services

    async def identify(self, context: ConnectionContext) -> Identity:
        """Read the ticket, check it, and use it up."""
        shown = [] if context.request is None else _query_values(context.request.target, self._query_parameter)
        if not shown:
            raise unauthenticated(f"no ticket: the query has no parameter {self._query_parameter}")
        if len(shown) > 1:
            raise unauthenticated(
                f"the query has {len(shown)} parameters {self._query_parameter}, not one", failed_login=True
            )
        try:
            return self._use(shown[0], context)
        except Rejected as rejected:
            rejected.credential = hash(shown[0])
            raise

    def _use(self, text: str, context: ConnectionContext) -> Identity:
        ticket = decode_ticket(text, self._key)
        now = int(self._services.wall_clock() * 1000)
        wrong = self._check_ticket(ticket, context, now)
        if wrong is not None:
            raise unauthenticated(wrong, genuine=True)  # it is signed, so it is no guess
        owner = ticket.name or client_key(context.peer.host)
        self._services.used_tickets.use(ticket, now, owner)
        return Identity(
            name=ticket.name,
            method="ticket",
            claims=ticket.claims,
            expires=None if ticket.until is None else ticket.until / 1000,
            target=ticket.target,
        )

    def _check_ticket(self, ticket: Ticket, context: ConnectionContext, now: int) -> str | None:
        """Return why a ticket cannot be used here and now, without its content; None if it can."""
        here = ticket_address(context.peer)
        if ticket.route != context.route:
            return f"the ticket is for the route {ticket.route}"
        if ticket.address is None and self._bind_client_address:
            return "the ticket is not bound to an address, and bind_client_address requires that"
        if ticket.address is not None and ticket.address != here:
            return f"the ticket is for a client at {ticket.address}"
        if ticket.issued > now + MAX_CLOCK_SKEW_MS:
            return f"the ticket was issued in {(ticket.issued - now) / 1000:g} s; are the clocks right?"
        if not 0 < ticket.expires - ticket.issued <= MAX_TICKET_TTL * 1000:
            seconds = (ticket.expires - ticket.issued) / 1000
            return f"the ticket is valid for {seconds:g} s, and at most {MAX_TICKET_TTL:g} s are allowed"
        if ticket.expires <= now:
            return f"the ticket expired {(now - ticket.expires) / 1000:g} s ago"
        if ticket.until is not None and ticket.until <= now:
            return "the credentials for which the ticket was issued have expired"
        return None


def _query_values(target: str, name: str) -> list[str]:
    """Return all values of a parameter as sent; a ticket needs no percent-encoding, so nothing is decoded."""
    pairs = (pair.partition("=") for pair in target.partition("?")[2].split("&"))
    return [value for key, _, value in pairs if key == name]


class TicketIssuer:
    """Issues tickets. A response is never stored, and holds nothing but the ticket and how long it can be used.

    Args:
        config: For which route, and for how long.
        wall_clock: Seconds since 1970.
        used_tickets: Where the tickets are used later.
    """

    keep_alive = False
    methods = ("POST",)

    def __init__(self, config: TicketIssuerConfig, wall_clock: Callable[[], float], used_tickets: UsedTickets) -> None:
        self._config = config
        self._used_tickets = used_tickets
        self._key = config.key.reveal().encode()
        self._wall_clock = wall_clock

    async def respond(self, request: Request, context: ConnectionContext) -> HttpResponse:
        """Issue a ticket to an authenticated client; one that would be too long is a 500."""
        config = self._config
        address = ticket_address(context.peer) if config.bind_client_address else None
        ticket = new_ticket(
            context.identity, config.route, config.ttl, self._wall_clock(), address, self._used_tickets.new_id()
        )
        try:
            text = encode_ticket(ticket, self._key)
        except ValueError as error:
            return plain_text_response(HTTPStatus.INTERNAL_SERVER_ERROR, request.method, detail=str(error))
        seconds = (ticket.expires - ticket.issued) / 1000
        body = json.dumps({"ticket": text, "expires_in": int(seconds) if seconds >= 1 else seconds}).encode() + b"\n"
        headers = [
            ("Content-Type", "application/json"),
            ("X-Content-Type-Options", "nosniff"),
            ("Cache-Control", "no-store"),
        ]
        detail = f"a ticket for the route {config.route}"
        return HttpResponse(HTTPStatus.OK, headers, body=body, content_length=len(body), detail=detail)


def new_ticket(
    identity: Identity, route: str, ttl: float, now: float, client_address: str | None, ticket_id: str | None = None
) -> Ticket:
    """Make a ticket for an identity; it expires no later than the identity.

    Args:
        identity: Of the client.
        route: The route that the ticket is for.
        ttl: Seconds for which it is valid.
        now: In seconds since 1970.
        client_address: The only address from which it can be used; None for any.
        ticket_id: Its id; None for a random one.
    """
    issued = int(now * 1000)
    until = None if identity.expires is None else int(identity.expires * 1000)
    expires = issued + max(1, int(ttl * 1000))
    return Ticket(
        id=new_ticket_id() if ticket_id is None else ticket_id,
        route=route,
        issued=issued,
        expires=expires if until is None else max(issued + 1, min(expires, until)),
        name=identity.name,
        claims=dict(identity.claims),
        address=client_address,
        target=identity.target,
        until=until,
    )
