"""What all backends share: tuned TCP sockets, and the address that is logged."""

from __future__ import annotations

import socket

import pytest

from tests.rejections import async_outcome
from wsbridge.backends import base as module
from wsbridge.backends.base import DialRequest, DialServices, connect_tcp, remote_address
from wsbridge.config.limits import Limits
from wsbridge.net.resolver import Resolver
from wsbridge.reasons import Reason, Termination


async def test_a_connected_socket_is_tuned():
    """Small writes leave at once, and a peer that died is noticed by the system too."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        sock = await connect_tcp(DialServices(Resolver()), *server.getsockname())

    assert isinstance(sock, socket.socket)
    with sock:
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert not sock.getblocking()


async def test_nobody_listens():
    """A reason and the system's words, not an exception."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        end = await async_outcome(connect_tcp(DialServices(Resolver()), "127.0.0.1", port))

    assert end.termination() == Termination(Reason.BACKEND_REFUSED, "backend", f"127.0.0.1:{port}: Connection refused")


async def test_gone_before_it_is_tuned(monkeypatch):
    """A server that resets at once is a failure, not an exception, and its socket is closed."""
    seen = []

    def gone(sock):
        seen.append(sock)
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(module, "set_socket_options", gone)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        end = await async_outcome(connect_tcp(DialServices(Resolver()), "127.0.0.1", port))

    assert end.termination() == Termination(
        Reason.BACKEND_REFUSED, "backend", f"127.0.0.1:{port}: closed at once: Invalid argument"
    )
    assert seen[0].fileno() == -1


@pytest.mark.parametrize(
    ("family", "host", "shown"), [(socket.AF_INET, "127.0.0.1", "127.0.0.1"), (socket.AF_INET6, "::1", "[::1]")]
)
def test_the_address_of_a_socket(family, host, shown):
    """Host and port, an IPv6 address in brackets; the name of the backend where the peer has gone."""
    with socket.create_server((host, 0), family=family) as server:
        port = server.getsockname()[1]
        with socket.create_connection((host, port)) as sock:
            assert remote_address(sock, "tcp://gw:1") == f"{shown}:{port}"
    with socket.socket(family) as sock:
        assert remote_address(sock, "tcp://gw:1") == "tcp://gw:1"


def test_what_is_asked_by_default():
    """No subprotocol, text messages allowed, the largest frames; heads as large as the configuration's defaults."""
    assert DialRequest() == DialRequest((), from_client=False, text_messages="accept", max_frame_bytes=65_536)
    assert DialServices(Resolver()).max_response_head_bytes == Limits().max_response_head_bytes
