"""Clients of the tests: what a backend may learn of one."""

from __future__ import annotations

import socket
from typing import Any

from wsbridge.auth.identity import Identity
from wsbridge.context import ConnectionContext
from wsbridge.net.address import Peer
from wsbridge.protocol.http1 import Headers, Request
from wsbridge.protocol.proxy import ProxyHeader, ProxyHeaderParser, SockEndpoint


def client(**other: Any) -> ConnectionContext:
    """Give alice, at 203.0.113.7, who came by a proxy and asked for /vnc; `other` replaces some of it."""
    facts: dict[str, Any] = {
        "id": 17,
        "peer": Peer("203.0.113.7", 4711, socket.AF_INET, via=("10.0.0.2", "10.0.0.1"), sni="gw.example.org"),
        "local_address": SockEndpoint("192.0.2.1", 443),
        "identity": Identity("alice", "bearer", {"team": "north"}),
        "request": Request("GET", "/vnc?token=x", "1.1", Headers([(b"host", b"gw.example.org:8443")])),
        "listener": "web",
        "route": "app",
        "tls": True,
    }
    return ConnectionContext(**{**facts, **other})


def header_of(sock: socket.socket) -> ProxyHeader:
    """Read the PROXY header that a socket begins with, and nothing more."""
    sock.settimeout(10)
    reader = ProxyHeaderParser()
    while reader.result is None:
        reader.feed(sock.recv(1))
    assert isinstance(reader.result, ProxyHeader)
    return reader.result
