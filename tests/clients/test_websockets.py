"""The `websockets` library, an implementation of its own, as the client and as the server."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.sync.server import ServerConnection, serve

from tests.authority import folder, threaded_client_context
from tests.clients.program import PATIENCE
from tests.clients.servers import echo, serving
from tests.process.daemon import Daemon


@contextmanager
def joined(url: str, **options: object) -> Iterator[ClientConnection]:
    """Connect without a proxy, and without any limit to a message."""
    with connect(url, proxy=None, max_size=None, open_timeout=PATIENCE, **options) as client:
        yield client


def collect(client: ClientConnection, size: int) -> bytes:
    """Receive messages until so many bytes are there."""
    got = bytearray()
    while len(got) < size:
        message = client.recv(timeout=PATIENCE)
        assert isinstance(message, bytes)
        got += message
    return bytes(got)


@pytest.mark.parametrize("tls", [False, True], ids=["ws", "wss"])
def test_client(tls: bool) -> None:
    """Text and binary, whole and in fragments, reach a TCP service as bytes and come back as bytes."""
    certificates = (
        f"tls: {{certificates: [{{cert: {folder() / 'cert.pem'}, key: {folder() / 'key.pem'}}}]}}" if tls else ""
    )
    context = threaded_client_context() if tls else None
    with (
        serving(echo) as port,
        Daemon(
            f"""
            listeners:
              web:
                bind: 127.0.0.1:0
                {certificates}
            routes:
              echo: {{match: {{path: /echo}}, backend: 'tcp://127.0.0.1:{port}', auth: none}}
            """,
        ) as bridge,
    ):
        url = f"{'wss' if tls else 'ws'}://localhost:{bridge.port()}"
        blob = os.urandom(3_000_000)
        with joined(f"{url}/echo", ssl=context, subprotocols=["chat", "binary"]) as client:
            assert client.subprotocol == "binary"
            client.send("größe")
            assert collect(client, 7) == "größe".encode()
            client.send(["a", "", "bc"])
            assert collect(client, 3) == b"abc"
            sender = Thread(target=client.send, args=(blob,))
            sender.start()
            assert collect(client, len(blob)) == blob
            sender.join()
            assert client.ping().wait(PATIENCE)
            client.close(4321, "enough")
        end = bridge.wait("connection.closed", route="echo")
        assert (end["reason"], end["close_code"]) == ("client_closed", 4321)
        assert end["bytes_to_backend"] == end["bytes_to_client"] == 7 + 3 + len(blob)

        with pytest.raises(InvalidStatus) as refused, joined(f"{url}/other", ssl=context):
            pass
        assert refused.value.response.status_code == 404


def test_server_closes() -> None:
    """When the backend closes, the client gets its last bytes, then 1000 with the reason."""
    with (
        serving(lambda sock: sock.sendall(b"bye")) as port,
        Daemon(
            f"""
            listeners: {{web: {{bind: '127.0.0.1:0'}}}}
            routes: {{all: {{match: any, backend: 'tcp://127.0.0.1:{port}', auth: none}}}}
            """,
        ) as bridge,
        joined(f"ws://127.0.0.1:{bridge.port()}/") as client,
    ):
        assert collect(client, 3) == b"bye"
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(timeout=PATIENCE)
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1000, "backend_closed")


def answer(client: ServerConnection) -> None:
    """Send back each message as it is, and close with a code of ours when asked to."""
    for message in client:
        if message == "leave":
            client.close(4444, "as you wish")
            return
        client.send(message)


@pytest.fixture
def server() -> Iterator[int]:
    """A server of the `websockets` library; gives its port."""
    with serve(answer, "127.0.0.1", 0, max_size=None, subprotocols=["mqtt", "binary"]) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server.socket.getsockname()[1]
        server.shutdown()
        thread.join()


def test_both(server: int) -> None:
    """From WebSocket to WebSocket, messages keep their bounds and types, and code and reason pass through."""
    with (
        Daemon(
            f"""
            listeners: {{web: {{bind: '127.0.0.1:0'}}}}
            routes:
              inner:
                match: any
                backend: ws://127.0.0.1:{server}/inner
                subprotocols: [binary, mqtt]
                auth: none
            """,
        ) as bridge,
        joined(f"ws://127.0.0.1:{bridge.port()}/", subprotocols=["binary", "mqtt"]) as client,
    ):
        assert client.subprotocol == "mqtt"
        blob = os.urandom(300_000)
        for message in ("text", b"bytes", "", b"", "größe" * 40_000, blob):
            client.send(message)
            assert client.recv(timeout=PATIENCE) == message
        client.send("leave")
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(timeout=PATIENCE)
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4444, "as you wish")


def test_server(server: int) -> None:
    """A plain TCP client talks to a WebSocket server: its bytes come back, and its end becomes a close."""
    with (
        Daemon(
            f"""
            listeners: {{old: {{bind: '127.0.0.1:0', protocol: tcp, route: inner}}}}
            routes: {{inner: {{backend: 'ws://127.0.0.1:{server}/', auth: none}}}}
            """,
        ) as bridge,
        socket.create_connection(("127.0.0.1", bridge.port()), PATIENCE) as sock,
    ):
        blob = os.urandom(1_000_000)
        sender = Thread(target=sock.sendall, args=(blob,))
        sender.start()
        got = bytearray()
        while len(got) < len(blob):
            data = sock.recv(65536)
            assert data
            got += data
        sender.join()
        assert bytes(got) == blob
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b""
        assert bridge.wait("connection.closed")["reason"] == "client_closed"
