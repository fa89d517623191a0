"""ConnectionContext: what is known about one connection, for admission, auth, backends, responders and the log."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Final, Protocol

from wsbridge.auth.identity import ANONYMOUS, Identity
from wsbridge.counters import RouteStats
from wsbridge.net.address import Peer
from wsbridge.protocol.http1 import Request
from wsbridge.protocol.proxy import SockEndpoint
from wsbridge.reasons import Reason, Rejected


class ClientGate(Protocol):
    """The limits on the address of a client, as authentication methods use them."""

    @property
    def key(self) -> bytes | None:
        """The key of the address in the tables; None if it is exempt from limits."""

    def is_banned(self) -> bool:
        """Return whether the address is banned; may be called in any thread."""

    def banned(self) -> Rejected:
        """Return the rejection of a banned client."""

    async def begin_guess(self, max_waiting: int | None = None) -> bool:
        """Wait until one more credential of the address may be verified; it counts until the request is decided.

        Returns:
            False if it would have to wait, and `max_waiting` others do already.

        Raises:
            Rejected: The address was banned in the meantime.
        """


class _UnknownClient:
    """A client whose address is exempt from limits, or unknown."""

    key: None = None

    def is_banned(self) -> bool:
        """Return False."""
        return False

    def banned(self) -> Rejected:
        """See `ClientGate.banned`."""
        return Rejected(Reason.BANNED)

    async def begin_guess(self, max_waiting: int | None = None) -> bool:
        """Return True at once."""
        return True


UNKNOWN_CLIENT: Final = _UnknownClient()

UNKNOWN_PEER = Peer("", 0, 0)
"""The peer of a socket that was disconnected before its address was read."""


@dataclass(slots=True, eq=False)
class ConnectionContext:
    """What is known about one connection; each step adds to it.

    Attributes:
        id: Number of the connection since the process started.
        listener: Name of the listener that accepted it.
        generation: Number of the generation that it began with.
        peer: The client, behind trusted proxies too.
        local_address: Where the client connected to; known only if a backend receives it.
        tls: Version of TLS that the client speaks; empty without TLS.
        request: The head of the current request; None on plain TCP, and before it is read.
        subprotocols: The subprotocols that the request offers. May hold secrets.
        route: Name of the route of the request; empty while it is unknown.
        route_stats: The counters of that route; None while it is unknown.
        backend: Name of the route's backend; empty for none.
        auth_required: Whether the route authenticates its clients.
        identity: Who the client is.
        target: What the client chose, as a URL.
        backend_address: Address at which the backend was reached.
        subprotocol: The subprotocol of the 101.
        response_started: Whether a response has begun, so that no other can be sent.
        relayed: Whether it was relayed and that has ended; False while it is relayed.
        bytes_to_backend: Payload bytes relayed from the client.
        bytes_to_client: Payload bytes relayed from the backend.
        engine: The engine that relayed it; empty before that has ended.
        counted_to_backend: Payload bytes from the client that are in the counters of the route.
        counted_to_client: Payload bytes from the backend that are.
        session: The id of its resumable session; empty for none.
        chain: Marks of the routes, of this and other processes, that it came through before it was accepted.
        started: When it was accepted, by the monotonic clock.
        client: The limits on its address.
    """

    id: int = 0
    listener: str = ""
    generation: int = 0
    peer: Peer = UNKNOWN_PEER
    local_address: SockEndpoint | None = None
    tls: str = ""
    request: Request | None = None
    subprotocols: tuple[str, ...] = ()
    route: str = ""
    route_stats: RouteStats | None = None
    backend: str = ""
    auth_required: bool = False
    identity: Identity = ANONYMOUS
    target: str | None = None
    backend_address: str | None = None
    subprotocol: str | None = None
    response_started: bool = False
    relayed: bool = False
    bytes_to_backend: int = 0
    bytes_to_client: int = 0
    engine: str = ""
    counted_to_backend: int = 0
    counted_to_client: int = 0
    session: str = ""
    chain: tuple[str, ...] = ()
    started: float = field(default_factory=time.monotonic)
    client: ClientGate = UNKNOWN_CLIENT

    def forget_request(self) -> None:
        """Forget what is known about the current request, before the next one of the connection."""
        self.request = None
        self.subprotocols = ()
        self.route = self.backend = ""
        self.route_stats = None
        self.auth_required = False
        self.identity = ANONYMOUS
        self.response_started = False
