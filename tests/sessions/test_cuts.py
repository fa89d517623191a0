"""Big streams both ways through a proxy that cuts connections: every byte once, in order."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
from collections.abc import AsyncIterator

import pytest
import trio

from tests.serving import reset
from tests.sessions.client import SessionClient, one_session


class CuttingProxy:
    """Passes bytes of one connection after the other, and cuts them when it is told to.

    Attributes:
        port: Where it listens.
        cuts: How often it has cut a connection.
    """

    def __init__(self, port: int, target: int) -> None:
        self.port = port
        self.cuts = 0
        self._target = target
        self._open: set[trio.SocketStream] = set()

    def cut(self) -> None:
        """Cut all connections: what is under way is lost."""
        self.cuts += bool(self._open)
        for stream in list(self._open):
            reset(stream)
        self._open.clear()

    async def serve(self, client: trio.SocketStream) -> None:
        """Serve one connection."""
        try:
            server = await trio.open_tcp_stream("127.0.0.1", self._target)
        except OSError:
            await client.aclose()
            return
        both = {client, server}
        self._open |= both
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._copy, client, server, nursery.cancel_scope)
            nursery.start_soon(self._copy, server, client, nursery.cancel_scope)
        self._open -= both
        for stream in both:
            stream.socket.close()

    @staticmethod
    async def _copy(source: trio.SocketStream, sink: trio.SocketStream, scope: trio.CancelScope) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            while data := await source.receive_some(random.choice((1, 7, 1000, 65536))):
                await sink.send_all(data)
        scope.cancel()


@contextlib.asynccontextmanager
async def cutting_proxy(target: int) -> AsyncIterator[CuttingProxy]:
    """Run a proxy in front of a port."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    proxy = CuttingProxy(listener.socket.getsockname()[1], target)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, proxy.serve, [listener])
        yield proxy
        proxy.cut()
        nursery.cancel_scope.cancel()
    listener.socket.close()


async def reconnecting(client: SessionClient) -> None:
    """Come back whenever the transport is lost."""
    while client.ended is None:
        if client.client is None:
            with contextlib.suppress(trio.BrokenResourceError, EOFError, OSError):
                await client.connect()
        await trio.sleep(0.002)


async def exchange(client: SessionClient, proxy: CuttingProxy, data: bytes, interval: tuple[float, float]) -> None:
    """Send data and receive the backend's, while the proxy cuts at random times, until both streams have ended."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reconnecting, client)

        async def cut() -> None:
            while True:
                await trio.sleep(random.uniform(*interval))
                proxy.cut()

        nursery.start_soon(cut)
        await client.send(data)
        await client.finish()
        await client.until(lambda: client.ended or (client.finished and client.machine.fin_acked), 600)
        nursery.cancel_scope.cancel()


async def check_streams(size: int, interval: tuple[float, float], **config: object) -> int:
    """Exchange streams of a size; give the number of cuts."""
    up, down = os.urandom(size), os.urandom(size)
    digest = hashlib.sha256()

    async def both(stream: trio.SocketStream) -> None:
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                for at in range(0, size, 65536):
                    await stream.send_all(down[at : at + 65536])
                await stream.send_eof()

            nursery.start_soon(send)
            while data := await stream.receive_some(65536):
                digest.update(data)

    async with one_session(both, **config) as (back, served, client), cutting_proxy(served.port()) as proxy:
        client.cut()
        client.port = proxy.port
        await exchange(client, proxy, up, interval)
        assert client.ended is None or client.ended.complete, client.ended
        assert hashlib.sha256(client.received).digest() == hashlib.sha256(down).digest()
        await back.until(open=0)
        assert digest.digest() == hashlib.sha256(up).digest()
        assert back.dials == 1
        return proxy.cuts


@pytest.mark.parametrize("window", ["64KiB", "1MiB"])
async def test_streams_survive_cuts(window: str) -> None:
    """With a window that is always full, and with one that hardly ever is."""
    assert await check_streams(16 << 20, (0.01, 0.1), resume={"window": window}) >= 3


async def test_streams_survive_cuts_under_tls() -> None:
    """A cut in the middle of a record."""
    await check_streams(1 << 20, (0.02, 0.2), tls=True)


async def test_many_transports_one_after_the_other() -> None:
    """Each is cut before it has carried anything: no descriptor and no memory stays."""
    async with one_session() as (back, served, client):
        for number in range(50):
            client.cut()
            if number % 2:
                await client.resume()
            else:
                await client.connect()
        client.cut()
        await client.resume()
        await client.send(b"after all")
        await client.until(lambda: client.received == b"after all")
        await served.quiet(1)
        assert (back.dials, back.open) == (1, 1)
        await client.until(lambda: not served.server.services.sessions.memory.used)
