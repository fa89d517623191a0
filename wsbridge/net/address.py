"""Address, Peer, NetworkSet, own listening addresses."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from pathlib import Path
from typing import Any, Literal

from wsbridge.config.local_address import is_local_ip
from wsbridge.protocol.ip import unmap
from wsbridge.protocol.proxy import SockEndpoint

SockAddr = tuple[str, int] | tuple[str, int, int, int]

PeerCertificate = Mapping[str, object]
"""A certificate as returned by `ssl.SSLSocket.getpeercert`."""

_UCRED = struct.Struct("iII")  # signed process ID, unsigned user and group ID


@dataclass(frozen=True, slots=True)
class Address:
    """One address that a socket can be connected or bound to.

    Attributes:
        family: `socket.AF_INET` or `socket.AF_INET6`.
        sockaddr: What `socket.connect` takes.
    """

    family: int
    sockaddr: SockAddr

    def __str__(self) -> str:
        return join_host_port(self.sockaddr[0], self.sockaddr[1])


@dataclass(frozen=True, slots=True)
class LocalAddress:
    """Where a server on this machine accepts connections, so that connecting takes no waiting.

    Attributes:
        family: `socket.AF_UNIX`, or the family of a loopback address.
        sockaddr: What `socket.connect` takes.
        text: For the log.
    """

    family: int
    sockaddr: SockAddr | str
    text: str


@dataclass(slots=True, unsafe_hash=True)  # not frozen, which would take four times as long for every connection
class Peer:
    """Who is at the other end of an accepted socket.

    Attributes:
        host: IP address as text; empty on a Unix socket.
        port: Port of the peer; 0 on a Unix socket.
        family: `socket.AF_INET`, `AF_INET6` or `AF_UNIX`. An IPv4 peer of a dual-stack listener appears as IPv4.
        pid: Process at the other end of a Unix socket when it connected, if known.
        uid: User at the other end of a Unix socket when it connected, if known.
        via: Hosts of the proxies that passed it on and are trusted, nearest last; `unix` for one on a Unix socket.
        sni: The name that it asked for by TLS, where that is known; else empty.
        destination: Where it connected to, if a proxy has passed it; None for the listener's own address.
        certificate: What it showed in the TLS handshake, verified; None for none.
    """

    host: str
    port: int
    family: int
    pid: int | None = None
    uid: int | None = None
    via: tuple[str, ...] = ()
    sni: str = ""
    destination: SockEndpoint | None = None
    certificate: PeerCertificate | None = field(default=None, compare=False, hash=False, repr=False)

    @classmethod
    def from_socket(cls, sock: socket.socket, sockaddr: object = None) -> Peer:
        """Peer of a connected socket.

        Args:
            sock: The socket.
            sockaddr: What `accept` gave, which saves a system call; None asks the kernel.

        Raises:
            OSError: the peer has already gone (ENOTCONN).
        """
        if not isinstance(sockaddr, tuple) and sock.family == socket.AF_UNIX:
            pid, uid = peer_credentials(sock)
            return cls("", 0, socket.AF_UNIX, pid or None, uid if pid else None)
        found = sockaddr if isinstance(sockaddr, tuple) else sock.getpeername()
        host = unmap_host(found[0])
        return cls(host, found[1], socket.AF_INET6 if ":" in host else socket.AF_INET)

    @property
    def is_loopback(self) -> bool:
        """Whether the peer is on this machine: 127.0.0.0/8, ::1 or a Unix socket."""
        return self.family == socket.AF_UNIX or is_loopback(self.host)

    def __str__(self) -> str:
        if self.family == socket.AF_INET:
            return f"{self.host}:{self.port}"
        if self.family != socket.AF_UNIX:
            return join_host_port(self.host, self.port)
        return "unix:" if self.pid is None else f"unix:pid={self.pid},uid={self.uid}"


def peer_credentials(sock: socket.socket) -> tuple[int, int]:
    """Return process ID and user ID of the peer of a Unix socket when it connected (SO_PEERCRED, unix(7)).

    The process ID is 0 where the peer is in another PID namespace.

    Raises:
        OSError: The peer has already gone.
    """
    pid, uid, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return pid, uid


def join_host_port(host: str, port: int) -> str:
    """Text form of a host and a port: `192.0.2.1:80`, `[2001:db8::1]:80`, `example.org:80`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def unmap_host(host: str) -> str:
    """Return the IPv4 address of an IPv4-mapped IPv6 address, as the system writes it; others as they are."""
    return str(unmap(ip_address(host))) if host.startswith("::ffff:") else host


def is_loopback(host: str) -> bool:
    """Whether a literal IP address is a loopback address, of IPv4 within IPv6 too; False for a name."""
    if host.startswith("127."):
        return host.replace(".", "").isdigit()  # 127.example.org is a name
    if host == "::1":
        return True
    return host.startswith("::ffff:") and unmap(ip_address(host)).is_loopback


