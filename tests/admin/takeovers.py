"""Both sides of a takeover in one process: a server that can be taken over from, and one that takes over."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import trio
import trio.testing

from tests.serving import Served, config_of, serving
from wsbridge.admin.api import AdminApi, MonitoringApi
from wsbridge.admin.endpoints import AdminEndpoint, build_endpoints
from wsbridge.admin.takeover import Handover, Takeover
from wsbridge.config.model import Config
from wsbridge.net.listeners import InheritedSockets
from wsbridge.reasons import Reason
from wsbridge.reload import Reloader
from wsbridge.server import Server
from wsbridge.sessions.handover import SessionAdopter


class Administered:
    """A server with its admin API, as the daemon has them; `close` it.

    Args:
        server: The server.
        nursery: For the requests.
        environ: See `Handover`.
        inherited: See `build_endpoints`.

    Attributes:
        reloader: Reloads the same configuration.
    """

    def __init__(
        self,
        server: Server,
        nursery: trio.Nursery,
        environ: Mapping[str, str] | None = None,
        inherited: InheritedSockets | None = None,
    ) -> None:
        self._endpoints: list[AdminEndpoint] = []
        self.reloader = Reloader(server, None, parts=self._endpoints)
        handover = Handover(server, self._endpoints, self.reloader, environ or {})
        api = AdminApi(server, self.reloader, self.reloader.reload, handover.handle)
        self._endpoints += build_endpoints(api, MonitoringApi(server), {}, nursery, inherited)

    async def prepare(self, config: Config) -> None:
        """See `AdminEndpoint.prepare`."""
        for endpoint in self._endpoints:
            await endpoint.prepare(config)

    def commit(self) -> None:
        """See `AdminEndpoint.commit`."""
        for endpoint in self._endpoints:
            endpoint.commit()

    def close(self) -> None:
        """Close the admin sockets."""
        for endpoint in self._endpoints:
            endpoint.close()


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
    """Run a server and its admin API.

    Args:
        text: The configuration.
        path: Its admin socket.
        environ: See `Handover`.
    """
    config = config_of(text)
    async with serving(text) as served, trio.open_nursery() as nursery:
        administered = Administered(served.server, nursery, environ)
        await administered.prepare(config)
        administered.commit()
        await trio.testing.wait_all_tasks_blocked()
        try:
            yield Running(served, administered.reloader, path, config)
        finally:
            administered.close()
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
    config = config_of(text)
    server = Server(config)
    ready = trio.Event()
    async with trio.open_nursery() as nursery:
        administered = Administered(server, nursery, inherited=takeover.sockets)
        await administered.prepare(config)

        async def complete() -> None:
            await takeover.complete(server.services.sessions)
            administered.commit()

        async def run() -> None:
            await server.run(lambda _: ready.set(), None, takeover.sockets, complete)
            administered.close()

        nursery.start_soon(run)
        await ready.wait()
        try:
            yield Successor(server, takeover)
        finally:
            takeover.close()
            server.stop(Reason.SHUTDOWN)
