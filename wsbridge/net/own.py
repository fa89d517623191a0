"""Our own listeners: whether an address leads back to this process.

Lives here: what is listened at, and the question. Must not live here: opening listeners (`listeners`), what follows
from the answer.
"""

from __future__ import annotations

import os
import socket
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from wsbridge.net.address import Address, is_loopback


class OwnListeners:
    """All sockets that this process listens at; filled as they are opened."""

    def __init__(self) -> None:
        self._bound: dict[int, list[tuple[IPv4Address | IPv6Address, bool]]] = {}
        self._paths: list[str] = []

    def add(self, sock: socket.socket) -> None:
        """Note a listening socket."""
        name = sock.getsockname()
        if sock.family == socket.AF_UNIX:
            self._paths.append(name if isinstance(name, str) else os.fsdecode(name))
            return
        both = sock.family == socket.AF_INET6 and not sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
        self._bound.setdefault(name[1], []).append((_plain(name[0]), both))

    def holds(self, address: Address) -> bool:
        """Tell whether connecting to an address would come back here, also where a listener takes all addresses."""
        bound = self._bound.get(address.sockaddr[1])
        if bound is None:
            return False
        ip = _plain(address.sockaddr[0])
        for own, both in bound:
            if ip == own or ip.is_unspecified:
                return True
            if own.is_unspecified and (own.version == ip.version or both) and _is_local(address, ip):
                return True
        return False

    def holds_path(self, path: str) -> bool:
        """Tell whether a socket file is one of ours, by whatever name; asks the file system."""
        return any(_same_file(path, own) for own in self._paths)


def _plain(host: str) -> IPv4Address | IPv6Address:
    """The address without a zone; IPv4 within IPv6 as IPv4."""
    ip = ip_address(host.partition("%")[0])
    return ip.ipv4_mapped or ip if isinstance(ip, IPv6Address) else ip


def _same_file(path: str, own: str) -> bool:
    try:
        return Path(path).samefile(own)
    except OSError:  # one of them is not there
        return path == own


def _is_local(address: Address, ip: IPv4Address | IPv6Address) -> bool:
    """Tell whether an address is one of this host: the kernel binds to no other."""
    if is_loopback(str(ip)):
        return True
    try:
        with socket.socket(address.family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.bind((*address.sockaddr[:1], 0, *address.sockaddr[2:]))
    except OSError:
        return False
    return True
