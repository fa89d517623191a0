"""Peers of rustls that SIGSTOP stops: nothing piles up for them, nothing is lost, and handshakes can be ended."""

from __future__ import annotations

import hashlib
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.net.tls_ends import OurTls, arrived
from tests.tls_providers import providers

if len(providers()) == 1:
    pytest.skip("the extension is not installed", allow_module_level=True)

from wsbridge.native.tls import Rustls
from wsbridge.native.tls_transport import NativeTlsTransport

PEER = """
import hashlib, socket, ssl, sys
port, ca, size = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
sock = socket.create_connection(("127.0.0.1", port))
sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
print("connected", flush=True)
sys.stdin.readline()
tls = ssl.create_default_context(cafile=ca).wrap_socket(sock, server_hostname="localhost")
print("ready", flush=True)
digest, left = hashlib.sha256(), size
while left:
    data = tls.recv(65536)
    digest.update(data)
    tls.sendall(data)
    left -= len(data)
print(digest.hexdigest(), flush=True)
tls.unwrap()
"""
SIZE = 4_000_000


class Stopped:
    """A peer in a process of its own, which sends back what it gets."""

    def __init__(self, ca: Path) -> None:
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            listening.listen()
            command = [sys.executable, "-c", PEER, str(listening.getsockname()[1]), str(ca), str(SIZE)]
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            self.sock, _ = listening.accept()
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32768)

    def go_on(self) -> None:
        """Let it shake hands."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    async def line(self) -> str:
        """Return what it says next."""
        assert self.process.stdout is not None
        return (await trio.to_thread.run_sync(self.process.stdout.readline)).strip()


@pytest.fixture
def stopped(ca_file: Path) -> Iterator[Stopped]:
    """A peer that has connected."""
    peer = Stopped(ca_file)
    yield peer
    peer.process.kill()
    peer.process.communicate()
    peer.sock.close()


async def fill(transport: NativeTlsTransport, data: bytes) -> int:
    """Write until nothing more is accepted for a while; return how much that was."""
    sent = blocked = 0
    while blocked < 3:  # the kernel accepts a little more once it has acknowledged something
        if transport.write([]) is None:
            transport.write([data[sent : sent + 65536]])
            sent += 65536
            blocked = 0
        blocked += 1
        await trio.sleep(0.02)
    return sent


async def test_a_peer_that_is_stopped_gets_everything_once_it_goes_on(
    stopped: Stopped, issue: Any, ca_file: Path
) -> None:
    """Its kernel buffers fill, no write encrypts more than was asked, and every byte comes, in both directions."""
    ours = OurTls(Rustls(), issue("localhost"), ca_file)
    assert await stopped.line() == "connected"
    stopped.go_on()
    transport = await ours.start(stopped.sock, server_side=True)
    assert isinstance(transport, NativeTlsTransport)
    assert await stopped.line() == "ready"
    stopped.process.send_signal(signal.SIGSTOP)

    data = random.Random(1).randbytes(SIZE)
    received = hashlib.sha256()
    sent = await fill(transport, data)
    assert sent < SIZE
    assert transport.stream.flush() < 65536 + 1000
    stopped.process.send_signal(signal.SIGCONT)

    async def read() -> None:
        left = SIZE
        while left:
            received.update(found := transport.read())
            left -= len(found)
            assert transport.read_state is None
            if not found:
                await arrived(transport)

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            while transport.write([]) is not None:
                await trio.lowlevel.wait_writable(transport.fd)
            while sent < SIZE:
                await transport.write_all(data[sent : sent + 65536])
                sent += 65536
        expected = hashlib.sha256(data).hexdigest()
        assert await stopped.line() == received.hexdigest() == expected
        assert await transport.read_some() == b""
    assert transport.read_state == "eof"
    transport.close()


async def test_a_handshake_with_a_peer_that_is_stopped_can_be_ended(
    stopped: Stopped, issue: Any, ca_file: Path
) -> None:
    """By the deadline of the caller, as a client and as a server; the descriptor is closed."""
    ours = OurTls(Rustls(), issue("localhost"), ca_file)
    assert await stopped.line() == "connected"
    stopped.process.send_signal(signal.SIGSTOP)
    other = stopped.sock.dup()
    for sock, server_side in ((stopped.sock, True), (other, False)):
        with trio.move_on_after(0.05) as scope:
            await ours.start(sock, server_side=server_side)
        assert scope.cancelled_caught
        assert sock.fileno() == -1
