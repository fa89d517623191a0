"""TCP and Unix backends: what a dial gives, and what its failures are called."""

import socket

import pytest
import trio

from wsbridge.backends import Dialled, Offer, Services
from wsbridge.backends import backend as module
from wsbridge.backends.tcp import TcpBackend, TcpBackendConfig
from wsbridge.backends.unix import UnixBackend, UnixBackendConfig
from wsbridge.net.resolve import Resolver
from wsbridge.reasons import End, Reason


def tcp(port, host="127.0.0.1"):
    """A backend for a port of this machine."""
    return TcpBackend(TcpBackendConfig(url=f"tcp://{host}:{port}"), Services(Resolver()))


async def test_tcp():
    """A raw endpoint on a tuned socket, with the address that was reached."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        backend = tcp(port)
        dialled = await backend.dial(Offer())

    assert isinstance(dialled, Dialled)
    assert backend.name == f"tcp://127.0.0.1:{port}"
    assert (dialled.subprotocol, dialled.address) == (None, f"127.0.0.1:{port}")
    assert not dialled.endpoint.is_websocket
    sock = socket.socket(fileno=dialled.endpoint.wire.fd)
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    sock.detach()
    dialled.endpoint.wire.close()


async def test_tcp_refused():
    """Nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        end = await tcp(port).dial(Offer())
    assert end == End(Reason.BACKEND_REFUSED, "back", f"127.0.0.1:{port}: Connection refused")


async def test_tcp_gone_before_it_is_tuned(monkeypatch):
    """A server that resets at once is a failure, not an exception."""

    def gone(*_):
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(module, "tune", gone)
    with socket.create_server(("127.0.0.1", 0)) as server:
        end = await tcp(server.getsockname()[1]).dial(Offer())
    assert end.reason is Reason.BACKEND_REFUSED


def test_address_of_a_socket_that_has_gone():
    """The name of the backend stands in."""
    with socket.socket() as sock:
        assert module.address_of(sock, "tcp://gw:1") == "tcp://gw:1"


@pytest.mark.parametrize("form", ["unix:{}", "unix://{}"])
async def test_unix(tmp_path, form):
    """A raw endpoint on the socket file; both spellings of the URL."""
    path = tmp_path / "s"
    backend = UnixBackend(UnixBackendConfig(url=form.format(path)), Services(Resolver()))
    refused = await backend.dial(Offer())
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        dialled = await backend.dial(Offer())
        server.accept()[0].close()

    assert refused == End(Reason.BACKEND_REFUSED, "back", f"unix:{path}: No such file or directory")
    assert dialled.address == f"unix:{path}"
    with trio.fail_after(5):
        assert await dialled.endpoint.wire.read_some() == b""
    dialled.endpoint.wire.close()
