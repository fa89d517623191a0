"""TCP, TLS and Unix backends, and the PROXY header that they get."""

from __future__ import annotations

import hashlib
import re
import socket
from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator

from wsbridge.backends.base import ChosenTarget, Connected, DialRequest, DialServices, connect_tcp, remote_address
from wsbridge.config.backend_urls import BackendUrl
from wsbridge.config.base import Issue, LoadContext
from wsbridge.config.listener import TlsCertificateConfig
from wsbridge.config.paths import FilePath
from wsbridge.config.types import Flag
from wsbridge.config.unions import ONE_OR_MANY_SCHEMA, UrlBackendSection, as_tuple
from wsbridge.config.urls import Host
from wsbridge.context import ConnectionContext
from wsbridge.net import tls
from wsbridge.net.address import Address, LocalAddress, is_loopback
from wsbridge.net.dialer import dial_nowait, dial_unix
from wsbridge.net.resolver import parse_ip_literal
from wsbridge.net.tls_roles import ClientTls
from wsbridge.net.tls_transport import EncryptedTransport
from wsbridge.net.transport import SocketTransport
from wsbridge.protocol.proxy import SockEndpoint, encode_proxy_v1, encode_proxy_v2
from wsbridge.reasons import Reason, Rejected
from wsbridge.relay.endpoint import Side

ProxyProtocolVersion = Literal["v1", "v2"]


class ProxyProtocolSender:
    """Sends the PROXY header to one backend.

    Args:
        version: Of the header; None sends none.
    """

    __slots__ = ("_version",)

    def __init__(self, version: ProxyProtocolVersion | None) -> None:
        self._version = version

    @property
    def is_used(self) -> bool:
        """Whether there is a header."""
        return self._version is not None

    def build_header(self, client: ConnectionContext | None) -> bytes:
        """Write the header; without a client, the one for connections of the proxy itself (LOCAL, UNKNOWN)."""
        if client is None:
            return encode_proxy_v1(None, None) if self._version == "v1" else encode_proxy_v2(None, None)
        peer = client.peer
        # the path of a client's own Unix socket is not known, and most have none
        source = SockEndpoint("", 0) if peer.family == socket.AF_UNIX else SockEndpoint(peer.host, peer.port)
        if self._version == "v1":
            return encode_proxy_v1(source, client.local_address)
        return encode_proxy_v2(
            source,
            client.local_address,
            server_name=peer.sni,
            unique_id=str(client.id).encode(),
            identity=client.identity.name,
        )

    def send_nowait(self, transport: SocketTransport, client: ConnectionContext | None) -> bool:
        """Send it without waiting; return whether all of it was sent."""
        return self._version is None or (
            transport.write([self.build_header(client)]) is None and transport.read_state is None
        )

    def send(self, transport: SocketTransport, client: ConnectionContext | None, address: str) -> None:
        """Send it; the buffer of a new connection is larger than any header.

        Args:
            transport: Just connected; closed on failure.
            client: The client; None for none.
            address: Of the backend, for the log.

        Raises:
            Rejected: The backend did not accept it.
        """
        if self.send_nowait(transport, client):
            return
        transport.close()
        what = transport.error or "it accepted no more bytes"
        text = f"{address}: the connection broke before the PROXY header was sent: {what}"
        raise Rejected(Reason.BACKEND_REFUSED, text, initiator="backend")


class TcpBackendConfig(UrlBackendSection):
    """Backend over plain TCP."""

    url: BackendUrl
    """Address: `tcp://host:port`."""
    proxy_protocol: ProxyProtocolVersion | None = None
    """v1 or v2: send a PROXY header with the client's address first; the backend must be configured to expect it."""

    @property
    def needs_client_info(self) -> bool:
        """See `BackendSectionBase.needs_client_info`."""
        return self.proxy_protocol is not None


