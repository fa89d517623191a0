"""Unix backends: `unix:/path`.

Lives here: the section and the class. Must not live here: how a socket file is reached (`net.dial`).
"""

from __future__ import annotations

import socket

from wsbridge.backends.backend import Dialled, Offer, Services
from wsbridge.backends.introduction import Introduction, Version
from wsbridge.config.backend import BackendSection
from wsbridge.config.scalars import TargetUrl
from wsbridge.net.dial import DialFailure, dial_at_once, dial_unix
from wsbridge.net.wire import SocketWire
from wsbridge.reasons import End
from wsbridge.relay.endpoint import RawEndpoint


class UnixBackendConfig(BackendSection):
    """A server on this machine that listens at a socket file."""

    url: TargetUrl
    """Where it is: `unix:/path`."""
    proxy_protocol: Version | None = None
    """v1 or v2: tell the server in a PROXY header who the client is, before anything else; it must expect that."""

    @property
    def tells_client(self) -> bool:
        """See `AnyBackendSection.tells_client`."""
        return self.proxy_protocol is not None


class UnixBackend:
    """See `Backend`."""

    def __init__(self, config: UnixBackendConfig, services: Services) -> None:
        self.name = config.url.text
        self._path = config.url.path
        self._introduction = Introduction(config.proxy_protocol)

    def at_once(self, offer: Offer) -> Dialled | None:
        """See `Backend.at_once`: a Unix socket connects within the call; a chosen one is looked at before."""
        if offer.chosen is not None:
            return None
        sock = dial_at_once(socket.AF_UNIX, self._path)
        if sock is None:
            return None
        wire = SocketWire(sock)
        if not self._introduction.at_once(wire, offer.client):
            wire.close()
            return None
        return Dialled(RawEndpoint(wire), None, f"unix:{self._path}")

    async def dial(self, offer: Offer) -> Dialled | End:
        """See `Backend.dial`."""
        path = self._path if offer.chosen is None else await offer.chosen.path()
        if isinstance(path, End):
            return path
        sock = await dial_unix(path)
        if isinstance(sock, DialFailure):
            return sock.end()
        wire, address = SocketWire(sock), f"unix:{path}"
        failure = self._introduction.send(wire, offer.client, address)
        return failure or Dialled(RawEndpoint(wire), None, address)
