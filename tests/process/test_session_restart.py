"""Resumable sessions go on after a restart by a service manager, which keeps their descriptors meanwhile.

With a stand-in for the store alone, and in more cases: sessions/test_stored_sessions.
"""

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


async def hold(found):
    """Open sessions, and have bytes on the way in each; every other one is cut off before it acknowledges them."""
    async with trio.open_nursery() as nursery:
        for one in found:
            nursery.start_soon(opened, one)
    for number, one in enumerate(found):
        one.paused = bool(number % 2)
        await one.send(number.to_bytes(2, "big") * 500)
    for one in found:
        await one.until(lambda one=one: len(one.received) == 1000)
        if one.paused:
            one.received.clear()
            one.cut()


async def go_on(client):
    """Resume, and send more; what was not acknowledged comes again."""
    was_paused, client.paused = client.paused, False
    if was_paused:
        client.machine.received_position = client.machine.consumed_position
        client._unconsumed = 0
    await client.resume()
    await client.send(b"more")
    await client.until(lambda: client.received.endswith(b"more"))


@pytest.mark.parametrize("restarts", [1, pytest.param(5, marks=pytest.mark.soak)])
def test_sessions_go_on_over_restarts(restarts):
    """Of streams in full flow and of those that wait, nothing is missing or doubled. A crash loses them."""
    count = 40

    async def main():
        async with (
            backend() as back,
            managed(session_config(back, RESTART)) as (manager, port),
            clients(port, count) as found,
        ):
            async with running(f"ws://127.0.0.1:{port}/", 2, pause=0.02) as streams:
                await hold(found)
                for _ in range(restarts):
                    for one in streams:
                        await one.moves()
                    adopted = await restart(manager)
                    assert (adopted["count"], adopted["ended"], adopted["lost"]) == (count + 2, 0, 0)
                    for one in streams:
                        await one.moves()
                async with trio.open_nursery() as nursery:
                    for one in found:
                        nursery.start_soon(go_on, one)
                for number, one in enumerate(found):
                    assert one.received == number.to_bytes(2, "big") * 500 + b"more", number
            assert back.dials == count + 2
            assert manager.stored == []
            assert not manager.killed
            handed = manager.daemons[0].wait("sessions.handed_over")
            assert (handed["count"], handed["lost"]) == (count + 2, 0)
            await crash(manager, found[0])

    async def crash(manager, client):
        await trio.to_thread.run_sync(manager.kill)
        await client.until(lambda: client.client is None)
        await client.connect()
        await client.until(lambda: client.ended)
        assert client.end == (4004, "session_lost")

    trio.run(main)
