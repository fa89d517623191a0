"""Introduction: the PROXY header by which a backend learns who its client is, before anything else.

Lives here: making it of a client, and sending it. Must not live here: its bytes (`protocol.proxy_writer`), which
backends get one.
"""

from __future__ import annotations

import socket
from typing import Literal

from wsbridge.backends.client import Client
from wsbridge.net.wire import SocketWire
from wsbridge.protocol.proxy_header import Place
from wsbridge.protocol.proxy_writer import write_v1, write_v2
from wsbridge.reasons import End, Reason

Version = Literal["v1", "v2"]


class Introduction:
    """Introduces clients to one backend.

    Args:
        version: Which header; None introduces nobody.
    """

    __slots__ = ("_version",)

    def __init__(self, version: Version | None) -> None:
        self._version = version

    def header(self, client: Client | None) -> bytes:
        """Write the header; without a client, the one that says that nobody stands behind it."""
        if client is None:
            return write_v1(None, None) if self._version == "v1" else write_v2(None, None)
        peer = client.peer
        # the path of a client's own Unix socket is not known, and hardly any has one
        source = Place("", 0) if peer.family == socket.AF_UNIX else Place(peer.host, peer.port)
        if self._version == "v1":
            return write_v1(source, client.local)
        return write_v2(
            source,
            client.local,
            server_name=peer.sni,
            unique_id=str(client.id).encode(),
            identity=client.identity.name,
        )

    def at_once(self, wire: SocketWire, client: Client | None) -> bool:
        """Send it without waiting; tell whether all of it has gone."""
        return self._version is None or (wire.write([self.header(client)]) is None and wire.ended is None)

    def send(self, wire: SocketWire, client: Client | None, address: str) -> End | None:
        """Send it; a fresh connection has room for far more.

        Args:
            wire: Just connected. Unless all went well, it is closed.
            client: Whom to introduce.
            address: Where the backend is, for the log.

        Returns:
            Nothing; or how the connection ends.
        """
        if self.at_once(wire, client):
            return None
        wire.close()
        what = wire.error or "it took no more"
        return End(Reason.BACKEND_REFUSED, "back", f"{address}: broke off before the PROXY header had gone: {what}")
