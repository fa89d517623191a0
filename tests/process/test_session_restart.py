"""Resumable sessions go on after a restart by a service manager, which keeps their descriptors meanwhile.

With a stand-in for the store alone, and in more cases: sessions/test_stored_sessions.
"""

import hashlib

import pytest
import trio

from tests.process.session_daemons import RESTART, line, managed, session_config
from tests.process.streams import running
from tests.serving import backend
from tests.sessions.client import clients, opened


async def restart(manager):
    """Restart the service, and wait until the sessions are adopted; return the line about them."""
    await trio.to_thread.run_sync(manager.restart)
    assert manager.daemons[-2].process.returncode == 0
    return await line(manager.daemon, "sessions.adopted")


@pytest.mark.parametrize("restarts", [1, pytest.param(5, marks=pytest.mark.soak)])
def test_streams_go_on_over_restarts(restarts):
    """Both directions are in full flow, and nothing is missing or doubled; then the store is empty."""

    async def main():
        async with backend() as back, managed(session_config(back, RESTART)) as (manager, port):
            async with running(f"ws://127.0.0.1:{port}/", 2) as streams:
                for _ in range(restarts):
                    for one in streams:
                        await one.moves()
                    assert (await restart(manager))["count"] == 2
                    for one in streams:
                        await one.moves()
            assert back.dials == 2
            assert manager.stored == []
            assert not manager.killed
            handed = manager.daemons[0].wait("sessions.handed_over")
            assert (handed["count"], handed["lost"]) == (2, 0)

    trio.run(main)


def test_many_sessions_go_on():
    """All of them, each with bytes on the way both ways; descriptors and memory of the old ones are gone."""
    count = 60

    async def main():
        async with (
            backend() as back,
            managed(session_config(back, RESTART)) as (manager, port),
            clients(port, count) as found,
        ):
            async with trio.open_nursery() as nursery:
                for one in found:
                    nursery.start_soon(opened, one)
            for number, one in enumerate(found):
                one.paused = bool(number % 2)  # it acknowledges nothing, so that all of this is sent again
                await one.send(number.to_bytes(2, "big") * 500)
            for one in found:
                await one.until(lambda one=one: len(one.received) == 1000)
                if one.paused:
                    one.received.clear()
                    one.cut()
            adopted = await restart(manager)
            assert (adopted["count"], adopted["ended"], adopted["lost"]) == (count, 0, 0)
            assert manager.stored == []
            async with trio.open_nursery() as nursery:
                for one in found:
                    nursery.start_soon(go_on, one)
            for number, one in enumerate(found):
                assert one.received == number.to_bytes(2, "big") * 500 + b"more", number
            assert back.dials == count

    async def go_on(client):
        was_paused, client.paused = client.paused, False
        if was_paused:
            client.machine.received_position = client.machine.consumed_position
            client._unconsumed = 0
        await client.resume()
        await client.send(b"more")
        await client.until(lambda: client.received.endswith(b"more"))

    trio.run(main)


def test_other_connections_have_the_drain():
    """The sessions stay attached until the last other connection has ended, and go on. A crash loses them."""

    async def main():
        async with (
            backend() as back,
            managed(session_config(back, RESTART)) as (manager, port),
            clients(port, 1) as (client,),
        ):
            await opened(client)
            async with await trio.open_tcp_stream("127.0.0.1", port) as plain:
                await plain.send_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n" + UPGRADE)
                head = b""
                while not head.endswith(b"\r\n\r\n"):
                    head += await plain.receive_some()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(restart, manager)
                    await trio.to_thread.run_sync(lambda: manager.wait("STOPPING", "1", manager.daemons[0].pid))
                    await client.send(hashlib.sha256(head).digest())
                    await client.until(lambda: len(client.received) == 32)
                    assert client.going_away is None
                    await plain.aclose()
            assert client.going_away is not None
            await client.resume()
            await trio.to_thread.run_sync(manager.kill)
            await client.until(lambda: client.client is None)
            await client.connect()
            await client.until(lambda: client.ended)
            assert client.end == (4004, "session_lost")

    trio.run(main)


UPGRADE = (
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
