"""How these tests run `wsbridge probe`, and servers in threads that misbehave."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tests.cli.backends import Handler
from tests.cli.program import invoke
from wsbridge.protocol.handshake import accept_key

QUICK = ("--timeout", "3s", "--wait", "150ms", "--pings", "2")
"""Times of tests that do not care."""


@dataclass
class Probed:
    """What a probe said.

    Attributes:
        code: The exit code.
        facts: The JSON.
    """

    code: int
    facts: dict[str, Any]

    @property
    def failed(self) -> str | None:
        """The step that failed."""
        return self.facts["failed_step"]

    @property
    def cause(self) -> str:
        """Why."""
        return self.facts["cause"] or ""

    @property
    def remedies(self) -> str:
        """What to change, one a line."""
        return "\n".join(self.facts["remedies"])

    def step(self, name: str) -> dict[str, Any]:
        """Give what is reported about a step."""
        return next(one for one in self.facts["steps"] if one["step"] == name)

    def expect(self, step: str, code: int, cause: str, remedy: str) -> None:
        """Check which step failed, with which exit code, and patterns of the cause and of one of the remedies."""
        said = json.dumps(self.facts, indent=1)
        assert (self.failed, self.code, self.facts["exit_code"]) == (step, code, code), said
        assert re.search(cause, self.cause), said
        assert re.search(remedy, self.remedies), said
        assert self.facts["steps"][-1]["step"] == step, said
        assert self.facts["steps"][-1]["result"] == "failed", said


def probe(*args: str, quick: bool = True) -> Probed:
    """Run a probe in this process."""
    result = invoke("probe", "--json", *(QUICK if quick else ()), *args)
    assert result.stdout.startswith("{"), result.output
    return Probed(result.exit_code, json.loads(result.stdout))


def read_head(sock: socket.socket) -> str:
    """Read the head of a request."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        data = sock.recv(1)
        if not data:
            raise ConnectionError("no whole head")
        head += data
    return head.decode("latin-1")


def header(head: str, name: str) -> str:
    """Give the value of a header; empty for none."""
    found = re.search(rf"(?im)^{name}: (.*?)\r$", head)
    return found[1] if found else ""


def answers(text: str, *, hold: bool = False) -> Handler:
    """Give a handler that reads a request, answers this, and closes or waits for the client to do so."""

    def handle(sock: socket.socket) -> None:
        read_head(sock)
        sock.sendall(text.encode("latin-1"))
        if hold:
            wait_for_end(sock)

    return handle


def page(status: str, body: str = "", *headers: str) -> str:
    """Write an answer."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines) + "\r\n\r\n" + body


def switch(sock: socket.socket, *headers: str) -> str:
    """Accept a WebSocket; give the head of the request."""
    head = read_head(sock)
    lines = [
        "HTTP/1.1 101 Switching Protocols",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Accept: {accept_key(header(head, 'Sec-WebSocket-Key'))}",
        *headers,
    ]
    sock.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
    return head


def close_frame(code: int, text: str = "") -> bytes:
    """Write a close frame of a server."""
    body = code.to_bytes(2, "big") + text.encode()
    return bytes((0x88, len(body))) + body


def wait_for_end(sock: socket.socket) -> None:
    """Read until the client closes."""
    with contextlib.suppress(OSError):
        while sock.recv(65536):
            pass


def answer_pings(sock: socket.socket, each: float = 0.0) -> None:
    """Answer pings of a client, until it closes; and ping it each so many seconds."""
    buffer = b""
    sock.settimeout(each or None)
    while True:
        try:
            data = sock.recv(65536)
        except TimeoutError:
            sock.sendall(b"\x89\x01x")
            continue
        if not data:
            return
        buffer += data
        while len(buffer) >= 6 and len(buffer) >= 6 + (buffer[1] & 0x7F):
            size = buffer[1] & 0x7F
            key, body = buffer[2:6], buffer[6 : 6 + size]
            plain = bytes(byte ^ key[at % 4] for at, byte in enumerate(body))
            if buffer[0] == 0x89:
                sock.sendall(bytes((0x8A, size)) + plain)
            elif buffer[0] == 0x88:
                sock.sendall(bytes((0x88, size)) + plain)
                return
            buffer = buffer[6 + size :]


def websocket(sock: socket.socket) -> None:
    """Serve a WebSocket that answers pings."""
    switch(sock)
    answer_pings(sock)


def over_tls(context: ssl.SSLContext, handler: Handler, *, lingers: bool = True) -> Handler:
    """Give a handler behind TLS.

    Args:
        context: Of the server.
        handler: Gets the connection after the handshake.
        lingers: Whether a rejected client can read the alert before the connection ends; else it may be reset.
    """

    def handle(sock: socket.socket) -> None:
        with (
            contextlib.suppress(OSError),
            context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False) as secured,
        ):
            try:
                secured.do_handshake()
            except ssl.SSLError:
                socket.socket.shutdown(secured, socket.SHUT_WR)
                while lingers and socket.socket.recv(secured, 65536):
                    pass
                return
            handler(secured)

    return handle


@contextlib.contextmanager
def unanswered() -> Iterator[int]:
    """Give a port whose SYNs are dropped, as by a firewall: its backlog is full."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        port: int = server.getsockname()[1]
        for _ in range(2):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", port))
        yield port


def relaying(port: int, cut: Callable[[socket.socket, socket.socket, float], bool]) -> Handler:
    """Give a middlebox in front of a port: relays until `cut`, asked again and again, says that it is over.

    Args:
        port: Where it relays to.
        cut: Gets the client's socket, the server's and the seconds without traffic; ends the connection by itself.
    """

    def handle(client: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", port)) as server:
            client.settimeout(0.01)
            server.settimeout(0.01)
            last = time.monotonic()
            while True:
                for source, sink in ((client, server), (server, client)):
                    try:
                        data = source.recv(65536)
                    except TimeoutError:
                        continue
                    if not data:
                        return
                    sink.sendall(data)
                    last = time.monotonic()
                if cut(client, server, time.monotonic() - last):
                    return

    return handle
