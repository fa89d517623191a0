"""Backend: what every kind of backend takes and gives.

Lives here: the interface, the values that cross it, and the one way to a tuned TCP socket. Must not live here: any
kind of backend; deadlines (the caller's cancel scope) and repeated attempts (`net.retry`).
"""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from wsbridge.config.address import Target
from wsbridge.net.address import Address
from wsbridge.net.dial import DialFailure, dial
from wsbridge.net.own import OwnListeners
from wsbridge.net.resolve import Resolver
from wsbridge.net.sockets import tune
from wsbridge.protocol.head import HeadLimits
from wsbridge.reasons import End, Reason

if TYPE_CHECKING:
    from wsbridge.backends.client import Client
    from wsbridge.relay.endpoint import Endpoint


@dataclass(frozen=True, slots=True)
class Services:
    """What outlives the single backend and is lent to it.

    Attributes:
        resolver: Looks names up.
        head: How large the head of an answer may be.
        own: What this process listens at.
    """

    resolver: Resolver
    head: HeadLimits = field(default_factory=HeadLimits)
    own: OwnListeners = field(default_factory=OwnListeners)


class Chosen(Protocol):
    """What one client chose, and the judgement of what it turns out to be.

    Attributes:
        target: In its normal form; dialled instead of the URL of the configuration.
    """

    target: Target

    def why_not(self, address: Address) -> str | None:
        """Judge an address of the target: one sentence why it may not be dialled, or None."""

    async def path(self) -> str | End:
        """Give the path to connect to where the target is a Unix socket; or how the connection ends."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What one connection asks of its backend.

    Attributes:
        subprotocols: What to offer where WebSocket is dialled: what the client offered and the route allows; on a
            raw front the route's list.
        from_client: Whether a WebSocket client stands behind the offer; then a backend's own list does not replace it.
        text: Whether text messages are taken from a WebSocket backend.
        frame: Largest frame to write, in bytes.
        chosen: What the client chose; None where the configuration says it all.
        client: Who stands behind it; None for backends that are not told.
    """

    subprotocols: tuple[str, ...] = ()
    from_client: bool = False
    text: Literal["accept", "refuse"] = "accept"
    frame: int = 65536
    chosen: Chosen | None = None
    client: Client | None = None


@dataclass(frozen=True, slots=True)
class Dialled:
    """A backend that is ready for the relay.

    Attributes:
        endpoint: The other side of the connection; the caller owns it.
        subprotocol: What a WebSocket backend chose; None on all others.
        address: Where it was reached, for the log.
    """

    endpoint: Endpoint
    subprotocol: str | None
    address: str


class Backend(Protocol):
    """One backend of one route.

    Attributes:
        name: Its URL, for logs: without secrets.
    """

    name: str

    def at_once(self, offer: Offer) -> Dialled | None:
        """Give the connection if it can be had without waiting; None: `dial`, which also tells why not."""

    async def dial(self, offer: Offer) -> Dialled | End:
        """Connect and get ready for payload.

        Never raises for what a peer or the network does; the deadline is the caller's cancel scope, and whatever
        happens, a socket that is not handed over is closed.
        """


async def connect(services: Services, host: str, port: int, chosen: Chosen | None = None) -> socket.socket | End:
    """A connected TCP socket with its options set, or why there is none.

    Args:
        services: Lent to the backend.
        host: Name or address.
        port: Port.
        chosen: Judges the addresses of the host, where a client chose it.
    """
    sock = await dial(services.resolver, host, port, None if chosen is None else chosen.why_not)
    if isinstance(sock, DialFailure):
        return sock.end()
    try:
        tune(sock)
    except OSError as error:
        sock.close()
        return End(Reason.BACKEND_REFUSED, "back", f"{host}:{port}: closed at once: {error.strerror}")
    return sock


def address_of(sock: socket.socket, otherwise: str) -> str:
    """Text form of the address a socket is connected to; `otherwise` if it has gone already."""
    try:
        name = sock.getpeername()
    except OSError:
        return otherwise
    return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"
