"""Resumable sessions go on after a restart by a service manager, which keeps their descriptors meanwhile."""

import contextlib
import hashlib
import os
import resource
import stat
import struct

import pytest
import trio

from tests.authority import folder, server_context
from tests.process.service_manager import ServiceManager, passed_tcp
from tests.process.streams import running
from tests.serving import backend, echo, written
from tests.sessions.client import clients, opened, session
from wsbridge.net.sealed_file import read_sealed_file, write_sealed_file
from wsbridge.sessions.saved_state import SAVED_STATE_VERSION

WEB = {"web": {"bind": "fd:web"}}
QUICK = {"drain": "5s", "drain_spread": "200ms", "close": "1s", "retry_after": "1s"}
LIMITS = {"detached_sessions_per_identity": 1000}
LIST_NAME = "wsbridge-sessions"


def config(url, **rest):
    """Write a configuration with a route that has resumable sessions."""
    route = {"backend": url, "resume": {"ttl": "20s"}, **rest.pop("route", {})}
    return written(listeners=WEB, route=route, **{"timeouts": QUICK, "limits": LIMITS, **rest})


@contextlib.asynccontextmanager
async def managed(text, **options):
    """Run the service, whose sockets stay open over restarts; gives the manager and the port."""
    with passed_tcp() as sock:
        manager = ServiceManager(text, [("web", sock)], **{"store_max": 1000, **options})
        await trio.to_thread.run_sync(manager.__enter__)
        try:
            yield manager, sock.getsockname()[1]
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(manager.__exit__)
    for daemon in manager.daemons:
        assert not daemon.log_lines("internal_error")


async def restart(manager):
    """Restart the service, and wait until the sessions are adopted; return the line about them."""
    await trio.to_thread.run_sync(manager.restart)
    assert manager.daemons[-2].process.returncode == 0
    return await trio.to_thread.run_sync(lambda: manager.daemon.wait("sessions.adopted"))