class TcpBackend:
    """See `Backend`."""

    def __init__(self, config: TcpBackendConfig, services: DialServices) -> None:
        self.name = config.url.text
        self._host = config.url.host
        self._port = config.url.port
        self._loopback: LocalAddress | None = None
        if is_loopback(config.url.host):
            self._loopback = _local(parse_ip_literal(config.url.host, config.url.port))
        self._services = services
        self._proxy_protocol = ProxyProtocolSender(config.proxy_protocol)

    def connect_nowait(self, dial_request: DialRequest) -> Connected | None:
        """See `Backend.connect_nowait`: a loopback address connects within the call."""
        chosen = dial_request.chosen
        address = self._loopback if chosen is None else self._chosen_loopback(chosen)
        if address is None:
            return None
        sock = dial_nowait(address, dial_request.chain)
        if sock is None:
            return None
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        wire = SocketTransport(sock, address.family)
        if not self._proxy_protocol.send_nowait(wire, dial_request.client):
            wire.close()
            return None
        return Connected(Side(wire), None, address.text)

    def local_address(self, chosen: ChosenTarget | None) -> LocalAddress | None:
        """See `Backend.local_address`."""
        if self._proxy_protocol.is_used:
            return None
        return self._loopback if chosen is None else self._chosen_loopback(chosen)

    def _chosen_loopback(self, chosen: ChosenTarget) -> LocalAddress | None:
        """Return the loopback address that a client chose, if it chose one and may."""
        host, port = chosen.target.host, chosen.target.port
        addresses = self._services.resolver.cached(host, port) if is_loopback(host) else None
        return None if addresses is None or chosen.check_address(addresses[0]) is not None else _local(addresses[0])

    async def dial(self, dial_request: DialRequest) -> Connected:
        """See `Backend.dial`."""
        sock = await connect_tcp(self._services, *self._host_port(dial_request), dial_request)
        wire, address = SocketTransport(sock), remote_address(sock, self.name)
        self._proxy_protocol.send(wire, dial_request.client, address)
        return Connected(Side(wire), None, address)

    def _host_port(self, dial_request: DialRequest) -> tuple[str, int]:
        """Return host and port: those of the configuration, or those that the client chose."""
        chosen = dial_request.chosen
        return (self._host, self._port) if chosen is None else (chosen.target.host, chosen.target.port)


def _local(address: Address | None) -> LocalAddress | None:
    return None if address is None else LocalAddress(address.family, address.sockaddr, str(address))


def read_fingerprint(text: str) -> str:
    """Read a SHA-256 fingerprint, in hexadecimal with or without colons; the normal form is lower case without."""
    digits = text.removeprefix("sha256:").replace(":", "").lower()
    if not re.fullmatch(r"[0-9a-f]{64}", digits):
        raise ValueError("must be a SHA-256 fingerprint: 64 hexadecimal digits, with or without colons")
    return digits


Fingerprint = Annotated[str, AfterValidator(read_fingerprint)]


class TlsClientSection(UrlBackendSection):
    """How the server of a dialed TLS connection is verified."""

    ca: FilePath | None = None
    """CA bundle (PEM) to verify the server. Default: the system trust store."""
    server_name: Host | None = None
    """Server name for SNI and certificate verification. Default: the host of the URL."""
    client_certificate: TlsCertificateConfig | None = None
    """Client certificate and key, for backends that request one (mTLS)."""
    insecure: Flag = False
    """true disables certificate verification (vulnerable to man-in-the-middle attacks)."""
    pin_sha256: Annotated[tuple[Fingerprint, ...], BeforeValidator(as_tuple), ONE_OR_MANY_SCHEMA] = ()
    """SHA-256 fingerprints of certificates, as openssl x509 -fingerprint prints them: the server must show one of them.
    Authorities and name are then verified only if ca is set."""

    def validate_values(self, context: LoadContext) -> Iterable[Issue]:
        """Check that the CA bundle can be used, and that no pin is combined with insecure."""
        yield from tls.validate_ca(self.ca, context)
        if self.insecure and self.pin_sha256:
            yield Issue(("insecure",), "contradicts pin_sha256, which verifies the certificate", "E013", at_key=True)

    def warnings(self, context: LoadContext) -> Iterable[Issue]:
        """Warn of a connection that is not verified."""
        if self.insecure:
            text = (
                "neither certificate nor name is verified: anybody on the network path can read and change everything"
            )
            yield Issue(("insecure",), text, "W002")

    def build_tls(self, services: DialServices, alpn: Sequence[str] = ()) -> ClientTls:
        """Make the TLS of the dials, which reads its files, and again when they change.

        Raises:
            TlsError: a file cannot be used.
        """
        unverified = self.insecure or (bool(self.pin_sha256) and self.ca is None)
        options = tls.ClientTlsOptions(self.ca, self.client_certificate, unverified, tuple(alpn))
        return services.tls.for_client(services.watcher, options)

    def check_pin(self, transport: EncryptedTransport, address: str) -> None:
        """Check the certificate of a server against the pins.

        Raises:
            Rejected: It is none of them.
        """
        if not self.pin_sha256:
            return
        found = hashlib.sha256(transport.peer_certificate()).hexdigest()
        if found not in self.pin_sha256:
            shown = bytes.fromhex(found).hex(":").upper()
            text = f"{address}: the certificate has the SHA-256 fingerprint {shown}, which is none of pin_sha256"
            raise Rejected(Reason.BACKEND_TLS, text, initiator="backend", permanent=True)

    def verified_name(self, host: str) -> str:
        """Return the name for SNI and verification."""
        return (self.server_name or host).strip("[]").rstrip(".")


