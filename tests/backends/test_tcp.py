"""TCP backends: what a dial gives, and what its failures are called."""

from __future__ import annotations

import socket

from tests.rejections import async_outcome
from wsbridge.backends.base import Connected, DialRequest, DialServices
from wsbridge.backends.tcp import TcpBackend, TcpBackendConfig
from wsbridge.net.resolver import Resolver
from wsbridge.reasons import Reason, Termination


def tcp(port, host="127.0.0.1"):
    """A backend for a port of this machine."""
    return TcpBackend(TcpBackendConfig(url=f"tcp://{host}:{port}"), DialServices(Resolver()))


async def test_a_dial():
    """A raw endpoint on a tuned socket, with the address that was reached."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        backend = tcp(port)
        dialled = await backend.dial(DialRequest())

    assert isinstance(dialled, Connected)
    assert backend.name == f"tcp://127.0.0.1:{port}"
    assert (dialled.subprotocol, dialled.address) == (None, f"127.0.0.1:{port}")
    assert dialled.side.role == "raw"
    assert dialled.side.transport.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    dialled.side.transport.close()


async def test_refused():
    """Nobody listens: a reason, and nothing at once."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        end = await async_outcome(tcp(port).dial(DialRequest()))
        at_once = tcp(port).connect_nowait(DialRequest())

    assert end.termination() == Termination(Reason.BACKEND_REFUSED, "backend", f"127.0.0.1:{port}: Connection refused")
    assert at_once is None


async def test_a_loopback_address_is_reached_at_once():
    """Without a wait, and the same as by a dial."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        dialled = tcp(port).connect_nowait(DialRequest())

        assert dialled is not None
        assert (dialled.subprotocol, dialled.address) == (None, f"127.0.0.1:{port}")
        assert dialled.side.transport.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert not dialled.side.transport.sock.getblocking()
        dialled.side.transport.close()


async def test_other_addresses_are_never_reached_at_once(monkeypatch):
    """A name has to be looked up, and another host may keep one waiting: it is not even tried."""
    monkeypatch.setattr("wsbridge.backends.tcp.dial_nowait", None)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        assert tcp(port, "localhost").connect_nowait(DialRequest()) is None
        assert tcp(9, "192.0.2.1").connect_nowait(DialRequest()) is None
