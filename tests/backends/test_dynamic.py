"""Backends that dial what a client chose: each kind, and those whose kind is part of the choice."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

import pytest
import trio

from tests.backends.upstream import SWITCH, says, upstream
from tests.rejections import async_outcome
from tests.tls_contexts import server_context
from wsbridge.backends.base import Backend, Connected, DialRequest, DialServices
from wsbridge.backends.dynamic import DynamicBackend, TargetFromIdentityConfig, TokensBackendConfig
from wsbridge.backends.tcp import (
    TcpBackend,
    TcpBackendConfig,
    TlsBackend,
    TlsBackendConfig,
    UnixBackend,
    UnixBackendConfig,
)
from wsbridge.backends.websocket import WebSocketBackend, WebSocketBackendConfig
from wsbridge.config.urls import Target, read_target
from wsbridge.net.address import Address
from wsbridge.net.resolver import Resolver
from wsbridge.reasons import Reason, Rejected

SERVICES = DialServices(Resolver())


class Choice:
    """A choice that says what the test says, and notes what it was asked."""

    def __init__(self, url: str, wrong: str | None = None) -> None:
        self.target: Target = read_target(url)
        self.wrong = wrong
        self.asked: list[str] = []

    def check_address(self, address: Address) -> str | None:
        """See `ChosenTarget.check_address`."""
        self.asked.append(str(address))
        return self.wrong

    async def resolve_path(self) -> str:
        """See `ChosenTarget.resolve_path`."""
        self.asked.append(self.target.path)
        if self.wrong is not None:
            raise Rejected(Reason.FORBIDDEN, self.wrong)
        return self.target.path


def identity_backend(*schemes: str) -> DynamicBackend:
    """Give a backend for what goes with an identity."""
    return DynamicBackend(
        TargetFromIdentityConfig.model_validate({"url": "{target}", "schemes": list(schemes)}), SERVICES
    )


BACKENDS: list[Backend] = [
    TcpBackend(TcpBackendConfig.model_validate({"url": "tcp://{h}:{p}"}), SERVICES),
    identity_backend("tcp"),
    DynamicBackend(TokensBackendConfig.model_validate({"tokens": "/t"}), SERVICES),
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("at_once", [False, True])
async def test_tcp(backend: Backend, at_once: bool) -> None:
    """The target is dialled after its address was judged; the log has its address."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        chosen = Choice(f"tcp://127.0.0.1:{port}")
        dialled = (
            backend.connect_nowait(DialRequest(chosen=chosen))
            if at_once
            else await async_outcome(backend.dial(DialRequest(chosen=chosen)))
        )

        assert isinstance(dialled, Connected)
        assert dialled.address == f"127.0.0.1:{port}"
        assert chosen.asked == [f"127.0.0.1:{port}"]
        dialled.side.transport.close()
        server.accept()[0].close()


@pytest.mark.parametrize("backend", BACKENDS)
async def test_what_may_not_be_dialled_is_not(backend: Backend) -> None:
    """Neither at once nor after a wait."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        offer = DialRequest(chosen=Choice(f"tcp://127.0.0.1:{server.getsockname()[1]}", "no"))
        assert backend.connect_nowait(offer) is None
        end = await async_outcome(backend.dial(offer))

        assert isinstance(end, Rejected)
        assert (end.reason, end.initiator, end.termination().http_status) == (Reason.FORBIDDEN, "client", 403)
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.mark.parametrize(
    "backend", [UnixBackend(UnixBackendConfig(url="unix:/{x}"), SERVICES), identity_backend("unix"), BACKENDS[2]]
)
async def test_unix(tmp_path: Path, backend: Backend) -> None:
    """The path is judged before, so nothing is connected at once."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        server.listen()
        chosen = Choice(f"unix:{tmp_path}/s")
        assert backend.connect_nowait(DialRequest(chosen=chosen)) is None
        dialled = await backend.dial(DialRequest(chosen=chosen))
        assert isinstance(dialled, Connected)
        assert dialled.address == f"unix:{tmp_path}/s"
        dialled.side.transport.close()
        server.accept()[0].close()

        end = await async_outcome(backend.dial(DialRequest(chosen=Choice(f"unix:{tmp_path}/s", "no"))))
        assert isinstance(end, Rejected)
        assert end.reason is Reason.FORBIDDEN
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


async def test_tls(issue, ca_file) -> None:
    """The chosen host is asked for and verified."""
    asked: list[str | None] = []
    context = server_context([issue("127.0.0.1", "localhost")])
    context.sni_callback = lambda sock, name, _: asked.append(name)

    async def serve(stream: trio.SocketStream) -> None:
        secure = trio.SSLStream(stream, context, server_side=True)
        with contextlib.suppress(trio.BrokenResourceError):
            await secure.do_handshake()

    backend = TlsBackend(TlsBackendConfig.model_validate({"url": "tls://{h}:{p}", "ca": ca_file}), SERVICES)
    async with trio.open_nursery() as nursery, Resolver() as resolver:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        port = listener.socket.getsockname()[1]
        backend._services = DialServices(resolver)
        for host, reason in (("localhost", None), ("127.0.0.1", None), ("127.0.0.2", Reason.BACKEND_REFUSED)):
            chosen = Choice(f"tls://{host}:{port}")
            with trio.fail_after(9):
                found = await async_outcome(backend.dial(DialRequest(chosen=chosen)))
            assert chosen.asked
            if isinstance(found, Connected):
                found.side.transport.close()
            assert (found.reason if isinstance(found, Rejected) else None) == reason
        nursery.cancel_scope.cancel()
    assert asked[0] == "localhost"


@pytest.mark.parametrize(("server_name", "host"), [(None, "127.0.0.1"), ("gw.example.org", "gw.example.org")])
async def test_websocket(server_name: str | None, host: str) -> None:
    """The Host header has the chosen host, or the name that is written, and the port; the path is the chosen one."""
    config = {"url": "ws://{h}:{p}/x", **({"server_name": server_name} if server_name else {})}
    backend = WebSocketBackend(WebSocketBackendConfig.model_validate(config), SERVICES)
    async with upstream(says(SWITCH + b"\r\n")) as server:
        found = await backend.dial(DialRequest(chosen=Choice(f"ws://127.0.0.1:{server.port}/room/7?a=b")))
        assert isinstance(found, Connected)
        found.side.transport.close()
        assert server.requests[0].startswith("GET /room/7?a=b HTTP/1.1\r\n")
        assert f"Host: {host}:{server.port}\r\n" in server.requests[0]
        assert isinstance(
            await async_outcome(backend.dial(DialRequest(chosen=Choice(f"ws://127.0.0.1:{server.port}/", "no")))),
            Rejected,
        )
        assert len(server.requests) == 1


async def test_the_kind_follows_the_target() -> None:
    """One backend speaks WebSocket to one target and plain TCP to the next."""
    backend = identity_backend("tcp", "ws")
    async with upstream(says(SWITCH + b"\r\n")) as server:
        for scheme in ("ws", "tcp"):
            found = await backend.dial(DialRequest(chosen=Choice(f"{scheme}://127.0.0.1:{server.port}")))
            assert isinstance(found, Connected)
            assert found.side.role == ("client" if scheme == "ws" else "raw")
            found.side.transport.close()
