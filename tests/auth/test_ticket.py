"""Authentication by ticket."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from tests.auth.methods import caller
from tests.config.loading import LISTENERS, wrong
from tests.rejections import async_outcome, challenges
from wsbridge.auth.base import AuthServices
from wsbridge.auth.identity import Identity, unauthenticated
from wsbridge.auth.replay import UsedTickets
from wsbridge.auth.ticket import TicketAuth, TicketConfig, ticket_address
from wsbridge.config.secrets import Secret
from wsbridge.net.address import Peer
from wsbridge.protocol.ticket import MAX_TICKET_CHARS, Ticket, encode_ticket, new_ticket_id
from wsbridge.reasons import Reason, Rejected

TEXT = "k" * 32
KEY = TEXT.encode()
NOW = 1_800_000_000


def authenticator(spent: UsedTickets | None = None, **keys: object) -> TicketAuth:
    """Build one that thinks it is NOW."""
    config = TicketConfig.model_validate({"kind": "ticket", "key": Secret(TEXT), **keys})
    return TicketAuth(
        config,
        AuthServices(
            lambda _: authenticator(), wall_clock=lambda: NOW, used_tickets=spent or UsedTickets(100, started=NOW - 60)
        ),
    )


def ticket(**values: object) -> Ticket:
    """Make one that was issued a second ago for half a minute."""
    plain = Ticket(new_ticket_id(), "app", (NOW - 1) * 1000, (NOW + 29) * 1000, "alice", {"role": "admin"})
    return replace(plain, **values)


def query(*tickets: Ticket, key: bytes = KEY, parameter: str = "ticket") -> str:
    """Write the target of a request that shows tickets."""
    return "/vnc?" + "&".join(["x=1", *(f"{parameter}={encode_ticket(one, key)}" for one in tickets)])


async def denied(auth: TicketAuth, target: str, **facts: object) -> str:
    """Have a request refused as a wrong credential, and give why."""
    found = await async_outcome(auth.identify(caller(target=target, **facts)))
    assert isinstance(found, Rejected)
    assert (found.reason, challenges(found)) == (Reason.UNAUTHENTICATED, ())
    return found.detail


async def test_who_the_ticket_was_given_to_comes_in() -> None:
    """Name, claims, target and end are those of the ticket; its own expiry is only for using it."""
    one = ticket(target="tcp://10.0.0.5:5900", until=(NOW + 3600) * 1000)

    found = await async_outcome(authenticator().identify(caller(target=query(one))))

    assert found == Identity("alice", "ticket", {"role": "admin"}, NOW + 3600, "tcp://10.0.0.5:5900")
    assert await async_outcome(authenticator().identify(caller(target=query(ticket())))) == Identity(
        "alice", "ticket", {"role": "admin"}
    )


async def test_once() -> None:
    """The second use is refused, by another generation and at another route of the same table as well."""
    spent, target = UsedTickets(10, started=NOW - 60), query(ticket())

    assert isinstance(await async_outcome(authenticator(spent).identify(caller(target=target))), Identity)
    assert await denied(authenticator(spent), target) == "the ticket was used before"


async def test_no_ticket_is_no_attempt() -> None:
    """A request without a ticket is rejected with that reason, and does not count as a failed login."""
    for target in ("/vnc", "/vnc?", "/vnc?tickets=x", "/vnc?Ticket=x", "/vnc?xticket=x", "/vnc?%74icket=x"):
        found = await async_outcome(authenticator().identify(caller(target=target)))
        assert found.args == unauthenticated("no ticket: the query has no parameter ticket").args
    found = await async_outcome(authenticator().identify(caller(request=None)))
    assert found.args == unauthenticated("no ticket: the query has no parameter ticket").args


async def test_two_are_one_too_many() -> None:
    """Programs disagree on which of two parameters counts, so none does, and neither is used up."""
    spent, one = UsedTickets(10, started=0), ticket()

    assert await denied(authenticator(spent), query(one, one)) == "the query has 2 parameters ticket, not one"
    assert await denied(authenticator(spent), query(one) + "&ticket") == "the query has 2 parameters ticket, not one"
    assert spent.count == 0


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"route": "other"}, "the ticket is for the route other"),
        ({"address": "203.0.113.8"}, "the ticket is for a client at 203.0.113.8"),
        ({"address": "unix"}, "the ticket is for a client at unix"),
        ({"expires": NOW * 1000}, "the ticket expired 0 s ago"),
        ({"expires": (NOW - 0.5) * 1000}, "the ticket expired 0.5 s ago"),
        ({"issued": (NOW + 6) * 1000}, "the ticket was issued in 6 s; are the clocks right?"),
        ({"issued": (NOW - 61) * 1000}, "the ticket was issued before this process started, or just after"),
        ({"expires": (NOW - 1) * 1000}, "the ticket is valid for 0 s, and at most 3600 s are allowed"),
        ({"expires": (NOW + 3600) * 1000}, "the ticket is valid for 3601 s, and at most 3600 s are allowed"),
        ({"until": NOW * 1000}, "the credentials for which the ticket was issued have expired"),
    ],
)
async def test_what_a_ticket_says_is_held(values: dict[str, float | str], said: str) -> None:
    """Route, address and times must fit; the log says which did not, and the ticket is not used up."""
    spent = UsedTickets(10, started=NOW - 60)
    sound = {name: int(value) if isinstance(value, float) else value for name, value in values.items()}

    assert await denied(authenticator(spent), query(ticket(**sound))) == said
    assert spent.count == 0


async def test_a_clock_that_is_a_little_ahead() -> None:
    """Another host may make tickets five seconds early."""
    assert isinstance(
        await async_outcome(authenticator().identify(caller(target=query(ticket(issued=(NOW + 5) * 1000))))), Identity
    )


async def test_what_is_no_ticket() -> None:
    """Forged, cut, escaped, of another key, too long or nothing: refused, and none of it is in the sentence."""
    good = query(ticket())
    texts = [good[:-1], good[:-1] + ("A" if good[-1] != "A" else "B"), good.replace("1.", "%31."), "/?ticket="]
    texts += [
        "/?ticket",
        "/?ticket=1.e30.x",
        query(ticket(), key=b"x" * 32),
        "/?ticket=" + "A" * (MAX_TICKET_CHARS + 1),
    ]
    for target in texts:
        said = await denied(authenticator(), target)
        assert said.startswith("the ticket ")
        assert len(said) < 80


async def test_one_that_is_bound_to_an_address_is_good_there() -> None:
    """The client's address, or that it comes by a Unix socket."""
    unix = Peer("", 0, socket.AF_UNIX)

    assert isinstance(
        await async_outcome(authenticator().identify(caller(target=query(ticket(address="203.0.113.7"))))), Identity
    )
    assert isinstance(
        await async_outcome(authenticator().identify(caller(target=query(ticket(address="unix")), peer=unix))), Identity
    )
    assert (ticket_address(unix), ticket_address(Peer("2001:db8::1", 9, socket.AF_INET6))) == ("unix", "2001:db8::1")


