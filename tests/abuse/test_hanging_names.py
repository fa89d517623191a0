"""One client that asks for names whose DNS server never answers."""

from __future__ import annotations

import socket
import threading

import pytest
import trio

from tests.client import request
from tests.serving import backend, serving, written
from wsbridge.net.resolver import Resolver


async def test_other_clients_of_the_route_are_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many names a client asks for, other clients get theirs; the log says what its requests wait for."""
    go = threading.Event()

    def getaddrinfo(host: str, port: int, **more: int) -> object:
        if host.startswith("hang"):
            go.wait(20)
        return socket.getaddrinfo("127.0.0.1", port, **more)

    build = Resolver.__init__
    monkeypatch.setattr(build, "__kwdefaults__", {**(build.__kwdefaults__ or {}), "getaddrinfo": getaddrinfo})
    async with backend() as back:
        text = written(
            route={
                "match": {"path": "/to/{host}"},
                "backend": f"tcp://{{host}}:{back.port}",
                "allowed_targets": {"names": ["*.example"], "networks": ["127.0.0.1/32"], "ports": [back.port]},
            },
            limits={"per_address": {"exempt": ["192.0.2.1/32"]}},
            timeouts={"connect": "3s"},
        )
        async with serving(text) as served:

            async def ask(source: str, host: str) -> str:
                stream = await trio.open_tcp_stream("127.0.0.1", served.port(), local_address=source)
                async with stream:
                    await stream.send_all(request(f"/to/{host}"))
                    return (await stream.receive_some(1000)).split(b" ")[1].decode()

            async with trio.open_nursery() as nursery:
                for number in range(12):
                    nursery.start_soon(ask, "127.0.0.2", f"hang{number}.example")
                with trio.fail_after(10):
                    while len(served.server.connections) < 12:
                        await trio.sleep(0.01)
                assert await ask("127.0.0.3", "good.example") == "101"
                await served.records.wait("connection.rejected", 12, reason="backend_timeout")
            details = [line["detail"] for line in served.records.of("connection.rejected", reason="backend_timeout")]
            assert sum("limits.dns_threads_per_address is 2" in detail for detail in details) >= 10
            assert await ask("127.0.0.3", "other.example") == "101"
            go.set()
