"""Many plain clients that do different things at once, while their connections to the server are cut all the time."""

from __future__ import annotations

import random

import pytest
import trio

from tests.client import Client
from tests.serving import reset
from tests.sessions.test_backend_sessions import Tunnel, tunnel

CLIENTS = 24


async def serve(stream: trio.SocketStream) -> None:
    """Do what the first byte says: echo, answer at the end, end first, or break off."""
    order = await stream.receive_some(1)
    if order == b"e":
        while data := await stream.receive_some(65536):
            await stream.send_all(data)
    elif order == b"a":
        total = 0
        while data := await stream.receive_some(65536):
            total += len(data)
        await stream.send_all(b"%d" % total)
    elif order == b"f":
        await stream.send_all(bytes(300_000))
        await stream.send_eof()
        while await stream.receive_some(65536):
            pass
    elif order == b"r":
        await stream.send_all(bytes(1000))
        await trio.sleep(0.2)
        reset(stream)


async def send_slowly(client: Client, data: bytes, rng: random.Random) -> None:
    """Send in pieces of random sizes."""
    while data:
        size = rng.choice((1, 100, 5000, 60_000))
        await client.send(data[:size])
        data = data[size:]
        await trio.sleep(rng.random() * 0.02)


async def use(run: Tunnel, rng: random.Random, outcomes: list[str]) -> None:
    """Be one client."""
    kind = rng.choice("eeafrx")
    data = rng.randbytes(rng.choice((0, 1, 3000, 400_000)))
    with await run.connect() as client:
        assert isinstance(client.stream, trio.SocketStream)
        if kind == "x":
            await client.send(b"e" + data[:5000])
            await trio.sleep(rng.random())
            reset(client.stream)
            outcomes.append("left")
            return
        await client.send(kind.encode())
        if kind == "r":
            with pytest.raises(trio.BrokenResourceError):
                while await client.more():
                    pass
            assert client.buffer == bytes(1000)
        elif kind == "f":
            assert await client.everything() == bytes(300_000)
            await client.send(data[:1000])
            await client.stream.send_eof()
        else:
            async with trio.open_nursery() as nursery:

                async def send() -> None:
                    await send_slowly(client, data, rng)
                    await client.stream.send_eof()

                nursery.start_soon(send)
                back = await client.everything()
            assert back == (data if kind == "e" else b"%d" % len(data))
        outcomes.append(kind)


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_storm(seed: int) -> None:
    """Each gets what it is to get, and nothing is left."""
    rng = random.Random(seed)
    outcomes: list[str] = []
    async with tunnel(serve, dial={"retry_for": "20s"}, timeouts={"half_close": "10s", "close": "5s"}) as run:
        run.proxy.cut_every = 400_000
        with trio.fail_after(25):
            async with trio.open_nursery() as nursery:
                for _ in range(CLIENTS):
                    nursery.start_soon(use, run, random.Random(rng.random()), outcomes)
        assert len(outcomes) == CLIENTS
        assert run.proxy.cuts >= 10
        await run.near.quiet()
        assert run.near.server.generation.routes["out"].stats.backend_sessions_detached == 0
        assert run.near.server.services.sessions.memory.used == 0
