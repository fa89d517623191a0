"""Headers about the client: templates, what they are filled with, and that no client sets such a header itself."""

from __future__ import annotations

import socket
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.backends.clients import client
from tests.backends.upstream import SWITCH, says, upstream
from tests.config.loading import LISTENERS, read, summaries, wrong
from wsbridge.auth.identity import ANONYMOUS, Identity
from wsbridge.backends.base import Connected, DialRequest, DialServices
from wsbridge.backends.client_headers import CLIENT_FIELDS, read_header_template
from wsbridge.backends.websocket import WebSocketBackend, WebSocketBackendConfig
from wsbridge.context import ConnectionContext
from wsbridge.net.address import Peer
from wsbridge.net.resolver import Resolver
from wsbridge.protocol.http1 import Headers, Request

SIX = Peer("2001:db8::7", 4711, socket.AF_INET6)
UNIX = Peer("", 0, socket.AF_UNIX)


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("{address}", "203.0.113.7"),
        ("{address}:{port}", "203.0.113.7:4711"),
        ("{via}, x", "10.0.0.2, 10.0.0.1, x"),
        ("{local_address} {local_port}", "192.0.2.1 443"),
        ("{identity} by {auth}", "alice by bearer"),
        ("{id} {listener} {route}", "17 web app"),
        ("{scheme}://{host}{path}", "https://gw.example.org:8443/vnc"),
        ("{sni}", "gw.example.org"),
        ("{claims.team}", "north"),
        ("<{claims.team}{claims.none}>", "<north>"),
        ("{claims.none}", ""),
        ("x {claims.none}", ""),
        ("{{{identity}}}", "{alice}"),
        ("for={node}", 'for="203.0.113.7:4711"'),
    ],
)
def test_fields(template: str, value: str) -> None:
    """Each field has its fact; a value of which nothing is known is empty."""
    assert read_header_template(template).fill(client()) == value


@pytest.mark.parametrize(
    ("peer", "address", "node"),
    [
        (SIX, "2001:db8::7", 'for="[2001:db8::7]:4711"'),
        (Peer("2001:db8::7", 0, socket.AF_INET6), "2001:db8::7", 'for="[2001:db8::7]"'),
        (Peer("203.0.113.7", 0, socket.AF_INET), "203.0.113.7", "for=203.0.113.7"),
        (UNIX, "", ""),
    ],
)
def test_addresses(peer: Peer, address: str, node: str) -> None:
    """Addresses are plain; a node is written as Forwarded has it; a Unix socket has neither."""
    assert read_header_template("{address}").fill(client(peer=peer)) == address
    assert read_header_template("for={node}").fill(client(peer=peer)) == node


def test_who_is_hardly_known() -> None:
    """Every field can be filled for a client of plain TCP on a Unix socket without authentication."""
    nobody = client(peer=UNIX, local_address=None, identity=ANONYMOUS, request=None, tls=False)
    filled = {name for name in CLIENT_FIELDS if read_header_template(f"{{{name}}}").fill(nobody)}
    assert filled == {"id", "listener", "route", "scheme"}


def by(name: str) -> ConnectionContext:
    """Give a client of that name."""
    return client(identity=Identity(name, "bearer"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("zoë", "zo%C3%AB"),
        ("a\r\nX-Admin: yes", "a%0D%0AX-Admin: yes"),
        (" alice ", "%20alice%20"),
        ("  ", "%20%20"),
        ("a b", "a b"),
        ("100%41", "100%2541"),
        ("\ud800", "?"),
        ("bob, admin", "bob%2C admin"),
        ('bob";by="x', "bob%22%3Bby=%22x"),
    ],
)
def test_odd_names(name: str, value: str) -> None:
    """What is not printable ASCII, spaces at the ends, % and what separates the elements of a list are encoded."""
    assert read_header_template("{identity}").fill(by(name)) == value