def to_sockaddr(sockaddr: tuple[Any, ...]) -> SockAddr:
    """An IPv4 or IPv6 address as `getaddrinfo` or `getsockname` gives it, with its type known."""
    return (sockaddr[0], sockaddr[1]) if len(sockaddr) == 2 else (sockaddr[0], sockaddr[1], sockaddr[2], sockaddr[3])


def local_endpoint(fd: int) -> SockEndpoint:
    """Where an open socket is bound to.

    Raises:
        OSError: It is none any more.
    """
    sock = socket.socket(fileno=fd)
    try:
        name = sock.getsockname()
        unix = sock.family == socket.AF_UNIX
    finally:
        sock.detach()
    return SockEndpoint("", 0, os.fsencode(name)) if unix else SockEndpoint(unmap_host(name[0]), name[1])


def local_address(sock: socket.socket) -> str:
    """Text form of the address that a socket is bound to: `127.0.0.1:8080`, `unix:/run/x.sock`."""
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return f"unix:{name if isinstance(name, str) else ''}"
    return join_host_port(name[0], name[1])


NETWORK_CACHE_SIZE = 4096
"""Addresses whose answer is kept, for each set of networks."""


class NetworkSet:
    """A set of ranges.

    Args:
        members: Ranges; `unix` matches peers of Unix sockets, whose host is empty.
    """

    __slots__ = ("_members", "_unix", "contains")

    def __init__(self, members: Iterable[IPv4Network | IPv6Network | Literal["unix"]]) -> None:
        members = list(members)
        self._unix = "unix" in members
        self._members = [member for member in members if not isinstance(member, str)]
        self.contains = lru_cache(maxsize=NETWORK_CACHE_SIZE)(self._contains)
        """Return whether a host, an address as text or empty for a Unix socket, is in one of the ranges."""

    def _contains(self, host: str) -> bool:
        if not host:
            return self._unix
        try:
            address = unmap(ip_address(host.partition("%")[0]))
        except ValueError:
            return False
        return any(address in member for member in self._members)


class ListeningAddresses:
    """All sockets that this process listens at; filled as they are opened.

    Attributes:
        ports: Of those over TCP.
        paths: Of those that are Unix sockets.
    """

    def __init__(self) -> None:
        self._bound: dict[int, list[tuple[IPv4Address | IPv6Address, bool]]] = {}
        self.ports: Collection[int] = self._bound.keys()
        self.paths: list[str] = []

    def add(self, sock: socket.socket) -> None:
        """Note a listening socket."""
        if sock.family == socket.AF_UNIX:
            self.paths.append(_socket_path(sock))
        else:
            port, bound = _bound_address(sock)
            self._bound.setdefault(port, []).append(bound)

    def remove(self, sock: socket.socket) -> None:
        """Forget a listening socket before it is closed."""
        if sock.family == socket.AF_UNIX:
            self.paths.remove(_socket_path(sock))
        else:
            port, bound = _bound_address(sock)
            self._bound[port].remove(bound)

    def contains(self, address: Address) -> bool:
        """Return whether connecting to an address leads to this process, also by a listener on a wildcard address."""
        bound = self._bound.get(address.sockaddr[1])
        if bound is None:
            return False
        ip = _normalize_ip(address.sockaddr[0])
        for own, both in bound:
            if ip == own or ip.is_unspecified:
                return True
            if own.is_unspecified and (own.version == ip.version or both) and is_local_address(address):
                return True
        return False

    def contains_path(self, path: str) -> bool:
        """Return whether a socket file is one of ours, by whatever name; asks the file system."""
        return any(_same_file(path, own) for own in self.paths)


def _socket_path(sock: socket.socket) -> str:
    name = sock.getsockname()
    return name if isinstance(name, str) else os.fsdecode(name)


def _bound_address(sock: socket.socket) -> tuple[int, tuple[IPv4Address | IPv6Address, bool]]:
    """The port of a socket, its address, and whether that takes IPv4 as well as IPv6."""
    name = sock.getsockname()
    both = sock.family == socket.AF_INET6 and not sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    return name[1], (_normalize_ip(name[0]), both)


def _normalize_ip(host: str) -> IPv4Address | IPv6Address:
    """The address without a zone; IPv4 within IPv6 as IPv4."""
    return unmap(ip_address(host.partition("%")[0]))


def _same_file(path: str, listening_path: str) -> bool:
    try:
        return Path(path).samefile(listening_path)
    except (OSError, ValueError):  # one of them is not there, or is in the abstract namespace
        return path == listening_path


def is_local_address(address: Address) -> bool:
    """Return whether an address is one of this host, by whatever interface or local route."""
    host, _, *flow_and_scope = address.sockaddr
    return is_loopback(host) or is_local_ip(host, *flow_and_scope)
