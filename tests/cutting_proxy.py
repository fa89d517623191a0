"""A TCP proxy between a client and a server that cuts its connections when a test wants it to."""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import AsyncIterator

import trio

from tests.serving import reset

PROGRESS = 262_144
"""Bytes of both directions that a connection has to carry before it is cut, if the one before did not."""


class CuttingProxy:
    """Forwards connections.

    Attributes:
        port: Where it listens.
        target: Port that it connects to.
        connections: How many connections came.
        cuts: How many were cut.
        cut_every: Bytes of both directions after which all connections are cut, again and again; 0 for never.
        is_down: While set, connections are reset at once.
        is_dead: While set, nothing is forwarded, and nobody learns of it.
    """

    def __init__(self, port: int, target: int) -> None:
        self.port = port
        self.target = target
        self.connections = self.cuts = 0
        self.cut_every = 0
        self._forwarded = 0  # since the last cut
        self.is_down = False
        self.is_dead = False
        self._open: set[trio.SocketStream] = set()
        self._alive = trio.Event()

    @property
    def url(self) -> str:
        """The URL of a WebSocket server behind it."""
        return f"ws://127.0.0.1:{self.port}/"

    def cut(self) -> None:
        """Reset all connections, on both sides, whatever is on the way."""
        self.cuts += len(self._open) // 2
        self._forwarded = 0
        for stream in self._open:
            if stream.socket.fileno() >= 0:
                reset(stream)
        self._open.clear()

    def go_down(self) -> None:
        """Cut, and accept no more."""
        self.is_down = True
        self.cut()

    def come_up(self) -> None:
        """Accept again, and forward again."""
        self.is_down = self.is_dead = False
        self._alive.set()

    def die(self) -> None:
        """Forward nothing more, silently; connections that come are accepted and not answered."""
        self.is_dead = True
        self._alive = trio.Event()

    async def cut_often(self, shortest: float, longest: float, seed: int) -> None:
        """Cut again and again, after random times in seconds, until cancelled.

        Of two connections one at least carries something, however slow the machine is.
        """
        times = random.Random(seed)
        carried = True
        while True:
            await trio.sleep(times.uniform(shortest, longest))
            while not carried and self._forwarded < PROGRESS:
                await trio.sleep(0.005)
            carried = self._forwarded >= PROGRESS
            self.cut()

    async def serve(self, client: trio.SocketStream) -> None:
        """Serve one connection."""
        self.connections += 1
        if self.is_down:
            reset(client)
            return
        if self.is_dead:
            await self._alive.wait()
        try:
            server = await trio.open_tcp_stream("127.0.0.1", self.target)
        except OSError:
            reset(client)
            return
        self._open |= {client, server}
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._copy, client, server)
                nursery.start_soon(self._copy, server, client)
        finally:
            self._open -= {client, server}
            client.socket.close()
            server.socket.close()

    async def _copy(self, source: trio.SocketStream, sink: trio.SocketStream) -> None:
        """Forward one direction; a reset goes on to the other side, as an end does."""
        try:
            while data := await source.receive_some(65536):
                if self.is_dead:
                    await self._alive.wait()
                await sink.send_all(data)
                self._forwarded += len(data)
                if 0 < self.cut_every <= self._forwarded:
                    self.cut()
            await sink.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            for stream in (source, sink):
                if stream.socket.fileno() >= 0:
                    reset(stream)


@contextlib.asynccontextmanager
async def cutting_proxy(target: int) -> AsyncIterator[CuttingProxy]:
    """Run one in front of a port of this machine."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    proxy = CuttingProxy(listener.socket.getsockname()[1], target)
    listener.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, proxy.serve, [listener])
        try:
            yield proxy
        finally:
            nursery.cancel_scope.cancel()
            proxy.cut()
