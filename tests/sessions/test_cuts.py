"""Big streams both ways through a proxy that cuts connections: every byte once, in order."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random

import pytest
import trio

from tests.cutting_proxy import CuttingProxy, cutting_proxy
from tests.sessions.client import SessionClient, one_session


async def reconnecting(client: SessionClient) -> None:
    """Come back whenever the transport is lost."""
    while client.ended is None:
        if client.client is None:
            with contextlib.suppress(trio.BrokenResourceError, EOFError, OSError):
                await client.connect()
        await trio.sleep(0.002)


async def exchange(client: SessionClient, proxy: CuttingProxy, data: bytes, between: tuple[int, int]) -> None:
    """Send data and receive the backend's until both streams have ended, while connections are cut.

    Args:
        client: The client.
        proxy: What it comes through.
        data: What it sends.
        between: Fewest and most bytes between two cuts, of both streams together.
    """
    choose = random.Random(1)

    async def cut() -> None:
        due = choose.randint(*between)
        while True:
            if len(client.received) + client.machine.acked_position >= due:
                proxy.cut()
                due += choose.randint(*between)
            await trio.sleep(0.001)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(reconnecting, client)
        nursery.start_soon(cut)
        await client.send(data)
        await client.finish()
        await client.until(lambda: client.ended or (client.finished and client.machine.fin_acked), 600)
        nursery.cancel_scope.cancel()


async def check_streams(size: int, between: tuple[int, int], **config: object) -> int:
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
        await exchange(client, proxy, up, between)
        assert client.ended is None or client.ended.complete, client.ended
        assert hashlib.sha256(client.received).digest() == hashlib.sha256(down).digest()
        await back.until(open=0)
        assert digest.digest() == hashlib.sha256(up).digest()
        assert back.dials == 1
        return proxy.cuts


@pytest.mark.parametrize("window", ["64KiB", "1MiB"])
async def test_streams_survive_cuts(window: str) -> None:
    """With a window that is always full, and with one that hardly ever is."""
    assert await check_streams(4 << 20, (1 << 18, 1 << 20), resume={"window": window}) >= 3


async def test_streams_survive_cuts_under_tls() -> None:
    """A cut in the middle of a record."""
    assert await check_streams(2 << 20, (1 << 18, 1 << 20), tls=True) >= 1


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
