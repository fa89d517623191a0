"""TLS backends: `tls://host:port`, and the keys of the file that every dialler of TLS has.

Lives here: the sections, the class, and what a failed handshake is called. Must not live here: contexts (`net.tls`),
records (`net.bio_wire`, `net.tls_wire`).
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Sequence

from wsbridge.backends.backend import Dialled, Offer, Services, address_of, connect
from wsbridge.backends.introduction import Introduction, Version
from wsbridge.config.backend import BackendSection
from wsbridge.config.certificate import Certificate
from wsbridge.config.scalars import FilePath, Flag, Host, TargetUrl
from wsbridge.config.section import Context, Fault
from wsbridge.net import bio_wire, tls
from wsbridge.net.wire import SocketWire
from wsbridge.reasons import End, Reason
from wsbridge.relay.endpoint import RawEndpoint


class TlsClient(BackendSection):
    """How the other end of a TLS connection that we dial is verified."""

    ca: FilePath | None = None
    """PEM file of the authorities to trust. Left out: those of the system."""
    server_name: Host | None = None
    """Name to ask for (SNI) and to verify. Left out: the host of the URL."""
    client_certificate: Certificate | None = None
    """Certificate and key to show to a server that asks for one."""
    insecure: Flag = False
    """true verifies neither certificate nor name: anybody on the way can read and change everything."""

    def faults(self, context: Context) -> Iterable[Fault]:
        """Tell whether the authorities can be used."""
        yield from tls.authority_faults(self.ca, context)

    def cautions(self, context: Context) -> Iterable[Fault]:
        """Warn of a connection that is not verified."""
        if self.insecure:
            text = "neither certificate nor name is verified: anybody on the way can read and change everything"
            yield Fault(("insecure",), text, "W002")

    def context(self, alpn: Sequence[str] = ()) -> ssl.SSLContext:
        """Build the context; reads files.

        Raises:
            TlsError: a file cannot be used.
        """
        own = self.client_certificate
        return tls.client_context(
            self.ca, (own.cert, own.key) if own is not None else None, insecure=self.insecure, alpn=alpn
        )

    def name_of(self, host: str) -> str:
        """The name to ask for and to verify."""
        return (self.server_name or host).strip("[]").rstrip(".")


class TlsBackendConfig(TlsClient):
    """A server that is dialled by TLS."""

    url: TargetUrl
    """Where it is: `tls://host:port`."""
    proxy_protocol: Version | None = None
    """v1 or v2: tell the server in a PROXY header who the client is, before TLS; it must expect that."""

    @property
    def tells_client(self) -> bool:
        """See `AnyBackendSection.tells_client`."""
        return self.proxy_protocol is not None


class TlsBackend:
    """See `Backend`.

    Raises:
        TlsError: a file of the configuration cannot be used.
    """

    def __init__(self, config: TlsBackendConfig, services: Services) -> None:
        self.name = config.url.text
        self._host = config.url.host
        self._port = config.url.port
        self._name_of = config.name_of
        self._context = config.context()
        self._services = services
        self._introduction = Introduction(config.proxy_protocol)

    def at_once(self, offer: Offer) -> None:
        """See `Backend.at_once`: a handshake has to be waited for."""

    async def dial(self, offer: Offer) -> Dialled | End:
        """See `Backend.dial`."""
        chosen = offer.chosen
        host, port = (self._host, self._port) if chosen is None else (chosen.target.host, chosen.target.port)
        sock = await connect(self._services, host, port, chosen)
        if isinstance(sock, End):
            return sock
        address = address_of(sock, self.name)
        failure = self._introduction.send(SocketWire(sock), offer.client, address)
        if failure is not None:
            return failure
        try:
            wire = await bio_wire.wrap(sock, self._context, server_side=False, server_hostname=self._name_of(host))
        except OSError as error:
            return tls_end(address, error)
        return Dialled(RawEndpoint(wire), None, address)


def tls_end(address: str, error: OSError) -> End:
    """How a TLS handshake that failed is told."""
    return End(Reason.BACKEND_TLS, "back", f"{address}: {tls.failure_text(error)}")
