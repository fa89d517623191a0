"""Backends that lead back to wsbridge itself: one request opens a bounded number of connections."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.client import BINARY, Client, frame, request
from tests.clients.program import free_port
from tests.process.daemon import Daemon
from tests.serving import Served, accept_upgrade, backend, serving, written
from wsbridge.net.resolver import Resolver

OPEN = {"match": "any", "auth": "none"}


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the name gw.test, which `check` knows nothing of, mean this host."""

    def getaddrinfo(host: str, port: int, **more: int) -> object:
        return socket.getaddrinfo("127.0.0.1" if host == "gw.test" else host, port, **more)

    build = Resolver.__init__
    monkeypatch.setattr(build, "__kwdefaults__", {**(build.__kwdefaults__ or {}), "getaddrinfo": getaddrinfo})


async def rejected_with(client: Client) -> tuple[str, str]:
    """Return the status and the reason of a rejected request."""
    text = (await client.everything()).decode()
    return text.split(" ")[1], text.rpartition("\r\n\r\n")[2].partition(":")[0]


@pytest.mark.usefixtures("hosts")
async def test_a_websocket_backend_that_is_its_own_route() -> None:
    """The second request through the route is rejected, and the client gets its status."""
    port = free_port()
    text = written(
        listeners={"web": {"bind": f"127.0.0.1:{port}", "host_names": "gw.test"}},
        route={"backend": f"ws://gw.test:{port}/"},
    )
    async with serving(text) as served:
        with await served.connect() as client:
            await client.send(request())
            assert await rejected_with(client) == ("508", "backend_rejected")
        line = await served.records.wait("connection.rejected", reason="loop_detected")
        assert line["initiator"] == "wsbridge"
        assert "route app" in line["detail"]
        await served.quiet()
        assert len(served.records.endings) == 2


@pytest.mark.usefixtures("hosts")
@pytest.mark.parametrize("bind", ["127.0.0.1", "0.0.0.0", "[::]"])
async def test_a_raw_listener_that_is_its_own_backend(bind: str) -> None:
    """By whatever address the listener is bound, the second connection is reset and so is the first."""
    port = free_port()
    text = written(
        listeners={"raw": {"bind": f"{bind}:{port}", "protocol": "tcp", "route": "app"}},
        routes={"app": {"auth": "none", "backend": f"tcp://gw.test:{port}"}},
    )
    async with serving(text) as served:
        with await served.connect("raw") as client, pytest.raises(trio.BrokenResourceError):
            await client.send(b"hello")
            assert await client.more() == b""
            raise trio.BrokenResourceError  # the end may be read before the reset
        await served.records.wait("connection.rejected", reason="loop_detected")
        await served.quiet()
        assert len(served.records.endings) == 2


async def test_a_unix_socket_that_is_its_own_backend(tmp_path: Path) -> None:
    """A symbolic link to it hides it from the check, not from the dial."""
    path, link = tmp_path / "gw.sock", tmp_path / "link.sock"
    link.symlink_to(path)
    text = written(
        listeners={"raw": {"bind": f"unix:{path}", "protocol": "tcp", "route": "app"}},
        routes={"app": {"auth": "none", "backend": f"unix:{link}"}},
    )
    async with serving(text) as served:
        stream = await trio.open_unix_socket(str(path))
        with trio.fail_after(9):
            assert await stream.receive_some(1) == b""
        await stream.aclose()
        await served.records.wait("connection.rejected", reason="loop_detected")
        await served.quiet()
        assert len(served.records.endings) == 2


@asynccontextmanager
async def proxy_to(port: int) -> AsyncIterator[int]:
    """Run a proxy of another process that passes bytes on, as nginx does with WebSockets; give its port."""

    async def pass_on(source: trio.SocketStream, sink: trio.SocketStream) -> None:
        async for data in source:
            await sink.send_all(data)
        await sink.send_eof()

    async def serve(stream: trio.SocketStream) -> None:
        inner = await trio.open_tcp_stream("127.0.0.1", port)
        async with inner, trio.open_nursery() as nursery:
            nursery.start_soon(pass_on, stream, inner)
            await pass_on(inner, stream)
            nursery.cancel_scope.cancel()

    async with backend(serve) as back:
        yield back.port


async def test_a_loop_through_another_proxy() -> None:
    """A proxy on the way hides the address of the dialing socket, but passes the Via header on."""
    port = free_port()
    async with proxy_to(port) as public:
        text = written(listeners={"web": {"bind": f"127.0.0.1:{port}"}}, route={"backend": f"ws://127.0.0.1:{public}/"})
        async with serving(text) as served:
            with await served.connect() as client:
                await client.send(request())
                assert await rejected_with(client) == ("508", "backend_rejected")
            await served.records.wait("connection.rejected", reason="loop_detected")
            await served.quiet()
            assert len(served.records.endings) == 2


