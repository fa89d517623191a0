"""Requests as the routes that answer them get them."""

from __future__ import annotations

import socket

from wsbridge.auth.identity import ANONYMOUS, Identity
from wsbridge.net.address import Peer
from wsbridge.protocol.head import Headers, Request
from wsbridge.routes.answer import Asked

PEER = Peer("203.0.113.7", 52044, socket.AF_INET)


def asked(
    method: str,
    target: str,
    prefix: str = "/",
    headers: list[tuple[bytes, bytes]] | None = None,
    *,
    identity: Identity = ANONYMOUS,
    peer: Peer = PEER,
) -> Asked:
    """Make a request that was admitted."""
    lines = Headers([(b"host", b"gw.example.org"), *(headers or [])])
    return Asked(Request(method, target, "1.1", lines), prefix, identity, peer)
