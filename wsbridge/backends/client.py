"""Client: what a backend may be told of the one who stands behind a connection.

Lives here: the value. Must not live here: telling it (`introduction`, `client_headers`). It is made only for backends
that want it.
"""

from __future__ import annotations

from dataclasses import dataclass

from wsbridge.auth.identity import Identity
from wsbridge.net.address import Peer
from wsbridge.protocol.head import Request
from wsbridge.protocol.proxy_header import Place


@dataclass(frozen=True, slots=True)
class Client:
    """Who is at the other side of the bridge.

    Attributes:
        id: Number of the connection, as in the log.
        peer: Where it comes from.
        local: Where it connected to; None if that is not known any more.
        identity: Who it turned out to be.
        request: What it asked for; None where plain TCP is spoken.
        listener: Name of the listener that it came to.
        route: Name of its route.
        tls: Whether it came by TLS.
    """

    id: int
    peer: Peer
    local: Place | None
    identity: Identity
    request: Request | None
    listener: str
    route: str
    tls: bool
