"""A server inside the test: built from a configuration by the real loader, on loopback, with its log at hand."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NoReturn

import trio
from structlog import DropEvent
from structlog.processors import ExceptionRenderer, add_log_level
from structlog.typing import EventDict

from tests.authority import listener_tls
from tests.client import Client, accept_of
from wsbridge.config.load import load_text
from wsbridge.config.model import Config
from wsbridge.log.format import clean_values
from wsbridge.log.logger import log
from wsbridge.log.writer import write_immediately
from wsbridge.net.listeners import ListeningSockets
from wsbridge.net.socket_activation import PassedSockets
from wsbridge.reasons import Reason
from wsbridge.registry import CONFIG_REGISTRY
from wsbridge.server import Server

QUICK = {
    "close": "3s",
    "lingering": "1s",
    "drain": "1s",
    "drain_spread": "300ms",
    "connect": "10s",
    "half_close": "3s",
}
"""Timeouts of tests that do not care."""

served_configurations = 0
"""How many servers there have been in this process."""

Handler = Callable[[trio.SocketStream], Awaitable[None]]


def written(
    *,
    listeners: dict[str, Any] | None = None,
    routes: dict[str, Any] | None = None,
    timeouts: dict[str, str] | None = None,
    limits: dict[str, Any] | None = None,
    tls: bool = False,
    route: dict[str, Any] | None = None,
    **rest: Any,
) -> str:
    """Write a configuration; JSON is YAML.

    Args:
        listeners: Left out: one, `web`, on a free port of 127.0.0.1.
        routes: Left out: one, `app`, that matches all.
        timeouts: In place of some of `QUICK`.
        limits: As in the file.
        tls: Whether the listener left out has TLS.
        route: Keys of the route left out.
        rest: Other top-level keys.
    """
    web: dict[str, Any] = {"bind": "127.0.0.1:0"}
    if tls:
        web["tls"] = listener_tls()
    return json.dumps(
        {
            "listeners": listeners or {"web": web},
            "routes": routes
            or {
                "app": {
                    "match": "any",
                    **({} if not route or "backend" not in route else {"auth": "none"}),
                    **(route or {}),
                }
            },
            "timeouts": {**QUICK, **(timeouts or {})},
            "limits": limits or {},
            **rest,
        }
    )


def config_of(text: str, folder: Path | None = None) -> Config:
    """Load a configuration by the real loader."""
    return load_text(text, file="test.yaml", registry=CONFIG_REGISTRY, environ={}, directory=folder).config


class Records:
    """What was logged."""

    def __init__(self) -> None:
        self.all: list[dict[str, Any]] = []
        self._more = trio.Event()

    def put(self, _logger: object, _level: str, fields: EventDict) -> NoReturn:
        """Keep one record; a structlog processor at the place of the log's format."""
        self.all.append(dict(fields))
        self._more.set()
        raise DropEvent

    def of(self, event: str, **facts: object) -> list[dict[str, Any]]:
        """Give the records of one event with these facts."""
        return [r for r in self.all if r["event"] == event and all(r.get(k) == v for k, v in facts.items())]

    async def wait(self, event: str, count: int = 1, **facts: object) -> dict[str, Any]:
        """Wait until so many are there, and give the last."""
        with trio.fail_after(30):
            while len(self.of(event, **facts)) < count:
                self._more = trio.Event()
                await self._more.wait()
        return self.of(event, **facts)[count - 1]

    async def ended(self, count: int = 1) -> dict[str, Any]:
        """Wait for the line of the next connection that ended, refused or relayed."""
        with trio.fail_after(30):
            while len(self.endings) < count:
                self._more = trio.Event()
                await self._more.wait()
        return self.endings[count - 1]

    @property
    def endings(self) -> list[dict[str, Any]]:
        """The lines of connections."""
        return [r for r in self.all if r["event"] in ("connection.closed", "connection.rejected")]


@contextlib.contextmanager
def recording() -> Iterator[Records]:
    """Collect what is logged."""
    records = Records()
    level = log.level
    log.set_output([add_log_level, ExceptionRenderer(), clean_values, records.put], lambda _: None)
    log.set_level("debug")
    try:
        yield records
    finally:
        write_immediately()
        log.set_level(level)


