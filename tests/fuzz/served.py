"""A server with an admin API in a thread, for examples of hypothesis, which are no coroutines."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import trio

from tests.serving import Records, config_of, recording
from wsbridge.admin.api import AdminApi, MonitoringApi
from wsbridge.admin.endpoints import AdminEndpoint, build_endpoints
from wsbridge.admin.metrics import Metrics
from wsbridge.config.load import load_file
from wsbridge.reasons import Reason
from wsbridge.registry import CONFIG_REGISTRY
from wsbridge.reload import Reloader, ReloadResult
from wsbridge.server import Server

PATIENCE = 60.0


class ServedInThread:
    """What runs in the thread.

    Attributes:
        server: The server.
        config: The file that `reload` reads.
        records: What was logged.
    """

    def __init__(self, text: str, config: Path, records: Records) -> None:
        self.config = config
        self.records = records
        self.server: Server
        self._text = text
        self._reloader: Reloader
        self._ready = threading.Event()
        self._token: trio.lowlevel.TrioToken
        self._thread = threading.Thread(target=trio.run, args=(self._run,))

    async def _run(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self.server = Server(config_of(self._text))
        endpoints: list[AdminEndpoint] = []
        self._reloader = Reloader(
            self.server, lambda: load_file(self.config, CONFIG_REGISTRY, {}), lambda _: None, endpoints
        )
        async with trio.open_nursery() as nursery:
            metrics = Metrics(self.server, self._reloader)
            api = AdminApi(self.server, self._reloader, self._reloader.reload, metrics=metrics)
            endpoints += build_endpoints(api, MonitoringApi(self.server, metrics), {}, nursery)
            for endpoint in endpoints:
                await endpoint.prepare(config_of(self._text))
                endpoint.commit()
            await self.server.run(lambda _: self._ready.set())
            for endpoint in endpoints:
                endpoint.close()
            nursery.cancel_scope.cancel()

    @property
    def port(self) -> int:
        """Where the first listener listens now."""
        return int(self.server.listeners[0].listening.addresses[0].rpartition(":")[2])

    def call(self, function: Callable[..., Awaitable[Any]], *arguments: object) -> Any:
        """Call a coroutine function in the thread."""
        return trio.from_thread.run(function, *arguments, trio_token=self._token)

    def reload(self, data: bytes) -> ReloadResult:
        """Write the file and reload it."""
        self.config.write_bytes(data)
        result: ReloadResult = self.call(self._reloader.reload)
        return result

    def send(self, address: str | tuple[str, int], data: bytes) -> bytes:
        """Send bytes and the end, and read to the end; a reset is one."""
        with socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET) as sock:
            sock.settimeout(PATIENCE)
            sock.connect(address)
            received = b""
            with contextlib.suppress(ConnectionError, BrokenPipeError):
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)
                while part := sock.recv(65536):
                    received += part
            return received

    def __enter__(self) -> ServedInThread:
        self._thread.start()
        assert self._ready.wait(PATIENCE)
        return self

    def __exit__(self, *_: object) -> None:
        trio.from_thread.run_sync(self.server.stop, Reason.SHUTDOWN, trio_token=self._token)
        self._thread.join(PATIENCE)
        assert not self.records.of("internal_error"), self.records.of("internal_error")


@contextlib.contextmanager
def served_in_thread(text: str, config: Path) -> Iterator[ServedInThread]:
    """Run a server with this configuration, which may have an admin API."""
    with recording() as records, ServedInThread(text, config, records) as served:
        yield served
