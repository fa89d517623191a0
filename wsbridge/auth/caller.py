"""Caller: who asks for what, as far as it is known before he is asked who he is.

Lives here: the value. Must not live here: any judgement of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from wsbridge.net.address import Peer
from wsbridge.protocol.head import Request


@dataclass(frozen=True, slots=True)
class Caller:
    """One request for a route.

    Attributes:
        peer: Where he comes from.
        request: The head of his request; None where he speaks plain TCP.
        route: Name of the route that the request is for.
        tls: Whether he came by TLS.
        protocols: The subprotocols he offered. May hold secrets.
    """

    peer: Peer
    request: Request | None
    route: str
    tls: bool = False
    protocols: tuple[str, ...] = ()
