"""What the TLS handshake reveals about a client."""

from __future__ import annotations

import socket
import ssl
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.net.test_tls import shake
from tests.tls_contexts import server_context
from wsbridge.net.address import Peer
from wsbridge.net.tls import (
    ServerSSLObject,
    ServerSSLSocket,
    client_context,
    silence_sni_decode_errors,
    with_tls_details,
)

PEER = Peer("203.0.113.7", 5, socket.AF_INET)


@pytest.fixture
def client(ca_file: Path) -> ssl.SSLContext:
    """Return a client that accepts any of our certificates."""
    context = client_context(ca_file)
    context.check_hostname = False
    return context


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize(
    ("asked", "taken"),
    [("Gw.Example.org", "gw.example.org"), ("other.example.org", "other.example.org"), (None, "")],
)
def test_the_server_name_is_recorded(issue: Any, client: ssl.SSLContext, several: bool, asked: str, taken: str) -> None:
    """With one certificate or several, whether one of them has the name or not."""
    certificates = [issue("gw.example.org"), issue("b.example.org")]
    ours, _ = shake(server_context(certificates if several else certificates[:1]), client, asked)
    found = with_tls_details(PEER, ours)
    assert (found.sni, found.certificate) == (taken, None)
    assert found.host == PEER.host


def test_an_invalid_server_name_is_not_recorded(issue: Any, client: ssl.SSLContext) -> None:
    """What goes into logs and to backends is a name and nothing else; the connection is served all the same."""
    ours, _ = shake(server_context([issue("gw.example.org")]), client, "gw$(reboot)")
    assert with_tls_details(PEER, ours) is PEER


def test_what_a_proxy_said_stays_where_the_client_asks_for_none(issue: Any, client: ssl.SSLContext) -> None:
    """A name that is known already is not lost."""
    known = Peer("203.0.113.7", 5, socket.AF_INET, sni="far.example.org")
    server = server_context([issue("gw.example.org")])
    assert with_tls_details(known, shake(server, client, None)[0]).sni == "far.example.org"
    assert with_tls_details(known, shake(server, client, "gw.example.org")[0]).sni == "gw.example.org"


def test_the_certificate_is_reported(issue: Any, ca_file: Path, client: ssl.SSLContext) -> None:
    """The certificate is that of `SSLObject.getpeercert`, and is no part of the equality or the text of a peer."""
    client.load_cert_chain(*issue("alice.example.org"))
    ours, _ = shake(server_context([issue("gw.example.org")], ca_file), client, "gw.example.org")
    found = with_tls_details(PEER, ours)
    assert found.certificate is not None
    assert ("DNS", "alice.example.org") in found.certificate["subjectAltName"]
    assert found == Peer("203.0.113.7", 5, socket.AF_INET, sni="gw.example.org")
    assert hash(found)
    assert "alice" not in repr(found)


@pytest.mark.parametrize("error", [UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), ssl.SSLError("bad extension")])
def test_a_certificate_that_cannot_be_read_stands_for_nobody(error: Exception) -> None:
    """It is shown, so it is not None, and it says nothing."""

    def getpeercert() -> None:
        raise error

    tls: Any = SimpleNamespace(context=SimpleNamespace(verify_mode=ssl.CERT_OPTIONAL), getpeercert=getpeercert)
    assert with_tls_details(PEER, tls).certificate == {}


def test_a_name_that_is_not_ascii_writes_nothing(
    issue: Any, client: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The handshake fails with a sentence, and no client can fill standard error; all else is reported as before."""
    reported: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", reported.append)
    silence_sni_decode_errors()
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = server_context([issue("gw.example.org")]).wrap_bio(to_server, to_client, server_side=True)
    theirs = client.wrap_bio(to_client, to_server, server_hostname="aaaaaaaa.example")
    with pytest.raises(ssl.SSLWantReadError):
        theirs.do_handshake()
    to_server.write(to_server.read().replace(b"aaaaaaaa", b"\xff" * 8))
    with pytest.raises(ssl.SSLError, match="CALLBACK_FAILED"):
        ours.do_handshake()
    assert reported == []
    other = SimpleNamespace(exc_value=ValueError("x"), object=b"")
    sys.unraisablehook(other)
    assert reported == [other]


def test_both_ends_are_of_the_server(issue: Any) -> None:
    """Whatever kind of transport is made, it can note the name."""
    server = server_context([issue("gw.example.org")])
    assert (server.sslsocket_class, server.sslobject_class) == (ServerSSLSocket, ServerSSLObject)
