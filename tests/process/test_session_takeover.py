"""Resumable sessions go on in a process that takes over: no byte is missing, and none is doubled.

With both servers in one process, and in more cases: sessions/test_handover.
"""

import contextlib
import random

import pytest
import trio

from tests.process.session_daemons import TAKEOVER, ended, line, session_config, started
from tests.process.streams import running
from tests.serving import backend
from tests.sessions.client import clients, opened


@pytest.mark.parametrize("takeovers", [1, pytest.param(5, marks=pytest.mark.soak)])
def test_streams_go_on_over_takeovers(takeovers):
    """Both directions are in full flow while one process after the other takes over."""

    async def main():
        async with backend() as back, contextlib.AsyncExitStack() as stack:
            text = session_config(back, TAKEOVER)
            daemon = await stack.enter_async_context(started(text))
            async with running(f"ws://127.0.0.1:{daemon.port()}/", 3, pause=0.02) as streams:
                for _ in range(takeovers):
                    for one in streams:
                        await one.moves()
                    old, daemon = daemon, await stack.enter_async_context(started(text, daemon))
                    assert (await line(daemon, "sessions.adopted"))["count"] == 3
                    assert (await line(old, "sessions.handed_over"))["count"] == 3
                    await ended(old)
                    for one in streams:
                        await one.moves()
            await back.until(open=0)
            assert back.dials == 3
            sent = sorted(one.sent for one in streams)
            await line(daemon, "session.closed", 3)
            closed = daemon.log_lines("session.closed")
            assert sorted(line["bytes_to_backend"] for line in closed) == sent
            assert sorted(line["bytes_to_client"] for line in closed) == sent
            assert {(line["reason"], line["transports"]) for line in closed} <= {
                ("client_closed", takeovers + 1),
                ("backend_closed", takeovers + 1),
            }

    trio.run(main)


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(2, 12))])
def test_a_process_that_is_killed_while_it_gives_sessions_away(seed):
    """Each of them goes on in the next process, or its client is told that it is lost; so is its backend."""
    count, chance = 40, random.Random(seed)

    async def main():
        async with backend() as back, contextlib.AsyncExitStack() as stack:
            text = session_config(back, TAKEOVER)
            old = await stack.enter_async_context(started(text))
            found = await stack.enter_async_context(clients(old.port(), count))
            async with trio.open_nursery() as nursery:
                for one in found:
                    nursery.start_soon(opened, one)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(kill, old, chance)
                daemon = await stack.enter_async_context(started(text, old))
            adopted = await line(daemon, "sessions.adopted")
            results = []
            async with trio.open_nursery() as nursery:
                for one in found:
                    nursery.start_soon(go_on, one, results)
            assert results.count("goes on") == adopted["count"]
            assert results.count("lost") == adopted["lost"] == count - adopted["count"]
            await back.until(open=adopted["count"])
            assert back.dials == count

    async def kill(old, chance):
        await line(old, "session.closed", chance.randrange(1, count // 2), reason="handed_over")
        old.kill()

    async def go_on(client, results):
        await client.until(lambda: client.client is None)
        await client.connect()
        await client.until(lambda: client.ended or client.machine.state.value == "attached")
        if client.ended is None:
            await client.send(b"more")
            await client.until(lambda: client.received == b"more")
        assert client.end in (None, (4004, "session_lost"))
        results.append("lost" if client.ended else "goes on")

    trio.run(main)
