"""The ways into a route for the matrix: what each kind of authentication is shown, case by case, and how it refuses."""

from __future__ import annotations

import base64
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
import trio

from tests.client_authority import ClientAuthority
from tests.serving import read_head
from wsbridge.auth.bearer import BearerToken, token_digest
from wsbridge.auth.passwords import hash_password
from wsbridge.auth.replay import MAX_CLOCK_SKEW_MS
from wsbridge.protocol.ticket import Ticket, encode_ticket, new_ticket_id

SECRET = "k" * 40
TICKETS = "t" * 40
OTHER = "other"
"""The route for which other credentials are good."""


@dataclass(frozen=True)
class Shown:
    """What a client shows: header lines, a part of the query, a certificate."""

    lines: tuple[str, ...] = ()
    query: str = ""
    context: ssl.SSLContext | None = None


NOTHING = Shown()


@dataclass(frozen=True)
class Way:
    """One kind of authentication.

    Attributes:
        here: The section of the routes that are asked for.
        there: That of the other route, for which `elsewhere` is good.
        cases: What is shown, by the case; a function of the route's name.
        status: Of a refusal.
        raw: Whether a listener that speaks tcp can have it.
    """

    here: dict[str, Any]
    there: dict[str, Any]
    cases: dict[str, Callable[[str], Shown]]
    status: int = 401
    raw: bool = False
    unheard: frozenset[str] = field(default_factory=frozenset)
    """Cases that end in the TLS handshake."""


def basic(name: str, password: str) -> Shown:
    """Show a name and a password."""
    return Shown((f"Authorization: Basic {base64.b64encode(f'{name}:{password}'.encode()).decode()}",))


def bearer(token: str) -> Shown:
    """Show a token."""
    return Shown((f"Authorization: Bearer {token}",))


def fixed(**cases: Shown) -> dict[str, Callable[[str], Shown]]:
    """Give cases that are the same for each route."""
    return {name: lambda _, shown=shown: shown for name, shown in cases.items()}


def ways(folder: Path, service: int, clients: ClientAuthority) -> dict[str, Way]:
    """Write the files of all kinds, and give the kinds.

    Args:
        folder: Where.
        service: Port of the service that `forward` asks, see `answer`.
        clients: Signs the certificates of clients.
    """
    for name in ("alice", "bob"):
        (folder / f"users-{name}").write_text(f"{name}:{hash_password(name.encode(), ln=12).text}\n")
    lines = [
        BearerToken("alice", token_digest("good")),
        BearerToken("alice", token_digest("old"), time.time() - 60),
        BearerToken("alice", token_digest("elsewhere"), None, frozenset([OTHER])),
    ]
    (folder / "tokens").write_text("".join(f"{token.to_line()}\n" for token in lines))
    (folder / "tickets").write_text(TICKETS)
    (folder / "secret").write_text(SECRET)

    def users(name: str) -> dict[str, Any]:
        return {"kind": "basic", "users": str(folder / f"users-{name}")}

    passwords = fixed(
        wrong=basic("alice", "wrong"),
        unknown=basic("mallory", "alice"),
        malformed=Shown(("Authorization: Basic !",)),
        right=basic("alice", "alice"),
        elsewhere=basic("bob", "bob"),
    )
    tokens = {"kind": "bearer", "tokens": str(folder / "tokens")}
    here, nowhere = ({"kind": "network", "allow": [net]} for net in ("127.0.0.0/8", "192.0.2.0/24"))
    shown = fixed(
        wrong=bearer("bad"),
        expired=bearer("old"),
        malformed=bearer("a b"),
        right=bearer("good"),
        elsewhere=bearer("elsewhere"),
    )
    certificates = fixed(
        wrong=Shown(context=clients.context("CN=mallory")),
        server=Shown(context=clients.context("CN=alice", server_only=True)),
        expired=Shown(context=clients.context("CN=alice", lasts=-60)),
        right=Shown(context=clients.context("CN=alice")),
        elsewhere=Shown(context=clients.context("CN=bob")),
    )
    asked = {"kind": "forward", "url": f"http://127.0.0.1:{service}/allow", "headers": ["Authorization"]}
    return {
        "network": Way(nowhere, here, fixed(wrong=NOTHING), status=403, raw=True),
        "basic": Way(users("alice"), users("bob"), passwords),
        "bearer": Way(tokens, tokens, shown),
        "jwt": Way(signed(folder, "here"), signed(folder, "there"), SIGNED),
        "ticket": Way({"kind": "ticket", "key": {"file": "tickets"}}, tokens, PASSES),
        "certificate": Way(
            {"kind": "certificate", "allow": ["CN=alice"]},
            {"kind": "certificate", "allow": ["CN=bob"]},
            certificates,
            raw=True,
            unheard=frozenset({"server", "expired"}),
        ),
        "forward": Way(asked, asked, shown),
        "any_of": Way({"any_of": [users("alice"), tokens]}, tokens, passwords | shown),
        "all_of": Way({"all_of": [here, users("alice")]}, users("bob"), passwords),
    }


def signed(folder: Path, audience: str) -> dict[str, Any]:
    """Return the section that accepts tokens for this audience."""
    keys = [{"algorithm": "HS256", "secret": {"file": str(folder / "secret")}}]
    return {"kind": "jwt", "keys": keys, "issuer": "us", "audience": audience}


def token(audience: str = "here", lasts: float = 60, key: str = SECRET) -> Shown:
    """Show a signed token."""
    claims = {"iss": "us", "aud": audience, "sub": "alice", "exp": int(time.time() + lasts)}
    return bearer(jwt.encode(claims, key, "HS256"))


def unsigned() -> Shown:
    """Show a token without a signature."""
    return bearer(jwt.encode({"iss": "us", "aud": "here", "sub": "alice", "exp": 2**40}, "", "none"))


SIGNED: dict[str, Callable[[str], Shown]] = {
    "wrong": lambda _: token(key="w" * 40),
    "unsigned": lambda _: unsigned(),
    "malformed": lambda _: bearer("a.b.c"),
    "expired": lambda _: token(lasts=-3600),
    "right": lambda _: token(),
    "elsewhere": lambda _: token("there"),
}


def ticket(route: str, lasts: float = 60, key: str = TICKETS) -> Shown:
    """Show a ticket."""
    now = int(time.time() * 1000) + MAX_CLOCK_SKEW_MS  # of another host, for a process that has just started
    made = Ticket(new_ticket_id(), route, now, now + int(lasts * 1000), "alice")
    return Shown(query=f"ticket={encode_ticket(made, key.encode())}")


PASSES: dict[str, Callable[[str], Shown]] = {
    "wrong": lambda route: ticket(route, key="w" * 40),
    "malformed": lambda _: Shown(query="ticket=1.x.y"),
    "twice": lambda route: Shown(query=f"{ticket(route).query}&{ticket(route).query}"),
    "expired": lambda route: ticket(route, lasts=-1),
    "right": ticket,
    "elsewhere": lambda _: ticket(OTHER),
}


async def answer(stream: trio.SocketStream) -> None:
    """Serve as what `forward` asks: says yes to the token that is good, and to the other one for the other route."""
    while True:
        head = await read_head(stream)
        good = "Bearer good" in head or ("Bearer elsewhere" in head and f"Uri: /{OTHER}" in head)
        await stream.send_all(f"HTTP/1.1 {'200 OK' if good else '401 No'}\r\nContent-Length: 0\r\n\r\n".encode())
