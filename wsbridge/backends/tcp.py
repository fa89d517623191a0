"""TCP backends: `tcp://host:port`.

Lives here: the section and the class. Must not live here: how an address is reached (`net.dial`).
"""

from __future__ import annotations

import socket

from wsbridge.backends.backend import Dialled, Offer, Services, address_of, connect
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


class TcpBackend:
    """See `Backend`."""

    def __init__(self, config: TcpBackendConfig, services: Services) -> None:
        self.name = config.url.text
        self._host = config.url.host
        self._port = config.url.port
        self._services = services

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
        return Dialled(RawEndpoint(SocketWire(sock)), None, str(addresses[0]))

    async def dial(self, offer: Offer) -> Dialled | End:
        """See `Backend.dial`."""
        sock = await connect(self._services, *self._place(offer), offer.chosen)
        if isinstance(sock, End):
            return sock
        return Dialled(RawEndpoint(SocketWire(sock)), None, address_of(sock, self.name))

    def _place(self, offer: Offer) -> tuple[str, int]:
        """Host and port: those of the configuration, or those that the client chose."""
        chosen = offer.chosen
        return (self._host, self._port) if chosen is None else (chosen.target.host, chosen.target.port)
