"""Plain TCP servers in threads, for bridges to lead to."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

Handler = Callable[[socket.socket], None]


@contextmanager
def serving(handler: Handler) -> Iterator[int]:
    """Serve on a port of 127.0.0.1, one thread a connection; give the port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        threads: list[threading.Thread] = []
        ending = threading.Event()

        def one(sock: socket.socket) -> None:
            with sock, suppress(OSError):
                sock.settimeout(30)
                handler(sock)

        def accept() -> None:
            while True:
                sock, _ = server.accept()
                if ending.is_set():
                    sock.close()
                    return
                thread = threading.Thread(target=one, args=(sock,), daemon=True)
                thread.start()
                threads.append(thread)

        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        try:
            yield port
        finally:
            ending.set()
            socket.create_connection(("127.0.0.1", port)).close()
            accepting.join(30)
            for thread in threads:
                thread.join(30)


def answer_at_the_end(sock: socket.socket) -> None:
    """Read until EOF, then send it all back behind `answer:`."""
    data = bytearray()
    while piece := sock.recv(1 << 20):
        data += piece
    sock.sendall(b"answer:" + data)


def echo(sock: socket.socket) -> None:
    """Send back what comes, until EOF."""
    while data := sock.recv(1 << 16):
        sock.sendall(data)


def speak_first_and_leave(sock: socket.socket) -> None:
    """Send a banner and close."""
    sock.sendall(b"bye\n")