@pytest.fixture
def many_files():
    """Raise the limit of open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("restarts", [1, pytest.param(5, marks=pytest.mark.soak)])
def test_streams_go_on_over_restarts(restarts):
    """Both directions are in full flow, and nothing is missing or doubled; then the store is empty."""

    async def main():
        async with backend() as back, managed(config(back.url)) as (manager, port):
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


@pytest.mark.usefixtures("many_files")
def test_two_hundred_sessions_go_on():
    """All of them, each with bytes on the way both ways; descriptors and memory of the old ones are gone."""
    count = 200

    async def main():
        async with (
            backend() as back,
            managed(config(back.url)) as (manager, port),
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


@pytest.mark.usefixtures("many_files")
def test_a_restart_while_sessions_are_adopted():
    """The process in between has said that it is ready, and not taken all of them out of the store yet."""
    count = 100

    async def main():
        async with (
            backend() as back,
            managed(config(back.url)) as (manager, port),
            clients(port, count) as found,
        ):
            async with trio.open_nursery() as nursery:
                for one in found:
                    nursery.start_soon(opened, one)
            for one in found:
                one.cut()
            await trio.to_thread.run_sync(manager.restart)
            adopted = await restart(manager)
            assert (adopted["count"], adopted["ended"], adopted["lost"]) == (count, 0, 0)
            await found[0].resume()
            assert manager.stored == []

    trio.run(main)


def test_what_cannot_go_on_is_lost():
    """A backend under TLS, and a session for which the store has no room; a route that has changed ends its session."""

    async def tls_echo(stream):
        await echo(trio.SSLStream(stream, server_context(), server_side=True))

    async def main():
        async with backend() as back, backend() as other, backend(tls_echo) as tls:
            url = tls.url.replace("tcp", "tls")
            urls = {"tls": {"url": url, "ca": str(folder() / "ca.pem"), "server_name": "localhost"}, "app": back.url}
            urls |= {"changed": back.url, "late": back.url}

            def text(**changes):
                routes = {
                    name: {"match": {"path": f"/{name}"}, "backend": url, "auth": "none", "resume": {}}
                    for name, url in {**urls, **changes}.items()
                }
                return written(listeners=WEB, routes=routes, timeouts=QUICK, limits=LIMITS)

            async with managed(text(), store_max=5) as (manager, port), clients(port, 4) as found:
                one = dict(zip(urls, found, strict=True))
                for name, client in one.items():
                    await opened(client, f"/{name}")
                manager.text = text(changed=other.url)
                adopted = await restart(manager)
                assert (adopted["count"], adopted["ended"], adopted["lost"]) == (1, 1, 2)
                await one["app"].resume("/app")
                for name, end in (
                    ("tls", (4004, "session_lost")),
                    ("late", (4004, "session_lost")),
                    ("changed", (4009, "route_removed")),
                ):
                    if not one[name].ended:
                        await one[name].connect(f"/{name}")
                        await one[name].until(lambda name=name: one[name].ended)
                    assert one[name].end == end, name
                (full,) = manager.daemons[0].log_lines("session.closed", route="late")
                assert full["detail"] == "the descriptor store is full: FileDescriptorStoreMax is 5"

    trio.run(main)


def of_another_version(descriptor, magic):
    """Write a state again, as another version would."""
    content = read_sealed_file(descriptor, 1 << 20)
    at = len(magic)
    assert content.startswith(magic)
    return write_sealed_file("test", [magic, struct.pack(">I", 99), content[at + 4 :]])


@pytest.mark.parametrize("part", ["list", "state"])
def test_another_version_of_the_state(part):
    """Of the list: all sessions are lost; of one session: that one. Each has a line, and its client gets 4004."""

    async def main():
        async with backend() as back, managed(config(back.url)) as (manager, port), clients(port, 2) as found:
            for one in found:
                await opened(one)
            await trio.to_thread.run_sync(manager.stop)
            names = [name for name, _ in manager.stored]
            assert len(names) == 5
            wanted = LIST_NAME if part == "list" else f"wsbridge-session-{found[0].machine.session_id.hex()}"
            magic = b"wsbridge sessions\n" if part == "list" else b"wsbridge session\n"
            for at, (name, number) in enumerate(manager.stored):
                if name == wanted and not stat.S_ISSOCK(os.fstat(number).st_mode):
                    manager.stored[at] = (name, of_another_version(number, magic))
                    os.close(number)
            await trio.to_thread.run_sync(manager.start)
            daemon = manager.daemon
            adopted = await trio.to_thread.run_sync(lambda: daemon.wait("sessions.adopted"))
            assert adopted["lost"] == (2 if part == "list" else 1)
            lost = daemon.log_lines("session.lost")
            assert len(lost) == adopted["lost"]
            text = f"is of version 99, and this process has {SAVED_STATE_VERSION}"
            assert all(text in line["detail"] for line in lost)
            await back.until(lost=adopted["lost"])
            await found[0].connect()
            await found[0].until(lambda: found[0].ended)
            assert found[0].end == (4004, "session_lost")
            if part == "state":
                await found[1].resume()
            assert manager.stored == []

    trio.run(main)


def test_a_crash_loses_sessions():
    """Nothing was stored; the client learns that by the epoch."""

    async def main():
        async with backend() as back, managed(config(back.url)) as (manager, port), session(port) as client:
            await opened(client)
            await trio.to_thread.run_sync(manager.kill)
            await client.until(lambda: client.client is None)
            await client.connect()
            await client.until(lambda: client.ended)
            assert client.end == (4004, "session_lost")

    trio.run(main)


def test_other_connections_have_the_drain():
    """The sessions stay attached until the last other connection has ended, and go on; without a store they end."""

    async def main():
        async with backend() as back, managed(config(back.url)) as (manager, port), clients(port, 1) as (client,):
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

    trio.run(main)


UPGRADE = (
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
