"""Both sides of a takeover in one process: a server that can be taken over from, and one that takes over."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from functools import partial
from pathlib import Path

import trio
import trio.testing

from tests.serving import Served, config_of, serving
from wsbridge.admin.api import AdminApi, MonitoringApi
from wsbridge.admin.endpoints import AdminEndpoint, build_endpoints
from wsbridge.admin.takeover import Handover, Takeover
from wsbridge.config.model import Config
from wsbridge.reasons import Reason
from wsbridge.reload import Reloader
from wsbridge.server import Server
from wsbridge.sessions.handover import SessionAdopter


class Running:
    """A server that can be taken over from.

    Attributes:
        served: The server.
        reloader: Reloads the same configuration.
        path: Its admin socket.
        config: Its configuration.
    """

    def __init__(self, served: Served, reloader: Reloader, path: Path, config: Config) -> None:
        self.served, self.reloader, self.path, self.config = served, reloader, path, config


@contextlib.asynccontextmanager
async def running(text: str, path: Path, environ: Mapping[str, str] | None = None) -> AsyncIterator[Running]:
    """Run a server and its admin API, as the daemon does.

    Args:
        text: The configuration.
        path: Its admin socket.
        environ: See `Handover`.
    """
    config = config_of(text)
    async with serving(text) as served, trio.open_nursery() as nursery:
        endpoints: list[AdminEndpoint] = []
        reloader = Reloader(served.server, None, parts=endpoints)
        handover = Handover(served.server, endpoints, reloader, environ or {})
        api = AdminApi(served.server, reloader, reloader.reload, handover.handle)
        endpoints += build_endpoints(api, MonitoringApi(served.server), {}, nursery)
        for endpoint in endpoints:
            await endpoint.prepare(config)
            endpoint.commit()
        await trio.testing.wait_all_tasks_blocked()
        try:
            yield Running(served, reloader, path, config)
        finally:
            for endpoint in endpoints:
                endpoint.close()
            nursery.cancel_scope.cancel()


async def begin(path: Path) -> Takeover:
    """Ask for the sockets; there is a process that has them."""
    found = await Takeover.begin(str(path))
    assert found is not None
    return found


@contextlib.asynccontextmanager
async def asking(path: Path) -> AsyncIterator[trio.SocketStream]:
    """Ask for the sockets as another program; gives the connection, on which the offer has come."""
    async with await trio.open_unix_socket(path) as stream:
        await stream.send_all(
            b"POST /v1/takeover HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: wsbridge-takeover\r\n\r\n"
        )
        offer = b""
        while not offer.endswith(b"]}\n\n"):
            offer += await stream.receive_some()
        yield stream


class Successor:
    """A server that has taken over the sockets, and may adopt the sessions.

    Attributes:
        server: The server.
        adopter: Adopts the sessions.
        takeover: Its connection to the other one.
    """

    def __init__(self, server: Server, takeover: Takeover) -> None:
        self.server, self.takeover = server, takeover
        self.adopter = SessionAdopter(server.services, lambda: server.generation, server.acceptor.next_id)

    async def adopt(self) -> tuple[int, int, int]:
        """Adopt all sessions; give how many were adopted, ended and lost."""
        await self.takeover.adopt_sessions(self.adopter)
        counts = self.adopter.counts
        return counts.adopted, counts.ended, counts.lost


@contextlib.asynccontextmanager
async def taking_over(path: Path, text: str) -> AsyncIterator[Successor]:
    """Run a server that takes over from the one with an admin socket; it serves, and adopts nothing by itself."""
    takeover = await begin(path)
    server = Server(config_of(text))
    ready = trio.Event()
    complete = partial(takeover.complete, server.services.sessions)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.run, lambda _: ready.set(), None, takeover.sockets, complete)
        await ready.wait()
        try:
            yield Successor(server, takeover)
        finally:
            takeover.close()
            server.stop(Reason.SHUTDOWN)
