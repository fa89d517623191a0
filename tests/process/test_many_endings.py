"""Ten thousand clients that end at the same moment: nobody waits for long, and nothing of them is left."""

from __future__ import annotations

import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.process import daemon as daemon_module
from tests.process.daemon import Daemon
from tests.process.plain import Socket, backend
from tests.serving import written

DESCRIPTORS = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
COUNT = min(10_000, (DESCRIPTORS - 400) // 2)
"""Fewer where a process may not have two descriptors for each."""
LONGEST = 0.5
"""Seconds that no other client may wait; the machine is busy with ten thousand clients at that time."""

BACKEND = """
import selectors, socket
listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
listener.setblocking(False)
selector = selectors.EpollSelector()
selector.register(listener, selectors.EVENT_READ)
print(listener.getsockname()[1], flush=True)
while True:
    for key, _ in selector.select():
        try:
            if key.fileobj is listener:
                while True:
                    selector.register(listener.accept()[0], selectors.EVENT_READ)
            data = key.fileobj.recv(65536)
        except BlockingIOError:
            continue
        except OSError:
            data = b""
        if not data:
            selector.unregister(key.fileobj)
            key.fileobj.close()
"""
CLIENTS = """
import os, socket, sys
from tests.client import frame, request
port, count, how = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
clients = []
for _ in range(count):
    client = socket.create_connection(("127.0.0.1", port))
    client.sendall(request())
    head = b""
    while b"\\r\\n\\r\\n" not in head:
        head += client.recv(4096)
    clients.append(client)
print("connected", flush=True)
sys.stdin.readline()
if how == "killed":
    os.kill(os.getpid(), 9)
close = frame(8, b"\\x03\\xe8")
for client in clients:
    client.sendall(close)
for client in clients:
    while client.recv(4096):
        pass
"""


@contextmanager
def helper(code: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run a program of the test with many descriptors, until the end of the block."""
    command = ["sh", "-c", 'ulimit -n "$0" && exec "$@"', str(DESCRIPTORS), sys.executable, "-c", code, *arguments]
    pipe, root = subprocess.PIPE, Path(__file__).parents[2]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=root) as process:
        try:
            yield process
        finally:
            process.kill()


def said(process: subprocess.Popen[str]) -> str:
    """Wait for a line of a program of the test."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.soak
@pytest.mark.parametrize("how", ["closed", "killed"])
def test_ten_thousand_connections_that_end_at_once(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order or by the death of the process that had them all."""
    monkeypatch.setattr(daemon_module, "PATIENCE", 120)
    routes = {"fixed": {"match": {"path": "/fixed"}, "respond": "204", "auth": "none"}}
    with helper(BACKEND) as crowd, backend() as echo:
        for name, port in (("echo", str(echo.port)), ("app", said(crowd))):
            match = {"path": "/echo"} if name == "echo" else "any"
            routes[name] = {"match": match, "backend": f"tcp://127.0.0.1:{port}", "auth": "none"}
        text = written(routes=routes, limits={"connections": COUNT + 10}, timeouts={"idle": "1h"})
        with Daemon(text, descriptors=DESCRIPTORS) as daemon, Socket.upgraded(daemon.port(), "/echo") as other:
            other.echoed()
            before = daemon.descriptors()
            with helper(CLIENTS, str(daemon.port()), str(COUNT), how) as clients:
                assert said(clients) == "connected"
                assert clients.stdin is not None
                clients.stdin.write("\n")
                clients.stdin.flush()
                times = []
                ended = threading.Event()
                threading.Thread(target=lambda: (daemon.wait("connection.closed", COUNT), ended.set())).start()
                while not ended.is_set():
                    began = time.monotonic()
                    other.echoed()
                    with Socket.connect(daemon.port()) as asking:
                        asking.send(b"GET /fixed HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                        assert asking.head().startswith("HTTP/1.1 204 ")
                    times.append(time.monotonic() - began)
                    Socket.made.remove(asking)
                    time.sleep(0.005)
            daemon.until(lambda: daemon.descriptors() <= before, 60)
            reasons = {line["reason"] for line in daemon.log_lines("connection.closed")}
            assert reasons == {"client_closed" if how == "closed" else "client_lost"}
            assert not daemon.log_lines("internal_error")
            assert max(times) < LONGEST
            other.echoed()