@pytest.mark.usefixtures("hosts")
async def test_chains_within_one_process_work() -> None:
    """TCP to WebSocket to WebSocket to TCP, over four routes: none comes twice."""
    ports = [free_port() for _ in range(3)]
    async with backend() as back:
        text = written(
            listeners={
                "raw": {"bind": "127.0.0.1:0", "protocol": "tcp", "route": "a"},
                "b": {"bind": f"127.0.0.1:{ports[0]}", "host_names": "gw.test"},
                "c": {"bind": f"127.0.0.1:{ports[1]}"},
                "d": {"bind": f"127.0.0.1:{ports[2]}", "protocol": "tcp", "route": "d"},
            },
            routes={
                "a": {"auth": "none", "backend": f"ws://gw.test:{ports[0]}/"},
                "b": {"match": {"listener": "b"}, "auth": "none", "backend": f"ws://127.0.0.1:{ports[1]}/"},
                "c": {"match": {"listener": "c"}, "auth": "none", "backend": f"tcp://127.0.0.1:{ports[2]}"},
                "d": {"auth": "none", "backend": back.url},
            },
        )
        async with serving(text) as served:
            for _ in range(3):
                with await served.connect("raw") as client:
                    await client.send(b"hello")
                    assert await client.take(5) == b"hello"
            await served.quiet()
            assert back.dials == 3
            assert not [line for line in served.records.endings if line["event"] == "connection.rejected"]
            assert not served.server.services.own_connections.chains


async def chain_seen_by(served: Served, *via: str) -> str:
    """Connect with Via lines; the backend sends what it got."""
    client = await served.upgraded("/", *(f"Via: {line}" for line in via))
    with client:
        return (await client.payload(1000)).rstrip(b" ").decode()


async def test_what_other_servers_learn() -> None:
    """Via has one opaque mark a route; those of other wsbridges are passed on, and nothing else that clients send."""

    async def upstream(stream: trio.SocketStream) -> None:
        head = await accept_upgrade(stream)
        lines = [line for line in head.split("\r\n") if line.lower().startswith("via")]
        await stream.send_all(frame(BINARY, "|".join(lines).encode().ljust(1000), masked=False))
        await stream.receive_some(100)

    foreign = "1.1 wsbridge-0123456789abcdef"
    async with backend(upstream) as back, serving(written(route={"backend": f"ws://127.0.0.1:{back.port}/"})) as served:
        plain = await chain_seen_by(served)
        assert plain.startswith("Via: 1.1 wsbridge-")
        assert "app" not in plain
        own = plain.removeprefix("Via: ")
        assert await chain_seen_by(served) == plain
        assert await chain_seen_by(served, "1.1 secret-proxy, " + foreign, "1.0 x") == f"Via: {foreign}, {own}"

        async def rejected(*via: str) -> tuple[str, str]:
            with await served.connect() as client:
                await client.send(request("/", *(f"Via: {line}" for line in via)))
                return await rejected_with(client)

        assert await rejected(f"{foreign}, {own}") == ("508", "loop_detected")
        assert await rejected(*[f"1.1 wsbridge-{number:016x}" for number in range(16)]) == ("508", "loop_detected")
        await served.records.wait("connection.rejected", 2)
        assert "16 are the most" in served.records.of("connection.rejected")[1]["detail"]


def test_the_daemon_ends_a_loop_at_once() -> None:
    """The real process: one request to a route that leads back to it, by a link, opens a handful of descriptors."""
    listeners = {"raw": {"bind": "unix:@FOLDER@/gw.sock", "protocol": "tcp", "route": "app"}}
    text = json.dumps(
        {"listeners": listeners, "routes": {"app": {"auth": "none", "backend": "unix:@FOLDER@/link.sock"}}}
    )
    with Daemon(text) as daemon, socket.socket(socket.AF_UNIX) as client:
        (daemon.folder / "link.sock").symlink_to(daemon.folder / "gw.sock")
        before = daemon.descriptors()
        client.settimeout(10)
        client.connect(str(daemon.folder / "gw.sock"))
        assert client.recv(1) == b""
        line = daemon.wait("connection.rejected", reason="loop_detected")
        assert "route app" in line["detail"]
        assert daemon.descriptors() <= before + 4
        assert len(daemon.log_lines("connection.rejected")) == 1
