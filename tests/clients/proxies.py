"""Proxies of the tests, in front of the bridge and behind it, and a client with an address different from theirs."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.authority import threaded_client_context
from tests.clients.program import PATIENCE, Program, program
from wsbridge.protocol.proxy import ProxyHeader, ProxyHeaderParser

CLIENT = "127.0.0.9"
"""Where the client of the tests comes from: another address of this host than the proxies'."""
GET = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@contextmanager
def haproxy(folder: Path, port: int, text: str) -> Iterator[int]:
    """Run HAProxy with such sections until it listens on a port; gives the port."""
    config = folder / f"haproxy-{port}.cfg"
    defaults = "" if "defaults" in text else "defaults\ntimeout connect 5s\ntimeout client 60s\ntimeout server 60s\n"
    config.write_text(f"global\nmaxconn 100\n{defaults}{text}")
    with Program(program("haproxy"), "-db", "-f", config) as running:
        yield running.accepts(port)


@contextmanager
def nginx(folder: Path, port: int, text: str) -> Iterator[int]:
    """Run nginx with such sections at its top until it listens on a port; gives the port."""
    config = folder / f"nginx-{port}.conf"
    user = "user root;\n" if os.geteuid() == 0 else ""
    config.write_text(
        f"{_stream()}daemon off;\npid {folder}/nginx-{port}.pid;\nworker_processes 1;\nerror_log stderr;\n{user}"
        f"events {{}}\n{text}\n"
    )
    with Program(program("nginx"), "-e", "stderr", "-c", config, "-p", folder) as running:
        yield running.accepts(port)


def _stream() -> str:
    module = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
    return f"load_module {module};\n" if module.exists() else ""


def temporary(folder: Path) -> str:
    """Give the lines by which nginx's http keeps its files in a directory."""
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    return "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in kinds)


def ask(url: str, port: int) -> tuple[str, str]:
    """Connect to a port from `CLIENT` by WebSocket, send a request and read all of the answer, each as bytes inside.

    Returns:
        The client's address and port, and the body of the answer.
    """
    sock = socket.create_connection(("127.0.0.1", port), PATIENCE, source_address=(CLIENT, 0))
    address = f"{CLIENT}:{sock.getsockname()[1]}"
    context = threaded_client_context() if url.startswith("wss:") else None
    answer = b""
    with connect(url, sock=sock, ssl=context, proxy=None, open_timeout=PATIENCE) as client:
        client.send(GET)
        try:
            while True:
                message = client.recv(timeout=PATIENCE)
                assert isinstance(message, bytes)
                answer += message
        except ConnectionClosed:
            pass
    return address, answer.partition(b"\r\n\r\n")[2].decode().strip()


def report_head(sock: socket.socket) -> None:
    """Serve a connection as a server that wants a PROXY header: the answer to a request is the introduced client."""
    reader = ProxyHeaderParser()
    while reader.result is None:
        reader.feed(sock.recv(1))
    assert isinstance(reader.result, ProxyHeader)
    source = reader.result.source
    sock.recv(65536)
    sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + (f"{source.host}:{source.port}" if source else "nobody").encode())
