"""Requests as the routes that answer them get them."""

from __future__ import annotations

import socket

from wsbridge.auth.identity import ANONYMOUS, Identity
from wsbridge.net.address import Peer
from wsbridge.protocol.http1 import Headers, Request
from wsbridge.responders.base import ResponderContext

PEER = Peer("203.0.113.7", 52044, socket.AF_INET)


def asked(
    method: str,
    target: str,
    prefix: str = "/",
    headers: list[tuple[bytes, bytes]] | None = None,
    *,
    identity: Identity = ANONYMOUS,
    peer: Peer = PEER,
) -> ResponderContext:
    """Make a request that was admitted."""
    lines = Headers([(b"host", b"gw.example.org"), *(headers or [])])
    return ResponderContext(Request(method, target, "1.1", lines), prefix, identity, peer)