async def test_bind_address_wants_all_of_them_bound() -> None:
    """A ticket that is good anywhere is then refused."""
    auth = authenticator(bind_client_address="true")

    assert "not bound to an address" in await denied(auth, query(ticket()))
    assert isinstance(await async_outcome(auth.identify(caller(target=query(ticket(address="203.0.113.7"))))), Identity)


async def test_a_full_table_is_not_the_clients_fault() -> None:
    """Then nobody can be authenticated: 503, and no failed login is counted."""
    spent = UsedTickets(1, started=NOW - 60)
    assert isinstance(await async_outcome(authenticator(spent).identify(caller(target=query(ticket())))), Identity)

    found = await async_outcome(authenticator(spent).identify(caller(target=query(ticket()))))

    assert isinstance(found, Rejected)
    assert (found.reason, found.failed_login) == (Reason.AUTH_UNAVAILABLE, False)


async def test_another_parameter() -> None:
    """Its name is the file's choice."""
    auth = authenticator(query_parameter="one_time_token")

    assert isinstance(
        await async_outcome(auth.identify(caller(target=query(ticket(), parameter="one_time_token")))), Identity
    )


def test_a_parameter_that_the_log_would_show_is_refused() -> None:
    """What the log does not know as a secret must not carry one."""
    with pytest.raises(ValidationError, match='the log would show the value of "pass_me"'):
        authenticator(query_parameter="pass_me")


def test_a_short_key_is_refused(tmp_path: Path) -> None:
    """A key that could be guessed would authenticate everybody; a missing one as well."""
    (tmp_path / "short").write_text("x" * 31)
    text = LISTENERS + "routes: {r: {match: any, backend: 'tcp://a:1', auth: {kind: ticket, key: {file: NAME}}}}\n"
    (short,) = wrong(text.replace("NAME", "short"), folder=tmp_path)
    (none,) = wrong(text.replace("NAME", "none"), folder=tmp_path)

    assert (short.setting, short.code) == ("routes.r.auth.key", "E012")
    assert short.message == "has 31 bytes, and the minimum is 32: openssl rand -base64 32 makes one"
    assert none.setting == "routes.r.auth.key.file"


async def test_only_what_is_not_signed_is_a_failed_login() -> None:
    """Guesses ban an address in the end; a page that comes again with a ticket that was good once does not."""
    auth = authenticator()
    used = query(ticket())
    await async_outcome(auth.identify(caller(target=used)))
    stale = [used, query(ticket(expires=NOW * 1000)), query(ticket(route="other")), query(ticket(address="192.0.2.1"))]
    guessed = [query(ticket(), key=b"another key that is long enough..."), "/vnc?ticket=guess", used + "&ticket=guess"]
    for target, tried in [*((target, False) for target in stale), *((target, True) for target in guessed)]:
        found = await async_outcome(auth.identify(caller(target=target)))
        assert isinstance(found, Rejected)
        assert found.failed_login is tried, target
