"""Whence: where a client really comes from, when proxies stand between.

Lives here: whose word is taken, and the peer that it makes. Must not live here: how that word is read (`net`,
`protocol`), what follows from an address.
"""

from __future__ import annotations

import socket
from dataclasses import replace
from ipaddress import IPv6Address, ip_address
from typing import Literal

import trio

from wsbridge.config.network import AnyNetwork
from wsbridge.net.address import Peer
from wsbridge.net.networks import Networks
from wsbridge.net.proxy_protocol import read_proxy_header
from wsbridge.protocol.forwarded import Form, read_way
from wsbridge.protocol.head import BadHead, Request
from wsbridge.protocol.proxy_header import BadProxyHeader, ProxyHeader, ProxyHeaderReader
from wsbridge.reasons import End, Reason
from wsbridge.speaks.websocket import SILENT


class Whence:
    """How a listener learns the address of its clients.

    Args:
        trusted: The proxies whose word counts.
        told: How they tell it: by `proxy-protocol`, or by one of the headers of a request.
        seconds: Until a whole PROXY header is here.
        limit: Bytes that it may have.
    """

    __slots__ = ("_form", "_limit", "_seconds", "trusts")

    def __init__(
        self,
        trusted: tuple[AnyNetwork | Literal["unix"], ...],
        told: Literal["proxy-protocol"] | Form,
        seconds: float,
        limit: int,
    ) -> None:
        self._form: Form | None = None if told == "proxy-protocol" else told
        self._seconds = seconds
        self._limit = limit
        self.trusts = Networks(trusted).holds
        """Tell whether a host, empty for a Unix socket, is a trusted proxy."""

    async def of_connection(self, sock: socket.socket, peer: Peer) -> Peer | End:
        """Read the PROXY header where there must be one.

        Args:
            sock: Accepted; not a byte past the header is taken from it.
            peer: Who is at its other end.

        Returns:
            The client; the peer itself where requests tell, or where it speaks for itself; or how the connection ends.
        """
        if self._form is not None:
            return peer
        if not self.trusts(peer.host):
            return End(Reason.PROXY_HEADER, "front", f"{_shown(peer)} is none of trusted_proxies")
        reader = ProxyHeaderReader(self._limit)
        header: ProxyHeader | BadProxyHeader | None = None
        try:
            with trio.move_on_after(self._seconds) as deadline:
                header = await read_proxy_header(sock, reader)
        except OSError as error:
            what = error.strerror or error
            text = f"after {reader.got} bytes of a PROXY header: {what}" if reader.got else SILENT
            return End(Reason.CLIENT_LOST, "front", text)
        if deadline.cancelled_caught:
            text = f"no whole PROXY header within proxy_header, {self._seconds:g} s; {reader.got} bytes came"
            return End(Reason.PROXY_HEADER, "front", text)
        if header is None:
            return End(Reason.CLIENT_LOST, "front", SILENT)
        if isinstance(header, BadProxyHeader):
            return End(Reason.PROXY_HEADER, "front", header.text)
        return _introduced(peer, header)

    def of_request(self, request: Request, peer: Peer) -> Peer | End:
        """Read the header of a request by which trusted proxies tell its client.

        Args:
            request: One of the connection's requests.
            peer: Who is at the other end of the connection.

        Returns:
            The client; the peer itself where it is no trusted proxy or does not tell; or how the connection ends.
        """
        if self._form is None or not self.trusts(peer.host):
            return peer
        way = read_way(self._form, request.headers.get_all(self._form.encode()), self.trusts)
        if isinstance(way, BadHead):
            return End(Reason.BAD_REQUEST, "front", way.text, status=way.status)
        if way.client is None:
            return peer
        client = _moved(peer, way.client.host, way.client.port, (*way.proxies, _shown(peer)))
        return replace(client, sni="", certificate=None)  # the proxy's own, of its TLS with us


def _introduced(peer: Peer, header: ProxyHeader) -> Peer:
    """The client that a proxy introduces; the proxy itself where it speaks for itself."""
    if header.source is None:
        return peer
    if not header.source.host:
        return Peer("", 0, socket.AF_UNIX, via=(_shown(peer),), sni=header.server_name)
    moved = _moved(peer, header.source.host, header.source.port, (_shown(peer),))
    return replace(moved, sni=header.server_name, asked=header.destination)


def _moved(peer: Peer, host: str, port: int, via: tuple[str, ...]) -> Peer:
    """The peer as somebody at another address."""
    address = ip_address(host)
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    return replace(peer, host=str(address), port=port, family=family, pid=None, uid=None, via=via)


def _shown(peer: Peer) -> str:
    return peer.host or "unix"
