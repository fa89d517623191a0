"""Loop detection: which routes of this process a connection has come through.

```
client ─► listener a ─► route A ─► dial ─► listener b ─► route B ─► dial ─► listener a ─► route A: loop_detected
                          └── route A's mark, by the address of the dialing socket or by Via ──┘
```

Each route has a random mark. A connection to an own listener is recognized at accept by the address of the dialing
socket; one that went through another proxy, as a WebSocket, by the marks in its Via header (RFC 9110 section 7.6.3).
"""

from __future__ import annotations

import contextlib
import errno
import re
import secrets
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from wsbridge.net.address import Address, ListeningAddresses, SockAddr
from wsbridge.reasons import Reason, Rejected

MAX_HOPS: Final = 16
"""Routes, of this and other processes, that one connection may pass through."""

_VIA_ENTRY: Final = re.compile(rb"1\.1 wsbridge-([0-9a-f]{16})")


def new_route_mark() -> str:
    """Return a mark for a route: random, so that it says nothing to the servers that receive it."""
    return secrets.token_hex(8)


def marks_in_via(values: Iterable[bytes]) -> tuple[str, ...]:
    """Read the marks in the lines of a Via header, oldest first; entries of other proxies are left out."""
    entries = (entry.strip(b" \t") for value in values for entry in value.split(b","))
    return tuple(found[1].decode("ascii") for entry in entries if (found := _VIA_ENTRY.fullmatch(entry)))


def via_header(marks: Iterable[str]) -> str:
    """Write the value of a Via header for a chain of routes."""
    return ", ".join(f"1.1 wsbridge-{mark}" for mark in marks)


def loop_rejection(chain: tuple[str, ...], mark: str, route: str) -> Rejected:
    """Return the rejection of a connection whose chain must not be extended.

    Args:
        chain: Marks of the routes that the connection came through.
        mark: That of its own route.
        route: The name of that, for the log.
    """
    if mark in chain:
        text = f"the connection came through the route {route} before: its backend leads back to wsbridge itself"
    else:
        text = f"the connection came through {len(chain)} routes of wsbridge, and {MAX_HOPS} are the most"
    return Rejected(Reason.LOOP_DETECTED, text, initiator="wsbridge")


class OwnConnections:
    """The connections that this process is opening to its own listeners.

    Args:
        listening_addresses: What this process listens at.

    Attributes:
        ports: The ports of its listeners.
        paths: The Unix sockets of its listeners.
        chains: The chain of each connection that was not accepted yet, by the address of the dialing socket.
    """

    def __init__(self, listening_addresses: ListeningAddresses) -> None:
        self._listening_addresses = listening_addresses
        self.ports = listening_addresses.ports
        self.paths = listening_addresses.paths
        self.chains: dict[object, tuple[str, ...]] = {}

    def take(self, sockaddr: object) -> tuple[str, ...]:
        """Return the chain of an accepted connection; empty for one that came from elsewhere.

        Args:
            sockaddr: The address of its peer, as `accept` returned it.
        """
        return self.chains.pop(_key(sockaddr), ())

    def is_own_listener(self, family: int, sockaddr: SockAddr | str) -> bool:
        """Return whether connecting to an address leads to a listener of this process."""
        if isinstance(sockaddr, str):
            return self._listening_addresses.contains_path(sockaddr)
        return self._listening_addresses.contains(Address(family, sockaddr))


@dataclass(slots=True, eq=False)
class OutgoingChain:
    """The routes that one connection has come through, as its dials pass them on.

    Attributes:
        own: The connections of this process to itself.
        marks: The marks of the routes, that of the dialing route last.
        noted: Addresses of the sockets that were dialed to own listeners.
    """

    own: OwnConnections
    marks: tuple[str, ...]
    noted: tuple[object, ...] = ()

    def may_lead_here(self, sockaddr: SockAddr | str) -> bool:
        """Return whether an address may be that of an own listener, so that `connect` has to know of it."""
        return bool(self.own.paths) if isinstance(sockaddr, str) else sockaddr[1] in self.own.ports

    def connect(self, sock: socket.socket, sockaddr: SockAddr | str) -> int:
        """Start to connect a socket as `socket.connect_ex` does, and note its chain if that leads to an own listener.

        The address of the socket is known as soon as it connects, and the connection may be accepted at any time after.
        """
        if not self.own.is_own_listener(sock.family, sockaddr):
            return sock.connect_ex(sockaddr)
        if sock.family == socket.AF_UNIX:
            with contextlib.suppress(OSError):  # not in every sandbox
                sock.bind("")  # an abstract address that the kernel chooses, by which `accept` recognizes the socket
        code = sock.connect_ex(sockaddr)
        key = _key(sock.getsockname())
        if key and code in (0, errno.EINPROGRESS):
            self.noted += (key,)
            self.own.chains[key] = self.marks
        return code

    def forget(self) -> None:
        """Drop what was noted and never accepted: its addresses may soon be those of other clients."""
        for key in self.noted:
            if self.own.chains.get(key) is self.marks:
                del self.own.chains[key]


def _key(sockaddr: object) -> object:
    """The same for both ends of a connection: an IPv4 address within IPv6 counts as IPv4, and zones are left out."""
    if not isinstance(sockaddr, tuple):
        return sockaddr
    return sockaddr[0].partition("%")[0].removeprefix("::ffff:"), sockaddr[1]
