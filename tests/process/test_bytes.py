"""Bytes through two daemons face to face, so that each passes both ways of bridging: all arrive, and nothing grows."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import queue
import random
import socket
import termios
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.authority import folder
from tests.process.daemon import Daemon
from tests.process.memory import ROOM, Sampler
from tests.process.plain import SECONDS, backend
from tests.serving import written

MIB = 1 << 20
Connect = Callable[[], tuple[socket.socket, socket.socket]]


@contextlib.contextmanager
def tunnel(tls: bool) -> Iterator[tuple[Connect, list[Daemon]]]:
    """Bridge plain clients to WebSocket, and that to a plain backend; give what connects, and both daemons."""
    accepted: queue.Queue[socket.socket] = queue.Queue()
    over = threading.Event()

    def keep(sock: socket.socket) -> None:
        accepted.put(sock)
        over.wait()

    with backend(keep) as back, contextlib.ExitStack() as stack:
        stack.callback(over.set)
        inner = stack.enter_context(Daemon(written(route={"backend": back.url}, tls=tls)))
        url = f"{'wss' if tls else 'ws'}://localhost:{inner.port()}/"
        outer = stack.enter_context(
            Daemon(
                written(
                    listeners={"in": {"bind": "127.0.0.1:0", "protocol": "tcp", "route": "out"}},
                    routes={"out": {"backend": {"url": url, **({"ca": str(folder() / "ca.pem")} if tls else {})}}},
                )
            )
        )

        def connect() -> tuple[socket.socket, socket.socket]:
            client = stack.enter_context(socket.create_connection(("127.0.0.1", outer.port()), timeout=SECONDS * 20))
            server = accepted.get(timeout=SECONDS)
            server.settimeout(SECONDS * 20)
            for sock in (client, server):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return client, server

        yield connect, [outer, inner]
        for daemon in (outer, inner):
            assert not daemon.log_lines("internal_error")


class Sender(threading.Thread):
    """Sends random bytes in pieces of any size.

    Attributes:
        sent: Bytes so far.
        digest: Of them.
    """

    def __init__(self, sock: socket.socket, size: int, sizes: tuple[int, ...] = (1, 100, 65_536, 300_000)) -> None:
        super().__init__(daemon=True)
        self.sent = 0
        self.digest = hashlib.sha256()
        self._sock, self._size, self._sizes = sock, size, sizes
        self.start()

    def run(self) -> None:
        """Send all of it."""
        dice = random.Random(self._size)
        block = dice.randbytes(2 * MIB)
        while self.sent < self._size:
            at = dice.randrange(MIB)
            piece = block[at : at + min(dice.choice(self._sizes), self._size - self.sent)]
            self._sock.sendall(piece)
            self.digest.update(piece)
            self.sent += len(piece)


class Taker(threading.Thread):
    """Receives so many bytes.

    Attributes:
        digest: Of them.
    """

    def __init__(self, sock: socket.socket, size: int) -> None:
        super().__init__(daemon=True)
        self.digest = hashlib.sha256()
        self._sock, self._left = sock, size
        self.start()

    def run(self) -> None:
        """Receive them."""
        while self._left and (piece := self._sock.recv(min(self._left, 262_144))):
            self.digest.update(piece)
            self._left -= len(piece)


def same(*pairs: tuple[Sender, Taker]) -> None:
    """Wait for both of each, and compare."""
    for sender, taker in pairs:
        sender.join(SECONDS * 20)
        taker.join(SECONDS * 20)
    assert [sender.digest.hexdigest() for sender, _ in pairs] == [taker.digest.hexdigest() for _, taker in pairs]


def both_ways(client: socket.socket, server: socket.socket, size: int) -> None:
    """All at once, as fast as it goes."""
    same(
        (Sender(client, size), Taker(server, size)),
        (Sender(server, size + 1), Taker(client, size + 1)),
    )


def kernel_buffers() -> int:
    """Return how many bytes the kernel may hold on the way, in the two sockets of each of the three connections."""
    return 3 * sum(int(Path(f"/proc/sys/net/ipv4/tcp_{name}").read_text().split()[2]) for name in ("rmem", "wmem"))


def paused(client: socket.socket, server: socket.socket, size: int) -> None:
    """The reader waits until the sender is stopped, and goes on."""
    for source, target in ((server, client), (client, server)):
        sender = Sender(source, size)
        before, standstill = -1, threading.Event()
        while before != sender.sent:  # a sender that sends nothing for so long has been stopped
            before = sender.sent
            standstill.wait(0.3)
        assert sender.sent <= kernel_buffers()
        same((sender, Taker(target, size)))


def single_bytes(client: socket.socket, server: socket.socket, size: int) -> None:
    """Each byte is a segment of its own, both ways."""
    same(
        (Sender(client, size, sizes=(1,)), Taker(server, size)),
        (Sender(server, size, sizes=(1,)), Taker(client, size)),
    )


def sent_and_gone(client: socket.socket, server: socket.socket, size: int) -> None:
    """The backend sends everything and closes with input unread, which resets the connection behind the bytes."""
    client.sendall(b"never read" * 1000)
    taker = Taker(client, size)
    sender = Sender(server, size)
    sender.join(SECONDS * 20)
    while int.from_bytes(fcntl.ioctl(server, termios.TIOCOUTQ, bytes(4)), "little"):
        pass
    server.close()
    same((sender, taker))
    with pytest.raises(ConnectionResetError):
        client.recv(1)


@pytest.mark.parametrize("share", [16, pytest.param(1, marks=pytest.mark.soak)], ids=["sixteenth", "whole"])
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize(
    ("scenario", "size"),
    [(both_ways, 256 * MIB), (paused, 96 * MIB), (single_bytes, MIB // 2), (sent_and_gone, 64 * MIB)],
)
def test_every_byte_arrives_and_nothing_grows(
    scenario: Callable[[socket.socket, socket.socket, int], None], size: int, tls: bool, share: int
) -> None:
    """Hashes are equal, and after a warm-up of the same kind neither process grows by 16 MiB."""
    with tunnel(tls) as (connect, daemons):
        scenario(*connect(), size // share)
        with contextlib.ExitStack() as stack:
            samplers = [stack.enter_context(Sampler(daemon)) for daemon in daemons]
            scenario(*connect(), size // share)
        assert max(sampler.most - sampler.first for sampler in samplers) < ROOM
