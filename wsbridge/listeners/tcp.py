"""TCP listeners: `host:port`, IPv4, IPv6 and both at once.

Lives here: binding. Must not live here: accepting, TLS.
"""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, Final

import trio

from wsbridge.listeners.listening import ListenError, Listening, words
from wsbridge.net.address import Address, plain

if TYPE_CHECKING:
    from wsbridge.config.model import Listener

SAME_PORT_ATTEMPTS: Final = 16
"""Ports that are tried until one is free in both families (port 0 on `localhost`)."""

_NO_SUCH_FAMILY: Final = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})


async def listen(name: str, config: Listener) -> Listening:
    """Open a TCP listener.

    `[::]` takes IPv4 as well unless `ipv6_only`; `localhost` is 127.0.0.1 and ::1 (one alone where the machine has
    but one of them), on the same port; a name is bound at all its addresses.

    Args:
        name: The listener's name, for messages.
        config: Its section; `bind`, `ipv6_only` and `backlog` are used.

    Raises:
        ListenError: the address cannot be bound.
    """
    bind = config.bind
    addresses, optional = await _addresses(name, config)
    for attempt in range(SAME_PORT_ATTEMPTS):
        try:
            return Listening(name, _bind_all(addresses, optional, config))
        except OSError as error:
            retry = error.errno == errno.EADDRINUSE and bind.port == 0 and len(addresses) > 1
            if not retry or attempt == SAME_PORT_ATTEMPTS - 1:
                raise ListenError(name, bind, words(error, bind.port), error.errno or 0) from None
    raise AssertionError("the loop returns or raises")


async def _addresses(name: str, config: Listener) -> tuple[list[Address], bool]:
    """Addresses to bind, and whether those of a family that the machine lacks may be left out."""
    host, port = config.bind.host, config.bind.port
    if host.lower().rstrip(".") == "localhost":
        return [
            Address(socket.AF_INET, ("127.0.0.1", port)),
            Address(socket.AF_INET6, ("::1", port, 0, 0)),
        ], True
    try:
        found = await trio.to_thread.run_sync(_look_up, host, port)
    except OSError as error:
        raise ListenError(name, config.bind, f"cannot look up the name: {error.strerror}") from None
    if not found:
        raise ListenError(name, config.bind, "the name has no address")
    return found, len(found) > 1


def _look_up(host: str, port: int) -> list[Address]:
    """Runs in a thread."""
    rows = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    families = (socket.AF_INET, socket.AF_INET6)
    return list(dict.fromkeys(Address(int(row[0]), plain(row[4])) for row in rows if row[0] in families))


def _bind_all(addresses: list[Address], optional: bool, config: Listener) -> list[socket.socket]:
    """Bind every address, port 0 to one port for all; closes what it opened if one of them fails."""
    opened: list[socket.socket] = []
    port = config.bind.port
    try:
        for place, address in enumerate(addresses, 1):
            try:
                sock = _bind(address, port, config)
            except OSError as error:
                last_hope = place == len(addresses) and not opened
                if not optional or last_hope or error.errno not in _NO_SUCH_FAMILY:
                    raise
                continue
            opened.append(sock)
            port = sock.getsockname()[1]
        for sock in opened:
            sock.listen(config.backlog)
    except BaseException:
        for sock in opened:
            sock.close()
        raise
    return opened


def _bind(address: Address, port: int, config: Listener) -> socket.socket:
    sock = socket.socket(address.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        host, _, *scope = address.sockaddr
        if address.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, host != "::" or config.ipv6_only)
        sock.bind((host, port, *scope))
    except BaseException:
        sock.close()
        raise
    return sock
