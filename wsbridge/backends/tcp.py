"""TCP backends: `tcp://host:port`.

Lives here: the section and the class. Must not live here: how an address is reached (`net.dial`).
"""

from __future__ import annotations

import socket

from wsbridge.backends.backend import Dialled, Offer, Services, address_of, connect
from wsbridge.backends.introduction import Introduction, Version
from wsbridge.config.backend import BackendSection
from wsbridge.config.scalars import TargetUrl
from wsbridge.net.address import is_loopback
from wsbridge.net.dial import dial_at_once
from wsbridge.net.wire import SocketWire
from wsbridge.reasons import End
from wsbridge.relay.endpoint import RawEndpoint


class TcpBackendConfig(BackendSection):
    """A server that is dialled by TCP."""

    url: TargetUrl
    """Where it is: `tcp://host:port`."""
    proxy_protocol: Version | None = None
    """v1 or v2: tell the server in a PROXY header who the client is, before anything else; it must expect that."""

    @property
    def tells_client(self) -> bool:
        """See `AnyBackendSection.tells_client`."""
        return self.proxy_protocol is not None


class TcpBackend:
    """See `Backend`."""

    def __init__(self, config: TcpBackendConfig, services: Services) -> None:
        self.name = config.url.text
        self._host = config.url.host
        self._port = config.url.port
        self._services = services
        self._introduction = Introduction(config.proxy_protocol)

    def at_once(self, offer: Offer) -> Dialled | None:
        """See `Backend.at_once`: a loopback address connects within the call."""
        host, port = self._place(offer)
        addresses = self._services.resolver.cached(host, port)
        if addresses is None or not is_loopback(host):
            return None
        if offer.chosen is not None and offer.chosen.why_not(addresses[0]) is not None:
            return None
        sock = dial_at_once(addresses[0].family, addresses[0].sockaddr)
        if sock is None:
            return None
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        wire = SocketWire(sock)
        if not self._introduction.at_once(wire, offer.client):
            wire.close()
            return None
        return Dialled(RawEndpoint(wire), None, str(addresses[0]))

    async def dial(self, offer: Offer) -> Dialled | End:
        """See `Backend.dial`."""
        sock = await connect(self._services, *self._place(offer), offer.chosen)
        if isinstance(sock, End):
            return sock
        wire, address = SocketWire(sock), address_of(sock, self.name)
        failure = self._introduction.send(wire, offer.client, address)
        return failure or Dialled(RawEndpoint(wire), None, address)

    def _place(self, offer: Offer) -> tuple[str, int]:
        """Host and port: those of the configuration, or those that the client chose."""
        chosen = offer.chosen
        return (self._host, self._port) if chosen is None else (chosen.target.host, chosen.target.port)
