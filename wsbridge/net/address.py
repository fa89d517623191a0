"""Addresses: where a socket may be dialled (Address) and who is at its other end (Peer).

Lives here: plain values and their text form. Must not live here: anything that opens a socket or asks the DNS.
Addresses come from `resolve` and go to `dial`; peers come from accepted sockets and go to admission and the log.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from wsbridge.protocol.proxy_header import Place

SockAddr = tuple[str, int] | tuple[str, int, int, int]

Certificate = Mapping[str, object]
"""A certificate as `ssl.SSLSocket.getpeercert` tells it."""

_CREDENTIALS = struct.Struct("3i")


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
        return host_port(self.sockaddr[0], self.sockaddr[1])


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of an accepted socket.

    Attributes:
        host: IP address as text; empty on a Unix socket.
        port: Port of the peer; 0 on a Unix socket.
        family: `socket.AF_INET`, `AF_INET6` or `AF_UNIX`. An IPv4 peer of a dual-stack listener is told as IPv4.
        pid: Process at the other end of a Unix socket when it connected, if known.
        uid: User at the other end of a Unix socket when it connected, if known.
        via: Hosts of the proxies that passed it on and are trusted, nearest last; `unix` for one on a Unix socket.
        sni: The name that it asked for by TLS, where that is known; else empty.
        asked: Where it connected to, if a proxy has told; None for the listener's own address.
        certificate: What it showed in the TLS handshake, verified; None for none.
    """

    host: str
    port: int
    family: int
    pid: int | None = None
    uid: int | None = None
    via: tuple[str, ...] = ()
    sni: str = ""
    asked: Place | None = None
    certificate: Certificate | None = field(default=None, compare=False, hash=False, repr=False)

    @classmethod
    def of(cls, sock: socket.socket, sockaddr: object = None) -> Peer:
        """Peer of a connected socket.

        Args:
            sock: The socket.
            sockaddr: What `accept` gave, which saves a system call; None asks the kernel.

        Raises:
            OSError: the peer has already gone (ENOTCONN).
        """
        if sock.family == socket.AF_UNIX:
            pid, uid, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
            return cls("", 0, socket.AF_UNIX, pid or None, uid if pid else None)
        found = sockaddr if isinstance(sockaddr, tuple) else sock.getpeername()
        host: str = found[0]
        if host.startswith("::ffff:") and "." in host:
            return cls(host[7:], found[1], socket.AF_INET)
        return cls(host, found[1], sock.family)

    @property
    def is_loopback(self) -> bool:
        """Whether the peer is on this machine: 127.0.0.0/8, ::1 or a Unix socket."""
        return self.family == socket.AF_UNIX or is_loopback(self.host)

    def __str__(self) -> str:
        if self.family != socket.AF_UNIX:
            return host_port(self.host, self.port)
        return "unix:" if self.pid is None else f"unix:pid={self.pid},uid={self.uid}"


def host_port(host: str, port: int) -> str:
    """Text form of a host and a port: `192.0.2.1:80`, `[2001:db8::1]:80`, `example.org:80`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether a literal IP address is a loopback address."""
    return host == "::1" or host.startswith(("127.", "::ffff:127."))


def plain(sockaddr: tuple[Any, ...]) -> SockAddr:
    """An IPv4 or IPv6 address as `getaddrinfo` or `getsockname` gives it, with its type known."""
    return (sockaddr[0], sockaddr[1]) if len(sockaddr) == 2 else (sockaddr[0], sockaddr[1], sockaddr[2], sockaddr[3])


def local_place(fd: int) -> Place:
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
    return Place("", 0, os.fsencode(name)) if unix else Place(name[0], name[1])


def local_name(sock: socket.socket) -> str:
    """Text form of the address that a socket is bound to: `127.0.0.1:8080`, `unix:/run/x.sock`."""
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return f"unix:{name if isinstance(name, str) else ''}"
    return host_port(name[0], name[1])
