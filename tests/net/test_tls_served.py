"""TLS connections that time out on a listener."""

from __future__ import annotations

import socket

import pytest
import trio

from tests.authority import client_context
from tests.serving import serving, written
from wsbridge.reasons import Reason


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"], ids=["silent", "keep-alive"])
async def test_an_idle_connection_is_closed_with_close_notify(sent: bytes) -> None:
    """The client sees an orderly end, and no truncation."""
    text = written(routes={"health": {"match": "any", "respond": 200}}, tls=True, timeouts={"handshake": "200ms"})

    def talk(port: int) -> bytes:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=5) as sock,
            client_context().wrap_socket(sock, server_hostname="localhost", suppress_ragged_eofs=False) as tls,
        ):
            if sent:
                tls.sendall(sent)
            received = b""
            while data := tls.recv(1000):  # raises where the connection ends without close_notify
                received += data
            return received

    async with serving(text) as served:
        received = await trio.to_thread.run_sync(talk, served.port())
    assert received.startswith(b"HTTP/1.1 200 " if sent else b"")


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"], ids=["silent", "keep-alive"])
async def test_a_shutdown_closes_idle_connections_with_close_notify(sent: bytes) -> None:
    """The client sees an orderly end when the server stops, and no truncation."""
    text = written(routes={"health": {"match": "any", "respond": 200}}, tls=True, timeouts={"drain": "400ms"})
    idle = trio.Event()

    def talk(port: int) -> bytes:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=5) as sock,
            client_context().wrap_socket(sock, server_hostname="localhost", suppress_ragged_eofs=False) as tls,
        ):
            received = b""
            if sent:
                tls.sendall(sent)
                received = tls.recv(1000)
            trio.from_thread.run_sync(idle.set)
            while data := tls.recv(1000):  # raises where the connection ends without close_notify
                received += data
            return received

    async def stop() -> None:
        await idle.wait()
        served.server.stop(Reason.DRAINING)

    async with serving(text) as served, trio.open_nursery() as nursery:
        nursery.start_soon(stop)
        received = await trio.to_thread.run_sync(talk, served.port())
    assert received.startswith(b"HTTP/1.1 200 " if sent else b"")
