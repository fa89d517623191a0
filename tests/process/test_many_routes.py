"""Reloads of large configurations, and scrapes of their metrics, do not disturb the connections that run."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process import daemon as daemon_module
from tests.process.daemon import Daemon
from tests.process.plain import SECONDS, Socket, backend

ROUTES = 10_000
P99 = 0.1
"""Seconds."""
LONGEST = 0.25
"""Seconds that no answer may take, on a machine that does nothing else."""


@contextlib.contextmanager
def many_routes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    """Run a daemon with ten thousand routes to an echo, and one that wsbridge answers itself."""
    monkeypatch.setattr(daemon_module, "PATIENCE", 60)
    with backend() as echo:
        route = "match: {{path: /{}}}, backend: 'tcp://127.0.0.1:{}', auth: none, timeouts: {{idle: 1h}}"
        routes = "".join(f"  r{number}: {{{route.format(number, echo.port)}}}\n" for number in range(ROUTES))
        fixed = "  fixed: {match: {path: /fixed}, respond: '204', auth: none}\n"
        monitoring = "monitoring: {bind: 'unix:@FOLDER@/monitoring.sock'}\n"
        listeners = "listeners: {web: {bind: '127.0.0.1:0'}}\n"
        with Daemon(f"{monitoring}{listeners}routes:\n{fixed}{routes}") as daemon:
            yield daemon


def answered(port: int) -> float:
    """Have the event loop accept a connection and answer a request; give the seconds that it took."""
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), SECONDS) as sock:
        sock.sendall(b"GET /fixed HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert sock.recv(4096).startswith(b"HTTP/1.1 204 ")
    return time.monotonic() - began


@pytest.mark.soak
def test_messages_are_not_delayed_by_a_reload_of_ten_thousand_routes(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the file is loaded twice, 99 of 100 answers come within 100 ms, and memory stays within 300 MiB."""
    with many_routes(monkeypatch) as daemon:
        with Socket.upgraded(daemon.port(), "/9999") as client:
            for generation in (2, 3):
                times = []
                os.kill(daemon.pid, signal.SIGHUP)
                while not daemon.log_lines("config.reloaded", generation=generation):
                    began = time.monotonic()
                    client.echoed()
                    times += [time.monotonic() - began, answered(daemon.port())]
                    time.sleep(0.002)
                    assert sum(times) < 60
                assert sorted(times)[-len(times) // 100] < P99
        lines = Path(f"/proc/{daemon.pid}/status").read_text().splitlines()
        assert int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) < 300 * 1024


@pytest.mark.soak
def test_a_scrape_of_ten_thousand_routes_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each with counters of its own: while the page is rendered and sent, the event loop answers as always."""
    with many_routes(monkeypatch) as daemon:
        for number in range(ROUTES):
            with Socket.upgraded(daemon.port(), f"/{number}") as client:
                client.echoed(b"x")
            Socket.made.clear()
        size = 0

        def scrape() -> None:
            nonlocal size
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(str(daemon.folder / "monitoring.sock"))
                sock.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                while data := sock.recv(1 << 20):
                    size += len(data)

        scraping = threading.Thread(target=scrape)
        scraping.start()
        times = []
        while scraping.is_alive():
            times.append(answered(daemon.port()))
            time.sleep(0.002)
        scraping.join()
        assert size > 10_000_000
        assert len(times) > 200
        assert sorted(times)[-len(times) // 100] < P99
        assert max(times) < LONGEST
