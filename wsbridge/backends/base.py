"""Backend, DialRequest, Connected."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from wsbridge.backends.passed_request import PassedRequest
from wsbridge.config.urls import Target
from wsbridge.file_watcher import FileWatcher
from wsbridge.net.address import Address, ListeningAddresses, LocalAddress, join_host_port
from wsbridge.net.dialer import DialProgress, dial
from wsbridge.net.loop_detection import OutgoingChain
from wsbridge.net.resolver import Resolver
from wsbridge.net.tls_roles import OpenSsl, TlsProvider
from wsbridge.net.transport import set_socket_options
from wsbridge.protocol.http1 import MAX_RESPONSE_HEAD_BYTES
from wsbridge.protocol.websocket import TextMessages
from wsbridge.reasons import Reason, Rejected

if TYPE_CHECKING:
    from wsbridge.context import ConnectionContext
    from wsbridge.relay.back_session import OpenedSession
    from wsbridge.relay.endpoint import Side


@dataclass(frozen=True, slots=True)
class DialServices:
    """What all backends of a generation share.

    Attributes:
        resolver: Resolves names, for all generations.
        max_response_head_bytes: Largest head of a response of a backend or proxy.
        listening_addresses: Addresses that this process listens on.
        watcher: Watches files with keys and authorities, until the generation is superseded.
        tls: Does TLS, that of the listeners as well.
    """

    resolver: Resolver
    max_response_head_bytes: int = MAX_RESPONSE_HEAD_BYTES
    listening_addresses: ListeningAddresses = field(default_factory=ListeningAddresses)
    watcher: FileWatcher = field(default_factory=FileWatcher)
    tls: TlsProvider = field(default_factory=OpenSsl)


class ChosenTarget(Protocol):
    """The target that one client chose, and the check of its addresses.

    Attributes:
        target: In normal form; dialed instead of the URL of the configuration.
    """

    target: Target

    def check_address(self, address: Address) -> str | None:
        """Check an address of the target: one sentence why it must not be dialed, or None."""

    async def resolve_path(self) -> str:
        """Return the path to connect to where the target is a Unix socket.

        Raises:
            Rejected: It must not be connected to.
        """


@dataclass(slots=True)  # not frozen: there is one for every connection, and frozen ones take twice the time to make
class DialRequest:
    """What one connection needs of its backend.

    Attributes:
        subprotocols: What to offer to a WebSocket backend: the client's offer as far as the route accepts it; for plain
            TCP clients the route's list.
        from_client: Whether a WebSocket client made the offer; the backend's own list does not replace it then.
        text_messages: Whether text messages of a WebSocket backend are accepted.
        max_frame_bytes: Largest frame to write, in bytes.
        chosen: The target that the client chose; None for the configured one.
        client: The client; None for backends that do not receive its address or identity.
        passed: What of the client's request is passed on; None for nothing.
        chain: The routes that the connection has come through, which its dials pass on; None outside of routes.
        client_key: What the client's address is counted under; None if it is exempt from limits.
        progress: The current step, for the message of a timeout.
    """

    subprotocols: tuple[str, ...] = ()
    from_client: bool = False
    text_messages: TextMessages = "accept"
    max_frame_bytes: int = 65536
    chosen: ChosenTarget | None = None
    client: ConnectionContext | None = None
    passed: PassedRequest | None = None
    chain: OutgoingChain | None = field(default=None, compare=False)
    client_key: bytes | None = None
    progress: DialProgress = field(default_factory=DialProgress, compare=False)


@dataclass(slots=True)
class Connected:
    """A backend that is ready for the relay.

    Attributes:
        side: The other side of the connection; the caller owns it.
        subprotocol: The choice of a WebSocket backend; None for all others.
        address: Where it is connected, for the log.
        session: The resumable session that was opened on it, of which it is the first transport; None for an ordinary
            connection.
    """

    side: Side
    subprotocol: str | None
    address: str
    session: OpenedSession | None = None


class Backend(Protocol):
    """One backend of one route.

    Attributes:
        name: Its URL, for logs: without secrets.
    """

    name: str

    def local_address(self, chosen: ChosenTarget | None) -> LocalAddress | None:
        """Return where to connect, if the backend is on this machine and speaks plain bytes from the first on.

        Args:
            chosen: The target that the client chose; None for the configured one.
        """

    def connect_nowait(self, dial_request: DialRequest) -> Connected | None:
        """Connect if that needs no waiting; None: call `dial`, which also reports failures."""

    async def dial(self, dial_request: DialRequest) -> Connected:
        """Connect, and do all handshakes.

        The deadline is the caller's cancel scope; whatever happens, a socket that is not returned is closed.

        Raises:
            Rejected: It cannot be reached, refused, or gave no valid answer.
        """


async def connect_tcp(
    services: DialServices, host: str, port: int, dial_request: DialRequest | None = None
) -> socket.socket:
    """Return a connected TCP socket with its options set.

    Args:
        services: Of the process.
        host: Name or address.
        port: Port.
        dial_request: Checks the addresses of a host that a client chose, and receives progress reports.

    Raises:
        Rejected: It cannot be connected.
    """
    dial_request = dial_request or DialRequest()
    chosen = dial_request.chosen
    check_address = None if chosen is None else chosen.check_address
    sock = await dial(
        services.resolver,
        host,
        port,
        check_address,
        dial_request.progress,
        chain=dial_request.chain,
        client=dial_request.client_key,
    )
    try:
        set_socket_options(sock)
    except OSError as error:
        sock.close()
        text = f"{join_host_port(host, port)}: closed at once: {error.strerror}"
        raise Rejected(Reason.BACKEND_REFUSED, text, initiator="backend") from None
    return sock


def remote_address(sock: socket.socket, fallback: str) -> str:
    """Text form of the address a socket is connected to; `fallback` if it is disconnected."""
    try:
        host, port, *_ = sock.getpeername()
    except OSError:
        return fallback
    return join_host_port(host, port)
