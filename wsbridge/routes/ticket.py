"""The route `ticket: {…}`: whoever is known there gets a pass for one connection to another route.

Lives here: making the ticket and the answer that carries it. Must not live here: who may have one (the route's `auth`),
using it (`auth.ticket`).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from http import HTTPStatus

from wsbridge.auth.identity import Identity
from wsbridge.auth.ticket import place
from wsbridge.config.ticket import GivesTickets
from wsbridge.protocol.ticket import Ticket, new_id, write
from wsbridge.routes.answer import Answer, Asked, plain


class TicketOffice:
    """Gives tickets. An answer is never stored, and holds nothing but the ticket and how long it can be used.

    Args:
        config: For which route, and for how long.
        wall: Seconds since 1970.
    """

    lasting = False
    methods = ("POST",)

    def __init__(self, config: GivesTickets, wall: Callable[[], float]) -> None:
        self._config = config
        self._key = config.key.reveal().encode()
        self._wall = wall

    async def answer(self, asked: Asked) -> Answer:
        """Give a ticket to who asks; one that would be too long to be read is a 500."""
        config = self._config
        address = place(asked.peer) if config.bind_address else None
        ticket = make(asked.identity, config.route, config.ttl, self._wall(), address)
        try:
            text = write(ticket, self._key)
        except ValueError as error:
            return plain(HTTPStatus.INTERNAL_SERVER_ERROR, asked.request.method, detail=str(error))
        seconds = (ticket.expires - ticket.issued) / 1000
        body = json.dumps({"ticket": text, "expires_in": int(seconds) if seconds >= 1 else seconds}).encode() + b"\n"
        headers = [
            ("Content-Type", "application/json"),
            ("X-Content-Type-Options", "nosniff"),
            ("Cache-Control", "no-store"),
        ]
        detail = f"a ticket for the route {config.route}"
        return Answer(HTTPStatus.OK, headers, body=body, length=len(body), detail=detail)


def make(identity: Identity, route: str, ttl: float, now: float, address: str | None) -> Ticket:
    """Make a ticket for somebody; it can be used no longer than he is known.

    Args:
        identity: Who he is.
        route: What it is good for.
        ttl: How long, in seconds.
        now: In seconds since 1970.
        address: From where alone; None for anywhere.
    """
    issued = int(now * 1000)
    until = None if identity.expires is None else int(identity.expires * 1000)
    expires = issued + max(1, int(ttl * 1000))
    return Ticket(
        id=new_id(),
        route=route,
        issued=issued,
        expires=expires if until is None else max(issued + 1, min(expires, until)),
        name=identity.name,
        claims=dict(identity.claims),
        address=address,
        target=identity.target,
        until=until,
    )
