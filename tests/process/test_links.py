"""Slow links that live, and links that are gone."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading
import time

import pytest

from tests.authority import client_context, listener_tls
from tests.client import request
from tests.process.daemon import Daemon
from tests.process.plain import Socket, backend
from tests.serving import written

RATE = 20_000
"""Bytes a second of the slow link."""


def flood(sock):
    """Send without end."""
    block = bytes(65536)
    while True:
        sock.sendall(block)


def slow_client(port, tls, seconds, got):
    """Read a flood slowly for so long; note how much came, or None if the connection broke."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        sock.connect(("127.0.0.1", port))
        sock.settimeout(10)
        stream = client_context().wrap_socket(sock, server_hostname="localhost") if tls else sock
        with stream:
            stream.sendall(request())
            began = time.monotonic()
            total = 0
            try:
                while time.monotonic() - began < seconds:
                    data = stream.recv(2000)
                    if not data:
                        got[tls] = None
                        return
                    total += len(data)
                    time.sleep(max(0.0, began + total / RATE - time.monotonic()))
            except OSError:
                total = None
            got[tls] = total


def slow_link(seconds, timeouts):
    """Have a plain and a TLS client read a flood slowly, both at once."""
    listeners = {"plain": {"bind": "127.0.0.1:0"}, "tls": {"bind": "127.0.0.1:0", "tls": listener_tls()}}
    with backend(flood) as back:
        text = written(
            listeners=listeners,
            routes={"app": {"match": "any", "backend": back.url, "auth": "none"}},
            timeouts=timeouts,
        )
        with Daemon(text) as daemon:
            got = {}
            threads = [
                threading.Thread(target=slow_client, args=(daemon.port(place), bool(place), seconds, got))
                for place in (0, 1)
            ]
            before = daemon.anonymous()
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            for tls in (False, True):
                assert got[tls] is not None, daemon.log_lines("connection.closed")
                assert got[tls] > RATE * seconds * 0.5
            assert daemon.anonymous() - before < 8 * 1024 * 1024
            for line in daemon.log_lines("connection.closed"):
                assert line["reason"] == "client_lost", line
                assert line["duration_seconds"] > seconds * 0.9, line


def test_a_slow_live_link():
    """A client that reads 20 KB/s out of a flood outlives several times ping, pong and write, plain and TLS."""
    slow_link(9, {"ping_interval": "500ms", "ping_timeout": "500ms", "write": "2s"})


@pytest.mark.soak
def test_a_slow_live_link_for_minutes():
    """The same for three minutes."""
    slow_link(180, {"ping_interval": "2s", "ping_timeout": "2s", "write": "4s"})


def test_a_client_that_acknowledges_but_never_answers():
    """A peer whose kernel lives and whose program hangs is noticed within ping plus pong; the backend sees a reset."""
    ends = []

    def note(sock):
        try:
            ends.append(sock.recv(1))
        except ConnectionResetError:
            ends.append("reset")

    with (
        backend(note) as back,
        Daemon(written(route={"backend": back.url}, timeouts={"ping_interval": "1s", "ping_timeout": "1s"})) as daemon,
    ):
        with Socket.upgraded(daemon.port()):
            line = daemon.wait("connection.closed")
        assert line["reason"] == "client_lost"
        assert "ping_timeout" in line["detail"]
        assert 1.9 < line["duration_seconds"] < 2.8
        daemon.until(lambda: ends == ["reset"])


CLIENT = """
import socket, sys
sock = socket.create_connection((sys.argv[1], int(sys.argv[2])), 10)
sock.sendall(bytes.fromhex(sys.argv[3]))
assert sock.recv(12) == b"HTTP/1.1 101"
print("up", flush=True)
sock.settimeout(60)
sock.recv(1)
sys.stdin.read()
"""


def ip(*arguments, check=True):
    """Configure the network (ip(8) of iproute2)."""
    return subprocess.run(["ip", *arguments], check=check, capture_output=True)


@contextlib.contextmanager
def far_host():
    """Make a network namespace at the end of a cable; give its name, and the address of this end of the cable."""
    if shutil.which("ip") is None:
        pytest.skip("needs iproute2")
    name = f"wsb{os.getpid()}"
    first = os.getpid() % 64 * 4  # of four addresses, which are not those of a concurrent test
    here, there = f"198.51.100.{first + 1}", f"198.51.100.{first + 2}"
    if ip("netns", "add", name, check=False).returncode:
        pytest.skip("needs CAP_NET_ADMIN")
    try:
        ip("link", "add", f"{name}a", "type", "veth", "peer", "name", f"{name}b", "netns", name)
        ip("addr", "add", f"{here}/30", "dev", f"{name}a")
        ip("link", "set", f"{name}a", "up")
        ip("-n", name, "addr", "add", f"{there}/30", "dev", f"{name}b")
        ip("-n", name, "link", "set", f"{name}b", "up")
        yield name, here
    finally:
        ip("link", "del", f"{name}a", check=False)
        ip("netns", "del", name, check=False)


@pytest.mark.parametrize("busy", [False, True])
def test_a_client_that_vanishes(busy):
    """The cable is pulled: within ping plus pong the connection has ended as lost, idle or in a flood."""

    def idle(sock):
        sock.recv(1)

    with far_host() as (name, here), backend(flood if busy else idle) as back:
        text = written(
            listeners={"web": {"bind": f"{here}:0"}},
            routes={"app": {"match": "any", "backend": back.url, "auth": "none"}},
            timeouts={"ping_interval": "1s", "ping_timeout": "1s", "write": "60s"},
        )
        with Daemon(text) as daemon:
            command = ["ip", "netns", "exec", name, sys.executable, "-c", CLIENT, here, str(daemon.port())]
            head = request(host=here).hex()
            with subprocess.Popen([*command, head], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as client:
                try:
                    assert client.stdout.readline() == b"up\n"
                    ip("-n", name, "link", "set", f"{name}b", "down")
                    began = time.monotonic()
                    line = daemon.wait("connection.closed")
                    took = time.monotonic() - began
                finally:
                    client.kill()
            assert line["reason"] == "client_lost"
            assert took < 2.0 + 0.8
