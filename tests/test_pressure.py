"""A server under memory pressure, with a limit per listener, and with an event loop that is late."""

from __future__ import annotations

import time

import pytest
import trio

from tests.client import request
from tests.serving import Served, backend, config_of, serving, written
from wsbridge.limits.memory import MemoryUsage
from wsbridge.pressure import check_memory, watch_loop, watch_memory
from wsbridge.server import Server


def usage(percent: int) -> MemoryUsage:
    """Make a usage."""
    return MemoryUsage(percent * 1000, 100_000, "memory.max")


async def status_of(served: Served, listener: str = "web") -> str:
    """Give the status line that a new WebSocket client gets."""
    with await served.connect(listener) as client:
        await client.send(request())
        return (await client.head()).split("\r\n")[0]


async def test_memory_pressure_rejects_new_connections():
    """One record begins it, one ends it; in between open connections go on, and one that ends makes room for one."""
    async with backend() as back, serving(written(route={"backend": back.url})) as served:
        held = [await served.upgraded() for _ in range(2)]
        for percent in (89, 91, 95, 88):  # it ends some way below the threshold
            check_memory(served.server, usage(percent))
        assert [record["level"] for record in served.records.of("memory.pressure")] == ["warning"]
        assert not served.server.is_ready
        assert await status_of(served) == "HTTP/1.1 503 Service Unavailable"
        detail = (await served.records.wait("connection.rejected", reason="overload"))["detail"]
        assert detail == (
            "limits.max_memory is reached (88% of memory.max is in use): 2 connections, and no more than 2 for now"
        )
        for client in held:
            await client.echoed()
        await held.pop().close()
        await served.quiet(1)
        assert served.server.is_ready
        held.append(await served.upgraded())
        assert await status_of(served) == "HTTP/1.1 503 Service Unavailable"
        check_memory(served.server, usage(80))
        assert len(served.records.of("memory.relieved")) == 1
        held.append(await served.upgraded())
        for client in held:
            await client.close()


async def test_a_reload_during_memory_pressure_keeps_it():
    """A new limit of connections does not end it; without a threshold there is none."""
    async with backend() as back, serving(written(route={"backend": back.url})) as served:
        held = await served.upgraded()
        check_memory(served.server, usage(99))
        await served.server.apply(config_of(written(route={"backend": back.url}, limits={"connections": 50})))
        assert await status_of(served) == "HTTP/1.1 503 Service Unavailable"
        await served.server.apply(config_of(written(route={"backend": back.url}, limits={"max_memory": "off"})))
        check_memory(served.server, usage(99))
        assert served.server.is_ready
        await held.close()


async def test_without_a_limit_there_is_no_pressure():
    """Nor after it was removed."""
    async with serving(written(route={"respond": "204"})) as served:
        check_memory(served.server, None)
        check_memory(served.server, usage(95))
        check_memory(served.server, None)
        assert served.server.is_ready
        assert served.server.acceptor.memory is None


class Limits:
    """In place of the process's."""

    def __init__(self, *percents: int) -> None:
        self._percents = list(percents)

    def tightest(self) -> MemoryUsage | None:
        """Give the next."""
        return usage(self._percents.pop(0) if len(self._percents) > 1 else self._percents[0])


async def test_the_memory_is_watched(monkeypatch):
    """Again and again, in a thread."""
    monkeypatch.setattr("wsbridge.pressure.MEMORY_INTERVAL", 0.01)
    server = Server(config_of(written(route={"respond": "204"})))
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch_memory, server, Limits(50, 60, 70))
            while server.acceptor.memory != usage(70):
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
    server.acceptor.close()
    server.services.close()


async def test_memory_is_read_without_a_thread(monkeypatch):
    """It is needed most where no thread can be started any more."""

    async def no_thread(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(trio.to_thread, "run_sync", no_thread)
    server = Server(config_of(written(route={"respond": "204"})))
    with trio.move_on_after(0.05):
        await watch_memory(server, Limits(50))
    assert server.acceptor.memory == usage(50)
    server.acceptor.close()
    server.services.close()


@pytest.mark.parametrize(("busy", "event"), [(True, "loop.lag"), (False, "loop.stalled")])
async def test_a_late_loop_is_logged(busy, event, monkeypatch):
    """A busy loop and a process that did not run are different events; the status has the longest lag."""
    monkeypatch.setattr("wsbridge.pressure.process_time", time.monotonic if busy else lambda: 0.0)
    async with serving(written(route={"respond": "204"}, log={"loop_lag": "150ms"})) as served:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch_loop, served.server)
            await trio.sleep(0.15)
            time.sleep(0.5)
            record = await served.records.wait(event)
            nursery.cancel_scope.cancel()
        assert 0.3 < record["lag_seconds"] < 5
        assert served.server.loop_lag.recent >= record["lag_seconds"] - 0.001


async def test_a_listener_has_a_limit_of_its_own():
    """Its clients over it get 503; those of another are served; a reload changes it."""
    async with backend() as back:
        other = {"bind": "127.0.0.1:0", "protocol": "tcp", "route": "raw", "connections": 1}
        routes = {
            "raw": {"backend": back.url, "auth": "none"},
            "app": {"match": "any", "backend": back.url, "auth": "none"},
        }

        def config(connections: int | str):
            web = {"bind": "127.0.0.1:0", "connections": connections}
            return written(listeners={"web": web, "other": other}, routes=routes)

        async with serving(config(2)) as served:
            held = [await served.upgraded() for _ in range(2)]
            assert await status_of(served) == "HTTP/1.1 503 Service Unavailable"
            detail = (await served.records.wait("connection.rejected"))["detail"]
            assert detail == "2 connections of listener web, whose connections is 2"
            with await served.connect("other") as raw:
                await raw.send(b"x")
                assert await raw.take(1) == b"x"
                with await served.connect("other") as over, pytest.raises(trio.BrokenResourceError):
                    await over.more()
            await served.server.apply(config_of(config("off")))
            held.append(await served.upgraded())
            for client in held:
                await client.close()
            assert served.server.is_ready
