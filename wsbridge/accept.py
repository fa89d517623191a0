"""Accepting: from a listening socket to one task per connection, and what happens when there are too many.

Lives here: the loop, the cap, the reserve descriptor. Must not live here: what a connection does (`connection`).
"""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING

import trio

from wsbridge import connection
from wsbridge.arrival import speaks_for_itself
from wsbridge.generation import Listener
from wsbridge.log import log
from wsbridge.net.sockets import reset

if TYPE_CHECKING:
    from wsbridge.server import Server

BATCH = 64
"""Connections accepted before other tasks have their turn."""

_NO_ROOM = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class Reserve:
    """One descriptor held back, so that a full table does not leave clients waiting in the backlog."""

    def __init__(self) -> None:
        self._fd: int | None = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def turn_away(self, listening: socket.socket) -> bool:
        """Give the descriptor up for an accept, reset that connection, take the descriptor back.

        Returns:
            False if there is no room even for that.
        """
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
        try:
            sock, _ = listening.accept()
        except BlockingIOError:
            turned = True
        except OSError:
            turned = False
        else:
            reset(sock)
            turned = True
        try:
            self._fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            turned = False
        return turned

    def close(self) -> None:
        """Give it back."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


async def accept(listening: socket.socket, name: str, server: Server, nursery: trio.Nursery) -> None:
    """Accept until cancelled.

    Args:
        listening: A listening socket.
        name: Its listener's name; the listener itself is taken from the current generation.
        server: What outlives a connection.
        nursery: Where connections run.
    """
    addresses = server.addresses
    while True:
        await trio.lowlevel.wait_readable(listening)
        for _ in range(BATCH):
            try:
                sock, sockaddr = listening.accept()
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno in _NO_ROOM:
                    await _no_room(listening, name, server, error)
                    break
                log.warning("accept.error", listener=name, error=error.strerror)
                continue
            listener = server.generation.listeners[name]
            host = sockaddr[0] if isinstance(sockaddr, tuple) else ""
            if addresses.bans and addresses.banned(host) and speaks_for_itself(host, listener):
                addresses.reset(sock, name, host)
                continue
            sock.setblocking(False)
            if server.connections < server.limit:
                server.connections += 1
                nursery.start_soon(_count, sock, sockaddr, listener, server)
            elif server.shedding < server.generation.config.limits.shed:
                server.shedding += 1
                nursery.start_soon(_shed, sock, sockaddr, listener, server)
            else:
                reset(sock)
                log.warning("accept.shed", listener=name, connections=server.connections, limit=server.limit)


async def _count(sock: socket.socket, sockaddr: object, listener: Listener, server: Server) -> None:
    try:
        await connection.serve(sock, sockaddr, listener, server)
    finally:
        server.connections -= 1


async def _shed(sock: socket.socket, sockaddr: object, listener: Listener, server: Server) -> None:
    try:
        await connection.turn_away(sock, sockaddr, listener, server)
    finally:
        server.shedding -= 1


async def _no_room(listening: socket.socket, name: str, server: Server, error: OSError) -> None:
    """The process or the system has no descriptor left for a client: turn it away, or pause."""
    log.error("accept.error", listener=name, error=error.strerror, connections=server.connections)
    if not server.reserve.turn_away(listening):
        await trio.sleep(server.generation.config.timeouts.accept_pause)
