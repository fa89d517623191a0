"""ConnectionContext: peer, request, route name, identity, TLS: one value for auth, backends, responders and the log."""

from __future__ import annotations

from dataclasses import dataclass

from wsbridge.auth.identity import Identity
from wsbridge.net.address import Peer
from wsbridge.protocol.http1 import Request
from wsbridge.protocol.proxy import SockEndpoint


@dataclass(frozen=True, slots=True)
class AuthRequest:
    """One request for a route.

    Attributes:
        peer: Where he comes from.
        request: The head of his request; None where he speaks plain TCP.
        route: Name of the route that the request is for.
        tls: Whether he came by TLS.
        subprotocols: The subprotocols he offered. May hold secrets.
    """

    peer: Peer
    request: Request | None
    route: str
    tls: bool = False
    subprotocols: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ClientInfo:
    """Who is at the other side of the bridge.

    Attributes:
        id: Number of the connection, as in the log.
        peer: Where it comes from.
        local_address: Where it connected to; None if that is not known any more.
        identity: Who it turned out to be.
        request: What it asked for; None where plain TCP is spoken.
        listener: Name of the listener that it came to.
        route: Name of its route.
        tls: Whether it came by TLS.
    """

    id: int
    peer: Peer
    local_address: SockEndpoint | None
    identity: Identity
    request: Request | None
    listener: str
    route: str
    tls: bool