def test_a_claim_stays_one_element_of_a_list() -> None:
    """Neither a claim nor the request can add an element; values made by the bridge keep their separators."""
    claims = Identity("alice", "jwt", {"team": "north, admin"})
    forged = Request("GET", "/x;a,b", "1.1", Headers([(b"host", b"gw.example.org")]))
    header = read_header_template("{via}, {claims.team}, {path}, {node}")
    peer = Peer("2001:db8::7", 4711, socket.AF_INET6, via=("10.0.0.2", "10.0.0.1"))
    value = header.fill(client(identity=claims, request=forged, peer=peer))
    assert value == '10.0.0.2, 10.0.0.1, north%2C admin, /x%3Ba%2Cb, "[2001:db8::7]:4711"'


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_no_name_leaves_its_header(name: str) -> None:
    """Whatever a name holds, the value is one printable line, and decoding it gives the name again."""
    value = read_header_template("{identity}").fill(by(name))
    assert value == value.strip()
    assert all(" " <= char <= "~" for char in value)
    assert unquote_to_bytes(value).decode() == name


@pytest.mark.parametrize(
    ("headers", "path", "message"),
    [
        ("X-A: '{adress}'", "X-A", '{adress} is not a field (did you mean "address"?): write one of address, port, '),
        ("X-A: '{claim.team}'", "X-A", '{claim.team} is not a field (did you mean "claims.team"?)'),
        ("X-A: '{claims.}'", "X-A", "{claims.} is not a field"),
        ("X-A: '{}'", "X-A", "{} is not a field"),
        ("X-A: 'a{'", "X-A", 'a single "{": write {{ and }} for braces'),
        ("X-A: '{address}}'", "X-A", 'a single "}"'),
        ("X-A: alice", "X-A", "has no field such as {address}"),
        ("X-A: '{identity} '", "X-A", "must be printable ASCII on one line, without spaces at its ends"),
        ("X-A: {file: /x}", "X-A", "must be text, not a mapping"),
        ("Host: '{host}'", "Host", '"Host" is written by wsbridge itself'),
        ("Sec-WebSocket-Key: '{id}'", "Sec-WebSocket-Key", '"Sec-WebSocket-Key" is written by wsbridge itself'),
        ("x-key: '{id}'", "x-key", "is a duplicate: the request has this header already"),
    ],
)
def test_mistakes(headers: str, path: str, message: str) -> None:
    """An unknown field, a header of our own and one that headers has already are pointed at."""
    backend = f"{{url: 'ws://127.0.0.1:1/', headers: {{X-Key: abc}}, client_headers: {{{headers}}}}}"
    (problem,) = wrong(LISTENERS + f"routes: {{r: {{match: any, auth: none, backend: {backend}}}}}\n")
    assert problem.setting == f"routes.r.backend.client_headers.{path}"
    assert message in problem.message


def test_other_backends_have_none() -> None:
    """They are of requests alone, as the PROXY header is of those that have none."""
    for url, key in (
        ("tcp://127.0.0.1:1", "client_headers: {X-A: '{id}'}"),
        ("ws://127.0.0.1:1", "proxy_protocol: v1"),
    ):
        problems = wrong(LISTENERS + f"routes: {{r: {{match: any, auth: none, backend: {{url: '{url}', {key}}}}}}}\n")
        assert summaries(problems) == [f"E010 routes.r.backend.{key.partition(':')[0]}"]
    text = "{url: 'tcp://127.0.0.1:1', proxy_protocol: v2}"
    assert read(LISTENERS + f"routes: {{r: {{match: any, auth: none, backend: {text}}}}}\n").warnings == []


async def test_the_request_has_them() -> None:
    """They are added to those of `headers`; one without a value, and all of them without a client, are left out."""
    headers = {"X-Forwarded-For": "{address}", "X-User": "{identity}", "X-None": "{claims.none}"}
    config = {"headers": {"X-Key": "abc"}, "client_headers": headers}
    for offer, there in ((DialRequest(client=client()), True), (DialRequest(), False)):
        async with upstream(says(SWITCH + b"\r\n")) as server:
            url = {"url": f"ws://127.0.0.1:{server.port}/"}
            backend = WebSocketBackend(
                WebSocketBackendConfig.model_validate({**url, **config}), DialServices(Resolver())
            )
            dialled = await backend.dial(offer)
            assert isinstance(dialled, Connected)
            dialled.side.transport.close()
            (request,) = server.requests
        assert ("\r\nX-Forwarded-For: 203.0.113.7\r\nX-User: alice\r\n" in request) is there
        assert "\r\nX-Key: abc\r\n" in request
        assert "X-None" not in request