class Served:
    """A server that runs."""

    def __init__(self, server: Server, records: Records) -> None:
        self.server = server
        self.records = records
        self.addresses: dict[str, str] = {}
        self.returned = trio.Event()

    def opened(self, listening: list[ListeningSockets]) -> None:
        """Note where it listens."""
        self.addresses = {one.name: one.addresses[0] for one in listening}

    def port(self, listener: str = "web") -> int:
        """Give the port of a listener."""
        return int(self.addresses[listener].rpartition(":")[2])

    async def connect(self, listener: str = "web", *, tls: bool = False) -> Client:
        """Connect a client."""
        return await Client.connect(self.port(listener), tls=tls)

    async def upgraded(self, path: str = "/", *headers: str, listener: str = "web", tls: bool = False) -> Client:
        """Connect a client and have it upgraded."""
        client = await self.connect(listener, tls=tls)
        try:
            await client.upgrade(path, *headers)
        except BaseException:
            client.drop()
            raise
        return client

    async def quiet(self, connections: int = 0) -> None:
        """Wait until no more connections than that are left."""
        with trio.fail_after(30):
            while len(self.server.connections) + self.server.services.active_overload_replies > connections:
                await trio.sleep(0.01)


@contextlib.asynccontextmanager
async def serving(
    text: str,
    *,
    folder: Path | None = None,
    once: bool = False,
    open_level: Literal["debug", "info"] = "debug",
    passed_sockets: PassedSockets | None = None,
) -> AsyncIterator[Served]:
    """Run a server; at the end it is stopped and must leave nothing behind, and nothing may be logged as a bug."""
    global served_configurations
    served_configurations += 1
    with recording() as records:
        server = Server(
            config_of(text, folder), one_connection=once, open_level=open_level, passed_sockets=passed_sockets
        )
        served = Served(server, records)
        ready = trio.Event()

        def opened(listening: list[ListeningSockets]) -> None:
            served.opened(listening)
            ready.set()

        async def run() -> None:
            await server.run(opened)
            served.returned.set()

        with trio.fail_after(120):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run)
                await ready.wait()
                yield served
                server.stop(Reason.SHUTDOWN)
        assert len(server.connections) == server.services.active_overload_replies == 0
        assert not server.services.engine.connection_ids
        assert not records.of("internal_error")


def open_files() -> int:
    """Count the open descriptors of this process."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def echo(stream: trio.SocketStream) -> None:
    """Serve one connection of a backend: send back what comes."""
    while data := await stream.receive_some(65536):
        await stream.send_all(data)


def reset(stream: trio.SocketStream) -> None:
    """Reset a connection."""
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    stream.socket.close()


class Backend:
    """A backend of the test.

    Attributes:
        port: Where it listens.
        dials: How many connections came.
        open: How many are open.
        lost: How many ended by a reset.
        finished: How many ended in order.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.dials = self.open = self.lost = self.finished = 0

    @property
    def url(self) -> str:
        """What a route says."""
        return f"tcp://127.0.0.1:{self.port}"

    async def until(self, **counts: int) -> None:
        """Wait until the counts are these."""
        with trio.fail_after(30):
            while any(getattr(self, name) != count for name, count in counts.items()):
                await trio.sleep(0.005)


@contextlib.asynccontextmanager
async def backend(handler: Handler = echo) -> AsyncIterator[Backend]:
    """Serve every connection by a function of the test."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    state = Backend(listener.socket.getsockname()[1])

    async def serve(stream: trio.SocketStream) -> None:
        state.dials += 1
        state.open += 1
        try:
            await handler(stream)
            state.finished += 1
        except (trio.BrokenResourceError, ConnectionError):
            state.lost += 1
        except trio.ClosedResourceError:
            pass
        finally:
            state.open -= 1
            stream.socket.close()

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, serve, [listener])
            yield state
            nursery.cancel_scope.cancel()
    finally:
        listener.socket.close()


async def read_head(stream: trio.SocketStream) -> str:
    """Read a request head as a WebSocket backend does."""
    head = b""
    while b"\r\n\r\n" not in head:
        data = await stream.receive_some(65536)
        if not data:
            raise trio.BrokenResourceError("no whole head")
        head += data
    return head.decode("latin-1")


async def accept_upgrade(stream: trio.SocketStream, *headers: str, glued: bytes = b"") -> str:
    """Answer an upgrade as a WebSocket backend does; give the request's head."""
    head = await read_head(stream)
    key = next(line.partition(": ")[2] for line in head.split("\r\n") if line.startswith("Sec-WebSocket-Key"))
    lines = [
        "HTTP/1.1 101 Switching Protocols",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Accept: {accept_of(key)}",
        *headers,
    ]
    await stream.send_all(("\r\n".join(lines) + "\r\n\r\n").encode() + glued)
    return head
