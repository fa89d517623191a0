"""Clients and backends of the process tests: blocking sockets, threads, and one epoll set for crowds."""

from __future__ import annotations

import contextlib
import hashlib
import random
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import ClassVar, Self

from tests.authority import client_context
from tests.client import BINARY, CLOSE, PING, PONG, frame, request

SECONDS = 15.0


class Socket:
    """A blocking WebSocket client; `made` holds all of the test."""

    made: ClassVar[list[Socket]] = []

    def __init__(self, sock: socket.socket) -> None:
        self.made.append(self)
        self.sock = sock
        self.buffer = b""

    @classmethod
    def connect(cls, port: int, *, tls: bool = False) -> Self:
        """Connect."""
        sock = socket.create_connection(("127.0.0.1", port), timeout=SECONDS)
        if tls:
            return cls(client_context().wrap_socket(sock, server_hostname="localhost"))
        return cls(sock)

    @classmethod
    def upgraded(cls, port: int, path: str = "/", *, tls: bool = False) -> Self:
        """Connect and be upgraded."""
        client = cls.connect(port, tls=tls)
        client.send(request(path))
        head = client.head()
        assert head.startswith("HTTP/1.1 101"), head
        return client

    def send(self, data: bytes) -> None:
        """Send all."""
        self.sock.sendall(data)

    def more(self) -> bytes:
        """Read; empty at the end."""
        data = self.sock.recv(65536)
        self.buffer += data
        return data

    def head(self) -> str:
        """Read one answer's head."""
        while b"\r\n\r\n" not in self.buffer:
            if not self.more():
                raise EOFError(self.buffer)
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        return head.decode()

    def take(self, size: int) -> bytes:
        """Read so many bytes."""
        while len(self.buffer) < size:
            if not self.more():
                raise EOFError(self.buffer)
        data, self.buffer = self.buffer[:size], self.buffer[size:]
        return data

    def frame(self) -> tuple[int, bytes]:
        """Read one frame."""
        first, size = self.take(2)
        if size == 126:
            size = int.from_bytes(self.take(2), "big")
        elif size == 127:
            size = int.from_bytes(self.take(8), "big")
        return first & 15, self.take(size)

    def echoed(self, data: bytes = b"hello") -> None:
        """Send bytes to an echo, and receive them again."""
        self.send(frame(2, data))
        got = b""
        while len(got) < len(data):
            opcode, part = self.frame()
            if opcode == 2:
                got += part
        assert got == data

    def closing(self) -> tuple[int, str]:
        """Read up to the close frame."""
        while True:
            opcode, body = self.frame()
            if opcode == CLOSE:
                return int.from_bytes(body[:2], "big"), body[2:].decode()

    def everything(self) -> bytes:
        """Read to the end or the reset."""
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while self.more():
                pass
        data, self.buffer = self.buffer, b""
        return data

    def close(self) -> None:
        """Close the descriptor."""
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def echo(sock: socket.socket) -> None:
    """Serve a connection."""
    while data := sock.recv(65536):
        sock.sendall(data)


class Threads:
    """A backend with a thread for each connection."""

    def __init__(self, handler: Callable[[socket.socket], None]) -> None:
        self._handler = handler
        self.listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port = self.listening.getsockname()[1]
        self.url = f"tcp://127.0.0.1:{self.port}"
        self.dials = 0
        self._socks: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self.listening.accept()
            except OSError:
                return
            self.dials += 1
            self._socks.append(sock)
            thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            self._handler(sock)

    def close(self) -> None:
        """End all of it."""
        with contextlib.suppress(OSError):
            self.listening.shutdown(socket.SHUT_RDWR)
        self.listening.close()
        self._acceptor.join(SECONDS)
        for sock in self._socks:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(SECONDS)


@contextlib.contextmanager
def backend(handler: Callable[[socket.socket], None] = echo) -> Iterator[Threads]:
    """Run a backend."""
    threads = Threads(handler)
    try:
        yield threads
    finally:
        threads.close()


