"""What peers send does not grow the process: its anonymous memory is sampled while they do their worst."""

import contextlib
import ssl
import threading
import time

import pytest

from tests.authority import listener_tls
from tests.client import BINARY, PING, frame, request
from tests.process.daemon import Daemon
from tests.process.memory import ROOM, Sampler
from tests.process.plain import Socket, backend
from tests.serving import written

GONE = (OSError, ssl.SSLError, EOFError)


def push(client, blocks, seconds):
    """Send blocks until the peer is gone, accepts no more, or the time is over; return the bytes sent."""
    deadline = time.monotonic() + seconds
    client.sock.settimeout(0.5)
    sent = 0
    with contextlib.suppress(*GONE):
        for block in blocks:
            client.send(block)
            sent += len(block)
            if time.monotonic() > deadline:
                break
    return sent


def endless(block):
    """Give the same block forever."""
    while True:
        yield block


def huge_heads(port, tls):
    """Send heads of 100 MB."""
    line = b"X-Header: " + b"x" * 1000 + b"\r\n"
    for block in (b"x" * 65536, line * 60):
        for start in (b"GET / HTTP/1.1\r\nX: ", b"GET /", b""):
            with Socket.connect(port, tls=tls) as client:
                push(client, [start, *[block] * 1600], 2)


def held_heads(port, tls):
    """Hold many heads that are nearly too large, and never end them."""
    clients = [Socket.connect(port, tls=tls) for _ in range(100)]
    for client in clients:
        client.send(b"GET / HTTP/1.1\r\n" + b"X: 1\r\n" * 90 + b"Y: " + b"y" * 7000)
    time.sleep(0.3)  # some samples of the memory
    for client in clients:
        client.close()


def unread_pongs(port, tls):
    """Send pings and never read a pong."""
    with Socket.upgraded(port, "/echo", tls=tls) as client:
        push(client, endless(frame(PING, b"p" * 125) * 50), 2)


def unread_echo(port, tls):
    """Send to an echo and never read."""
    with Socket.upgraded(port, "/echo", tls=tls) as client:
        push(client, endless(frame(BINARY, b"e" * 60_000)), 2)


def stalled_upload(port, tls):
    """Upload into a backend that never reads."""
    with Socket.upgraded(port, "/deaf", tls=tls) as client:
        push(client, endless(frame(BINARY, b"u" * 60_000)), 2)


def stopped_reader(port, tls):
    """Never read what a backend floods."""
    clients = [Socket.upgraded(port, "/flood", tls=tls) for _ in range(8)]
    time.sleep(1.5)  # the flood has no event: it fills buffers for this time
    for client in clients:
        client.close()


def empty_fragments(port, tls):
    """Send empty fragments without end."""
    for _ in range(3):
        with Socket.upgraded(port, "/echo", tls=tls) as client:
            push(client, [frame(BINARY, fin=False), *[frame(0, fin=False) * 5000] * 40], 2)


def one_endless_message(port, tls):
    """Send one message that never ends, in large frames and in tiny ones."""
    with Socket.upgraded(port, "/sink", tls=tls) as client:
        push(client, [frame(BINARY, b"", fin=False), *[frame(0, b"m" * 60_000, fin=False)] * 1500], 1.5)
    with Socket.upgraded(port, "/sink", tls=tls) as client:
        push(client, [frame(BINARY, b"", fin=False), *[frame(0, b"m", fin=False) * 5000] * 100], 1.5)


def one_endless_frame(port, tls):
    """Send a frame of 2^63-1 bytes."""
    with Socket.upgraded(port, "/sink", tls=tls) as client:
        client.send(bytes([0x82, 0xFF]) + (2**63 - 1).to_bytes(8, "big") + bytes(4))
        push(client, endless(bytes(65536)), 1.5)


def refused_uploads(port, tls):
    """Send on and on after a refusal."""
    for _ in range(5):
        with Socket.connect(port, tls=tls) as client:
            push(client, [request("/none"), *[bytes(65536)] * 200], 1)


SCENARIOS = [
    huge_heads,
    held_heads,
    unread_pongs,
    unread_echo,
    stalled_upload,
    stopped_reader,
    empty_fragments,
    one_endless_message,
    one_endless_frame,
    refused_uploads,
]


def sink(sock):
    """Read everything."""
    while sock.recv(262144):
        pass


def flood(sock):
    """Send without end."""
    while True:
        sock.sendall(bytes(65536))


def echo(sock):
    """Send back what comes."""
    while data := sock.recv(65536):
        sock.sendall(data)


@pytest.mark.parametrize("tls", [False, True])
def test_memory_does_not_follow_what_peers_send(tls):
    """After a warm-up, none of the floods, stalls and endless things makes the process grow."""
    ends = threading.Event()

    def wait(sock):
        ends.wait(30)
        sock.recv(1)

    listeners = {"web": {"bind": "127.0.0.1:0", **({"tls": listener_tls()} if tls else {})}}
    with contextlib.ExitStack() as stack:
        routes = {
            name: {
                "match": {"path": f"/{name}"},
                "backend": stack.enter_context(backend(handler)).url,
                "auth": "none",
            }
            for name, handler in {"sink": sink, "deaf": wait, "flood": flood, "echo": echo}.items()
        }
        stack.callback(ends.set)
        daemon = stack.enter_context(
            Daemon(written(listeners=listeners, routes=routes, limits={"control_frame_rate": "3000"}))
        )
        port = daemon.port()
        for _ in range(50):
            with Socket.upgraded(port, "/echo", tls=tls) as client:
                client.echoed(b"w" * 200_000)
        stopped_reader(port, tls)
        before = daemon.anonymous()
        grown = {}
        for scenario in SCENARIOS:
            with Sampler(daemon) as sampler:
                scenario(port, tls)
            grown[scenario.__name__] = (sampler.most - before) // 1024
            with Socket.upgraded(port, "/echo", tls=tls) as client:
                client.echoed()
        assert max(grown.values()) < ROOM // 1024, grown
        assert not daemon.log_lines("internal_error")
