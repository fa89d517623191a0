"""Backend, DialRequest, Connected."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from wsbridge.backends.passed_request import PassedRequest
from wsbridge.config.urls import Target
from wsbridge.net.address import Address, ListeningAddresses
from wsbridge.net.dialer import DialProgress, dial
from wsbridge.net.loop_detection import OutgoingChain
from wsbridge.net.resolver import Resolver
from wsbridge.net.transport import set_socket_options
from wsbridge.protocol.http1 import MAX_RESPONSE_HEAD_BYTES
from wsbridge.protocol.websocket import TextMessages
from wsbridge.reasons import Reason, Rejected

if TYPE_CHECKING:
    from wsbridge.context import ConnectionContext
    from wsbridge.relay.endpoint import Side


@dataclass(frozen=True, slots=True)
class DialServices:
    """What outlives the single backend and is lent to it.

    Attributes:
        resolver: Looks names up.
        max_response_head_bytes: How large the head of a response of a backend or proxy may be.
        listening_addresses: What this process listens at.
    """

    resolver: Resolver
    max_response_head_bytes: int = MAX_RESPONSE_HEAD_BYTES
    listening_addresses: ListeningAddresses = field(default_factory=ListeningAddresses)


class ChosenTarget(Protocol):
    """What one client chose, and the judgement of what it turns out to be.

    Attributes:
        target: In its normal form; dialled instead of the URL of the configuration.
    """

    target: Target

    def check_address(self, address: Address) -> str | None:
        """Judge an address of the target: one sentence why it may not be dialled, or None."""

    async def resolve_path(self) -> str:
        """Return the path to connect to where the target is a Unix socket.

        Raises:
            Rejected: It may not be connected to.
        """


@dataclass(frozen=True, slots=True)
class DialRequest:
    """What one connection asks of its backend.

    Attributes:
        subprotocols: What to offer where WebSocket is dialled: what the client offered and the route allows; on a
            raw front the route's list.
        from_client: Whether a WebSocket client stands behind the offer; then a backend's own list does not replace it.
        text_messages: Whether text messages are taken from a WebSocket backend.
        max_frame_bytes: Largest frame to write, in bytes.
        chosen: What the client chose; None where the configuration says it all.
        client: The client; None for backends that do not receive its address or identity.
        passed: What of the client's request is passed on; None for nothing.
        chain: The routes that the connection has come through, which its dials pass on; None outside of routes.
        progress: What the backend notes its steps in.
    """

    subprotocols: tuple[str, ...] = ()
    from_client: bool = False
    text_messages: TextMessages = "accept"
    max_frame_bytes: int = 65536
    chosen: ChosenTarget | None = None
    client: ConnectionContext | None = None
    passed: PassedRequest | None = None
    chain: OutgoingChain | None = field(default=None, compare=False)
    progress: DialProgress = field(default_factory=DialProgress, compare=False)


@dataclass(frozen=True, slots=True)
class Connected:
    """A backend that is ready for the relay.

    Attributes:
        side: The other side of the connection; the caller owns it.
        subprotocol: What a WebSocket backend chose; None on all others.
        address: Where it was reached, for the log.
    """

    side: Side
    subprotocol: str | None
    address: str


class Backend(Protocol):
    """One backend of one route.

    Attributes:
        name: Its URL, for logs: without secrets.
    """

    name: str

    def connect_nowait(self, dial_request: DialRequest) -> Connected | None:
        """Give the connection if it can be had without waiting; None: `dial`, which also reports why not."""

    async def dial(self, dial_request: DialRequest) -> Connected:
        """Connect and get ready for payload.

        The deadline is the caller's cancel scope; whatever happens, a socket that is not returned is closed.

        Raises:
            Rejected: It cannot be reached, refused, or gave no valid answer.
        """


async def connect_tcp(
    services: DialServices, host: str, port: int, dial_request: DialRequest | None = None
) -> socket.socket:
    """Return a connected TCP socket with its options set.

    Args:
        services: Lent to the backend.
        host: Name or address.
        port: Port.
        dial_request: Judges the addresses of the host where a client chose it, and receives progress reports.

    Raises:
        Rejected: There is none.
    """
    dial_request = dial_request or DialRequest()
    chosen = dial_request.chosen
    check_address = None if chosen is None else chosen.check_address
    sock = await dial(services.resolver, host, port, check_address, dial_request.progress, chain=dial_request.chain)
    try:
        set_socket_options(sock)
    except OSError as error:
        sock.close()
        raise Rejected(
            Reason.BACKEND_REFUSED, f"{host}:{port}: closed at once: {error.strerror}", initiator="backend"
        ) from None
    return sock


def remote_address(sock: socket.socket, fallback: str) -> str:
    """Text form of the address a socket is connected to; `otherwise` if it has gone already."""
    try:
        name = sock.getpeername()
    except OSError:
        return fallback
    return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"
