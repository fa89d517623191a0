"""Client address from trusted proxies (PROXY protocol, X-Forwarded-For, Forwarded)."""

from __future__ import annotations

import socket
from dataclasses import replace
from ipaddress import IPv6Address, ip_address
from typing import Literal

import trio

from wsbridge.config.types import IpNetwork
from wsbridge.frontend import EMPTY_CONNECTION
from wsbridge.net.address import NetworkSet, Peer
from wsbridge.protocol.forwarded import ForwardedFormat, parse_forwarded
from wsbridge.protocol.http1 import HttpError, Request
from wsbridge.protocol.proxy import ProxyHeader, ProxyHeaderError, ProxyHeaderParser
from wsbridge.reasons import Reason, Termination

PEEK_BYTES = 512
"""Bytes looked at in one go; most headers are shorter."""


async def receive_proxy_header(sock: socket.socket, parser: ProxyHeaderParser) -> ProxyHeader | ProxyHeaderError | None:
    """Read the header that a connection begins with.

    Bytes are looked at first, and then those that belong to the header are received, so what follows stays in the
    kernel, and a header that is not whole yet wakes nobody until more of it comes.

    Args:
        sock: Accepted and non-blocking; nothing has been read from it.
        parser: A fresh one. How far it got tells what came before a deadline.

    Returns:
        The header or what is wrong with it; None if the peer closed before its first byte.

    Raises:
        OSError: The connection is reset.
    """
    while parser.result is None:
        try:
            seen = sock.recv(PEEK_BYTES, socket.MSG_PEEK)
        except BlockingIOError:
            await trio.lowlevel.wait_readable(sock)
            continue
        if not seen:
            return (
                ProxyHeaderError(f"closed after {parser.consumed_bytes} bytes of a PROXY header")
                if parser.consumed_bytes
                else None
            )
        taken = parser.feed(seen)
        if taken:
            sock.recv(taken)
    return parser.result


class ClientAddressResolver:
    """How a listener learns the address of its clients.

    Args:
        trusted: The proxies whose word counts.
        told: How they tell it: by `proxy-protocol`, or by one of the headers of a request.
        seconds: Until a whole PROXY header is here.
        limit: Bytes that it may have.
    """

    __slots__ = ("_header_format", "_header_timeout", "_max_header_bytes", "is_trusted")

    def __init__(
        self,
        trusted_proxies: tuple[IpNetwork | Literal["unix"], ...],
        source: Literal["proxy-protocol"] | ForwardedFormat,
        header_timeout: float,
        max_header_bytes: int,
    ) -> None:
        self._header_format: ForwardedFormat | None = None if source == "proxy-protocol" else source
        self._header_timeout = header_timeout
        self._max_header_bytes = max_header_bytes
        self.is_trusted = NetworkSet(trusted_proxies).contains
        """Tell whether a host, empty for a Unix socket, is a trusted proxy."""

    def came_by_proxy(self, peer: Peer) -> bool:
        """Return whether a connection comes from a trusted proxy.

        Args:
            peer: The other end of the connection; where the PROXY protocol is spoken, nobody else is accepted.
        """
        return self._header_format is None or self.is_trusted(peer.host)

    async def from_connection(self, sock: socket.socket, peer: Peer) -> Peer | Termination:
        """Read the PROXY header where there must be one.

        Args:
            sock: Accepted; not a byte past the header is taken from it.
            peer: Who is at its other end.

        Returns:
            The client; the peer itself where requests tell, or where it speaks for itself; or how the connection ends.
        """
        if self._header_format is not None:
            return peer
        if not self.is_trusted(peer.host):
            return Termination(Reason.BAD_PROXY_HEADER, "client", f"{_host_text(peer)} is none of trusted_proxies")
        reader = ProxyHeaderParser(self._max_header_bytes)
        header: ProxyHeader | ProxyHeaderError | None = None
        try:
            with trio.move_on_after(self._header_timeout) as deadline:
                header = await receive_proxy_header(sock, reader)
        except OSError as error:
            what = error.strerror or error
            text = (
                f"after {reader.consumed_bytes} bytes of a PROXY header: {what}"
                if reader.consumed_bytes
                else EMPTY_CONNECTION
            )
            return Termination(Reason.CLIENT_LOST, "client", text)
        if deadline.cancelled_caught:
            text = (
                f"no whole PROXY header within proxy_header, {self._header_timeout:g} s; "
                f"{reader.consumed_bytes} bytes came"
            )
            return Termination(Reason.BAD_PROXY_HEADER, "client", text)
        if header is None:
            return Termination(Reason.CLIENT_LOST, "client", EMPTY_CONNECTION)
        if isinstance(header, ProxyHeaderError):
            return Termination(Reason.BAD_PROXY_HEADER, "client", header.detail)
        return _peer_from_proxy_header(peer, header)

    def from_request(self, request: Request, peer: Peer) -> Peer | Termination:
        """Read the header of a request by which trusted proxies tell its client.

        Args:
            request: One of the connection's requests.
            peer: Who is at the other end of the connection.

        Returns:
            The client; the peer itself where it is no trusted proxy or does not tell; or how the connection ends.
        """
        if self._header_format is None or not self.is_trusted(peer.host):
            return peer
        way = parse_forwarded(
            self._header_format, request.headers.get_all(self._header_format.encode()), self.is_trusted
        )
        if isinstance(way, HttpError):
            return Termination(Reason.BAD_REQUEST, "client", way.detail, status=way.status)
        if way.client is None:
            return peer
        client = _with_address(peer, way.client.host, way.client.port, (*way.proxies, _host_text(peer)))
        return replace(client, sni="", certificate=None)  # the proxy's own, of its TLS with us


def _peer_from_proxy_header(peer: Peer, header: ProxyHeader) -> Peer:
    """The client that a proxy introduces; the proxy itself where it speaks for itself."""
    if header.source is None:
        return peer
    if not header.source.host:
        return Peer("", 0, socket.AF_UNIX, via=(_host_text(peer),), sni=header.server_name)
    moved = _with_address(peer, header.source.host, header.source.port, (_host_text(peer),))
    return replace(moved, sni=header.server_name, destination=header.destination)


def _with_address(peer: Peer, host: str, port: int, via: tuple[str, ...]) -> Peer:
    """The peer as somebody at another address."""
    address = ip_address(host)
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    return replace(peer, host=str(address), port=port, family=family, pid=None, uid=None, via=via)


def _host_text(peer: Peer) -> str:
    return peer.host or "unix"