class Clients:
    """Connect one after the other in a thread, until one is not served; use it as a context manager.

    Args:
        once: Connects, and fails if it is not served.

    Attributes:
        served: How many were served.
        failures: What happened to the last one.
    """

    def __init__(self, once: Callable[[], None]) -> None:
        self._once = once
        self.served = 0
        self.failures: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._stop.is_set() and not self.failures:
            try:
                self._once()
                self.served += 1
            except (OSError, EOFError, AssertionError) as error:
                self.failures.append(repr(error))

    def reach(self, count: int) -> None:
        """Wait until so many were served, and nobody was not."""
        deadline = time.monotonic() + 300
        while self.served < count and not self.failures:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert not self.failures, self.failures

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(SECONDS)


class Transfer:
    """A connection that sends random bytes in both directions through an echo, and compares their hashes at the end."""

    def __init__(self, port: int) -> None:
        self.client = Socket.upgraded(port)
        self._sent, self._received = hashlib.sha256(), hashlib.sha256()

    def step(self) -> None:
        """Send a message and read it back."""
        data = random.randbytes(20_000)
        self._sent.update(data)
        self.client.send(frame(BINARY, data))
        left = len(data)
        while left:
            opcode, part = self.client.frame()
            assert opcode in (BINARY, PING)
            if opcode == BINARY:
                self._received.update(part)
                left -= len(part)

    def end(self) -> None:
        """Close; all bytes must have arrived."""
        self.client.send(frame(CLOSE, b"\x03\xe8"))
        assert self.client.closing()[0] == 1000
        self.client.close()
        assert self._sent.digest() == self._received.digest()


def served(port: int, *, tls: bool = False) -> None:
    """Connect, be served, and close."""
    with Socket.upgraded(port, tls=tls) as client:
        client.echoed()
        client.send(frame(CLOSE, b"\x03\xe8"))
        assert client.closing()[0] == 1000


def check(port: int) -> None:
    """Ask for readiness as a load balancer does."""
    with Socket.connect(port) as client:
        client.send(b"GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.everything().startswith(b"HTTP/1.1 200 ")


class Crowd:
    """Many idle clients and the backend of all of them, in one epoll set.

    Attributes:
        pings: Pings answered, by client.
        lost: Clients whose connection ended.
    """

    def __init__(self, *, answer: bool = True) -> None:
        self.backend = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.backend.setblocking(False)
        self.port = self.backend.getsockname()[1]
        self.pings: dict[int, int] = {}
        self.lost = 0
        self._answer = answer
        self._clients: dict[int, socket.socket] = {}
        self._behind: dict[int, socket.socket] = {}
        self._epoll = select.epoll()
        self._epoll.register(self.backend, select.EPOLLIN)

    def add(self, count: int, port: int, *, tls: bool = False) -> None:
        """Connect so many clients; all are upgraded when this returns."""
        for _ in range(count):
            client = Socket.connect(port, tls=tls)
            client.send(request())
            while b"\r\n\r\n" not in client.buffer:
                self.turn(0)  # the bridge answers when the backend's kernel has accepted
                client.more()
            assert client.buffer.startswith(b"HTTP/1.1 101"), client.buffer
            sock = client.sock
            sock.setblocking(False)
            self._clients[sock.fileno()] = sock
            self.pings[sock.fileno()] = 0
            self._epoll.register(sock, select.EPOLLIN)

    def turn(self, seconds: float) -> None:
        """Answer what has come."""
        for fd, _ in self._epoll.poll(seconds, 1024):
            if fd == self.backend.fileno():
                with contextlib.suppress(BlockingIOError):
                    while True:
                        sock, _ = self.backend.accept()
                        self._behind[sock.fileno()] = sock
            else:
                self._hear(fd)

    def _hear(self, fd: int) -> None:
        sock = self._clients[fd]
        try:
            data = sock.recv(65536)
        except (BlockingIOError, ssl.SSLWantReadError):
            return
        except OSError:
            data = b""
        if not data:
            self.lost += 1
            self._epoll.unregister(fd)
            self._clients.pop(fd).close()
            return
        while data:
            assert data[:2] == bytes([0x80 | PING, 0]), data[:80]
            data = data[2:]
            if self._answer:
                sock.sendall(frame(PONG))
            self.pings[fd] += 1

    def let_go(self) -> None:
        """Close the backend's side of all connections."""
        while self._behind:
            self._behind.popitem()[1].close()

    @property
    def size(self) -> int:
        """Clients that are still connected."""
        return len(self._clients)

    def close(self) -> None:
        """Close everything."""
        self._epoll.close()
        for sock in (*self._clients.values(), *self._behind.values(), self.backend):
            sock.close()
