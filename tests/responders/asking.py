"""Requests as the routes that answer them get them."""

from __future__ import annotations

import socket

from wsbridge.auth.identity import ANONYMOUS, Identity
from wsbridge.context import ConnectionContext
from wsbridge.net.address import Peer
from wsbridge.protocol.http1 import Headers, Request

PEER = Peer("203.0.113.7", 52044, socket.AF_INET)


def asked(
    method: str,
    target: str,
    headers: list[tuple[bytes, bytes]] | None = None,
    *,
    identity: Identity = ANONYMOUS,
    peer: Peer = PEER,
) -> tuple[Request, ConnectionContext]:
    """Make a request that was admitted."""
    lines = Headers([(b"host", b"gw.example.org"), *(headers or [])])
    request = Request(method, target, "1.1", lines)
    return request, ConnectionContext(request=request, identity=identity, peer=peer)