class TlsBackendConfig(TlsClientSection):
    """Backend over TLS."""

    url: BackendUrl
    """Address: `tls://host:port`."""
    proxy_protocol: ProxyProtocolVersion | None = None
    """v1 or v2: send a PROXY header with the client's address before TLS; the backend must be configured to expect
    it."""

    @property
    def needs_client_info(self) -> bool:
        """See `BackendSectionBase.needs_client_info`."""
        return self.proxy_protocol is not None


class TlsBackend:
    """See `Backend`.

    Raises:
        TlsError: a file of the configuration cannot be used.
    """

    def __init__(self, config: TlsBackendConfig, services: DialServices) -> None:
        self.name = config.url.text
        self._host = config.url.host
        self._port = config.url.port
        self._verified_name = config.verified_name
        self._check_pin = config.check_pin
        self._tls = config.build_tls(services)
        self._services = services
        self._proxy_protocol = ProxyProtocolSender(config.proxy_protocol)

    def local_address(self, chosen: ChosenTarget | None) -> None:
        """See `Backend.local_address`."""

    def connect_nowait(self, dial_request: DialRequest) -> None:
        """See `Backend.connect_nowait`: never, since the handshake takes time."""

    async def dial(self, dial_request: DialRequest) -> Connected:
        """See `Backend.dial`."""
        chosen = dial_request.chosen
        host, port = (self._host, self._port) if chosen is None else (chosen.target.host, chosen.target.port)

        async def open_socket() -> socket.socket:
            sock = await connect_tcp(self._services, host, port, dial_request)
            self._proxy_protocol.send(SocketTransport(sock), dial_request.client, remote_address(sock, self.name))
            return sock

        sock = await open_socket()
        address = remote_address(sock, self.name)
        dial_request.progress.enter(f"TLS handshake with {address}")
        try:
            wire = await self._tls.start(sock, self._verified_name(host), open_socket)
        except OSError as error:
            raise tls_failure(address, error) from None
        if dial_request.progress.steps is not None:
            dial_request.progress.note(wire.describe())
        try:
            self._check_pin(wire, address)
        except Rejected:
            wire.abort()
            raise
        return Connected(Side(wire), None, address)


def tls_failure(address: str, error: OSError) -> Rejected:
    """Return the rejection for a TLS handshake with a backend that failed."""
    return Rejected(Reason.BACKEND_TLS, f"{address}: {tls.tls_error_text(error)}", initiator="backend")


class UnixBackendConfig(UrlBackendSection):
    """Backend on a Unix socket."""

    url: BackendUrl
    """Address: `unix:/path`."""
    proxy_protocol: ProxyProtocolVersion | None = None
    """v1 or v2: send a PROXY header with the client's address first; the backend must be configured to expect it."""

    @property
    def needs_client_info(self) -> bool:
        """See `BackendSectionBase.needs_client_info`."""
        return self.proxy_protocol is not None


class UnixBackend:
    """See `Backend`."""

    def __init__(self, config: UnixBackendConfig, services: DialServices) -> None:
        self.name = config.url.text
        self._path = config.url.path
        self._address = LocalAddress(socket.AF_UNIX, config.url.path, f"unix:{config.url.path}")
        self._proxy_protocol = ProxyProtocolSender(config.proxy_protocol)

    def connect_nowait(self, dial_request: DialRequest) -> Connected | None:
        """See `Backend.connect_nowait`: a Unix socket connects within the call; a chosen one is checked first."""
        if dial_request.chosen is not None:
            return None
        sock = dial_nowait(self._address, dial_request.chain)
        if sock is None:
            return None
        wire = SocketTransport(sock)
        if not self._proxy_protocol.send_nowait(wire, dial_request.client):
            wire.close()
            return None
        return Connected(Side(wire), None, self._address.text)

    def local_address(self, chosen: ChosenTarget | None) -> LocalAddress | None:
        """See `Backend.local_address`; a chosen path is checked first, which takes time."""
        return None if chosen is not None or self._proxy_protocol.is_used else self._address

    async def dial(self, dial_request: DialRequest) -> Connected:
        """See `Backend.dial`."""
        path = self._path if dial_request.chosen is None else await dial_request.chosen.resolve_path()
        dial_request.progress.enter(f"connecting to unix:{path}")
        wire, address = SocketTransport(await dial_unix(path, dial_request.chain)), f"unix:{path}"
        self._proxy_protocol.send(wire, dial_request.client, address)
        return Connected(Side(wire), None, address)
