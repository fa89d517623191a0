"""Small servers in threads of the test: an echo, and one that answers when it has heard all."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.clients.program import PATIENCE


@contextmanager
def serving(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """Accept on a free port of 127.0.0.1 and serve each connection in a thread; gives the port."""
    threads: list[threading.Thread] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def one(sock: socket.socket) -> None:
            with sock:
                serve(sock)

        def accept() -> None:
            while True:
                try:
                    sock, _ = listener.accept()
                except OSError:
                    return
                sock.settimeout(PATIENCE)
                threads.append(threading.Thread(target=one, args=(sock,)))
                threads[-1].start()

        acceptor = threading.Thread(target=accept)
        acceptor.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            acceptor.join()
            for thread in threads:
                thread.join()


def echo(sock: socket.socket) -> None:
    """Send back what comes, until the end."""
    while data := sock.recv(65536):
        sock.sendall(data)


def answer_at_end(sock: socket.socket) -> None:
    """Hear all until the end of the stream, and only then answer with all of it in capitals."""
    heard = b""
    while data := sock.recv(65536):
        heard += data
    sock.sendall(b"heard: " + heard.upper())
