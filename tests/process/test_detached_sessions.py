"""Ten thousand sessions whose clients are away: memory, descriptors, and nothing of it left after `ttl`."""

from __future__ import annotations

import contextlib
import resource
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.client import BINARY, frame, request
from tests.process.daemon import Daemon
from tests.serving import written
from tests.sessions.client import OFFER
from wsbridge.protocol.resume_frames import FrameType, Open, encode_frame

COUNT = 10_000
WAITING = 1000
"""Bytes that the backend has sent to each since its client left."""


@contextlib.contextmanager
def talking() -> Iterator[tuple[str, list[socket.socket]]]:
    """Run a backend that accepts; give its URL and what it has accepted."""
    accepted: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    accepted.append(listening.accept()[0])

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield f"tcp://127.0.0.1:{listening.getsockname()[1]}", accepted
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()
            for sock in accepted:
                sock.close()


def leave_session(port: int) -> None:
    """Open a session, and lose its transport."""
    with socket.create_connection(("127.0.0.1", port), 10) as sock:
        sock.sendall(request("/", OFFER))
        received = b""
        while b"\r\n\r\n" not in received:
            received += sock.recv(4096)
        assert received.startswith(b"HTTP/1.1 101 "), received
        sock.sendall(frame(BINARY, encode_frame(Open(0))))
        received = received.partition(b"\r\n\r\n")[2]
        while len(received) < 3:
            received += sock.recv(4096)
        assert received[2] == FrameType.OPENED, received


@pytest.mark.soak
@pytest.mark.skipif(resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 2 * COUNT, reason="needs 20,000 open files")
def test_ten_thousand_detached_sessions() -> None:
    """Each takes a few KiB and one descriptor, and more only for the bytes that wait in it."""
    limits = {"detached_sessions": str(COUNT), "detached_sessions_per_identity": str(COUNT)}
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        with talking() as (url, accepted):
            text = written(route={"backend": url, "resume": {"ttl": "1m"}}, limits=limits)
            with Daemon(text) as daemon:
                descriptors = daemon.descriptors()
                leave_session(daemon.port())
                daemon.until(lambda: len(accepted) == 1 and daemon.descriptors() == descriptors + 1)
                memory = daemon.anonymous()
                for _ in range(COUNT - 1):
                    leave_session(daemon.port())
                daemon.until(lambda: daemon.descriptors() == descriptors + COUNT, 60)
                each = (daemon.anonymous() - memory) / (COUNT - 1)
                for sock in accepted:
                    sock.sendall(bytes(WAITING))
                daemon.until(lambda: daemon.anonymous() - memory > COUNT * (each + WAITING * 0.9), 30)
                full = (daemon.anonymous() - memory) / (COUNT - 1)
                assert each < 10 * 1024
                assert full < each + 2 * WAITING + 1024
                daemon.until(lambda: daemon.descriptors() == descriptors, 180)
                daemon.until(lambda: len(daemon.log_lines("session.closed", reason="session_expired")) == COUNT)
                assert not daemon.log_lines("internal_error")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
