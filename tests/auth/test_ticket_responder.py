"""The route that gives tickets."""

from __future__ import annotations

import json
import socket

from tests.responders.asking import PEER, asked
from wsbridge.auth.identity import Identity
from wsbridge.auth.replay import UsedTickets
from wsbridge.auth.ticket import TicketIssuer, new_ticket
from wsbridge.config.route import TicketIssuerConfig
from wsbridge.config.secrets import Secret
from wsbridge.net.address import Peer
from wsbridge.protocol.ticket import Ticket, decode_ticket
from wsbridge.responders.base import HttpResponse

TEXT = "k" * 32
NOW = 1_800_000_000.25
ALICE = Identity("alice", "basic+network", {"role": "admin"}, NOW + 900, "tcp://10.0.0.5:5900")


async def given(identity: Identity = ALICE, peer: Peer = PEER, **keys: object) -> HttpResponse:
    """Ask for a ticket."""
    config = TicketIssuerConfig.model_validate({"route": "vnc", "key": Secret(TEXT), **keys})
    issuer = TicketIssuer(config, lambda: NOW, UsedTickets())
    return await issuer.respond(*asked("POST", "/t", identity=identity, peer=peer))


def ticket(answer: HttpResponse) -> Ticket:
    """Read what was given."""
    found = decode_ticket(json.loads(answer.body or b"")["ticket"], TEXT.encode())
    assert isinstance(found, Ticket)
    return found


async def test_who_is_known_gets_one() -> None:
    """It is for the other route and says who the client is, with its claims and their expiry."""
    answer = await given()
    found = ticket(answer)

    assert answer.status == 200
    assert answer.content_length == len(answer.body or b"")
    assert json.loads(answer.body or b"").keys() == {"ticket", "expires_in"}
    assert json.loads(answer.body or b"")["expires_in"] == 30
    assert (found.route, found.name, found.claims) == ("vnc", "alice", {"role": "admin"})
    assert (found.target, found.address) == ("tcp://10.0.0.5:5900", None)
    assert (found.issued, found.expires, found.until) == (NOW * 1000, NOW * 1000 + 30_000, NOW * 1000 + 900_000)


async def test_it_is_stored_nowhere() -> None:
    """The response is not cacheable by browsers or proxies, and the ticket is not logged."""
    answer = await given()

    assert ("Cache-Control", "no-store") in answer.headers
    assert ("Content-Type", "application/json") in answer.headers
    assert answer.detail == "a ticket for the route vnc"


async def test_each_is_another_one() -> None:
    """No two have one id."""
    assert ticket(await given()).id != ticket(await given()).id


async def test_it_can_be_bound_to_the_address_that_asked() -> None:
    """Of a Unix socket, to that."""
    assert ticket(await given(bind_client_address="true")).address == "203.0.113.7"
    assert ticket(await given(bind_client_address="true", peer=Peer("", 0, socket.AF_UNIX))).address == "unix"


async def test_a_ticket_does_not_extend_an_identity() -> None:
    """What the asker's own credential has left bounds the ticket, and is bequeathed."""
    answer = await given(Identity("bob", "jwt", expires=NOW + 5))

    assert json.loads(answer.body or b"")["expires_in"] == 5
    assert ticket(answer).until == ticket(answer).expires == NOW * 1000 + 5000
    assert ticket(await given(Identity("bob", "network"))).until is None


async def test_short_lives() -> None:
    """Less than a second is reported as it is; a credential that has just ended gives a ticket that is over at once."""
    assert json.loads((await given(ttl="250ms")).body or b"")["expires_in"] == 0.25
    late = new_ticket(Identity("bob", expires=NOW - 5), "vnc", 30, NOW, None)
    assert late.expires - late.issued == 1


async def test_claims_that_do_not_fit_are_our_fault() -> None:
    """A ticket that could not be read is not given: 500, and the log says why."""
    answer = await given(Identity("alice", claims={"groups": "x" * 5000}))

    assert answer.status == 500
    assert "and the maximum is 4096" in answer.detail
    assert b"4096" not in (answer.body or b"")
