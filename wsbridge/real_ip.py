"""Client address from trusted proxies (PROXY protocol, X-Forwarded-For, Forwarded)."""

from __future__ import annotations

import socket
from dataclasses import replace
from typing import Literal

import trio

from wsbridge.config.types import IpNetwork
from wsbridge.net.address import NetworkSet, Peer, unmap_host
from wsbridge.protocol.forwarded import NO_PUBLIC_NAME, ForwardedFormat, PublicName, parse_forwarded, parse_public_name
from wsbridge.protocol.http1 import Request
from wsbridge.protocol.proxy import ProxyHeader, ProxyHeaderParser, bad_proxy_header
from wsbridge.reasons import EMPTY_CONNECTION, Reason, Rejected
from wsbridge.taskless import need_task

PEEK_BYTES = 512
"""Bytes looked at in one go; most headers are shorter."""


async def receive_proxy_header(sock: socket.socket, parser: ProxyHeaderParser) -> ProxyHeader:
    """Read the header that a connection begins with.

    Bytes are peeked at first, and then those that belong to the header are received, so what follows stays in the
    kernel, and the socket is not readable again until more of an incomplete header has arrived.

    Args:
        sock: Accepted and non-blocking; nothing has been read from it.
        parser: A fresh one. How far it got shows what came before a deadline.

    Raises:
        Rejected: The header is invalid, or the peer closed before it was complete.
        OSError: The connection is reset.
    """
    while parser.result is None:
        try:
            seen = sock.recv(PEEK_BYTES, socket.MSG_PEEK)
        except BlockingIOError:
            await trio.lowlevel.wait_readable(sock)
            continue
        if not seen:
            if parser.consumed_bytes:
                raise bad_proxy_header(f"closed after {parser.consumed_bytes} bytes of a PROXY header")
            raise Rejected(Reason.CLIENT_LOST, EMPTY_CONNECTION)
        taken = parser.feed(seen)
        if taken:
            sock.recv(taken)
    return parser.result


class ClientAddressResolver:
    """Reads the addresses of the clients of a listener behind proxies.

    Args:
        trusted_proxies: The proxies that are trusted to report addresses.
        source: How they report them: by `proxy-protocol`, or by one of the headers of a request.
        header_timeout: Seconds within which a complete PROXY header must be received.
        max_header_bytes: Its maximum size.
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
        """Whether a host, empty for a Unix socket, is a trusted proxy."""

    def came_by_proxy(self, peer: Peer) -> bool:
        """Return whether a connection comes from a trusted proxy.

        Args:
            peer: The other end of the connection; with the PROXY protocol, all others are rejected.
        """
        return self._header_format is None or self.is_trusted(peer.host)

    def without_proxy_tls(self, peer: Peer) -> Peer:
        """Drop what a trusted proxy showed in its own TLS handshake: it would authenticate all of its clients.

        Args:
            peer: The client, or a trusted proxy whose requests report their clients, or do not.
        """
        if peer.certificate is None and not peer.sni:
            return peer
        return replace(peer, sni="", certificate=None) if self.is_trusted(peer.host) else peer

    async def from_connection(self, sock: socket.socket, peer: Peer) -> Peer:
        """Read the PROXY header where there must be one.

        Args:
            sock: Accepted; no byte after the header is received from it.
            peer: Its other end.

        Returns:
            The client; the peer itself where requests report the address, or the header is of the proxy itself (LOCAL
            or UNKNOWN).

        Raises:
            Rejected: The peer is not a trusted proxy, or no valid header arrived in time.
        """
        if self._header_format is not None:
            return peer
        if not self.is_trusted(peer.host):
            raise bad_proxy_header(f"{_host_text(peer)} is not in trusted_proxies")
        parser = ProxyHeaderParser(self._max_header_bytes)
        await need_task()
        try:
            with trio.move_on_after(self._header_timeout):
                return _peer_from_proxy_header(peer, await receive_proxy_header(sock, parser))
        except OSError as error:
            if not parser.consumed_bytes:
                raise Rejected(Reason.CLIENT_LOST, EMPTY_CONNECTION) from None
            text = f"after {parser.consumed_bytes} bytes of a PROXY header: {error.strerror or error}"
            raise Rejected(Reason.CLIENT_LOST, text) from None
        text = f"no complete PROXY header within proxy_header, {self._header_timeout:g} s"
        raise bad_proxy_header(f"{text}; {parser.consumed_bytes} bytes received")

    def from_request(self, request: Request, peer: Peer) -> Peer:
        """Read the client's address from the header that trusted proxies add to a request.

        Args:
            request: One of the connection's requests.
            peer: The other end of the connection, without what it presented if it is a proxy (`without_proxy_tls`).

        Returns:
            The client; the peer itself where it is not a trusted proxy, or the header reports no address.

        Raises:
            Rejected: The header cannot be read.
        """
        if self._header_format is None or not self.is_trusted(peer.host):
            return peer
        chain = parse_forwarded(
            self._header_format, request.headers.get_all(self._header_format.encode()), self.is_trusted
        )
        if chain.client is None:
            return peer
        return _with_address(peer, chain.client.host, chain.client.port, (*chain.proxies, _host_text(peer)))

    def public_name(self, request: Request, peer: Peer) -> PublicName:
        """Read the host and scheme that a trusted proxy reports of a request.

        Args:
            request: One of the connection's requests.
            peer: The other end of the connection.

        Raises:
            Rejected: A header cannot be read.
        """
        if self._header_format is None or not self.is_trusted(peer.host):
            return NO_PUBLIC_NAME
        return parse_public_name(self._header_format, request.headers.get_all, self.is_trusted)


def _peer_from_proxy_header(peer: Peer, header: ProxyHeader) -> Peer:
    """Return the client that a header reports; the proxy itself where the header is LOCAL or UNKNOWN."""
    if header.source is None:
        return peer
    if not header.source.host:
        return Peer("", 0, socket.AF_UNIX, via=(_host_text(peer),), sni=header.server_name)
    moved = _with_address(peer, header.source.host, header.source.port, (_host_text(peer),))
    destination = header.destination
    if destination is not None:
        destination = replace(destination, host=unmap_host(destination.host))
    return replace(moved, sni=header.server_name, destination=destination)


def _with_address(peer: Peer, host: str, port: int, via: tuple[str, ...]) -> Peer:
    """Return the peer with another address."""
    host = unmap_host(host)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return replace(peer, host=host, port=port, family=family, pid=None, uid=None, via=via)


def _host_text(peer: Peer) -> str:
    return peer.host or "unix"
