"""Reloads of large configurations do not disturb the connections that run."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.process import daemon as daemon_module
from tests.process.daemon import Daemon
from tests.process.plain import Socket, backend

ROUTES = 10_000
P99 = 0.1
"""Seconds."""


@pytest.mark.soak
def test_messages_are_not_delayed_by_a_reload_of_ten_thousand_routes(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the file is loaded twice, 99 of 100 messages are echoed within 100 ms, and memory stays within 300 MiB."""
    monkeypatch.setattr(daemon_module, "PATIENCE", 60)
    with backend() as echo:
        route = "match: {{path: /{}}}, backend: 'tcp://127.0.0.1:{}', auth: none, timeouts: {{idle: 1h}}"
        routes = "".join(f"  r{number}: {{{route.format(number, echo.port)}}}\n" for number in range(ROUTES))
        with Daemon("listeners: {web: {bind: '127.0.0.1:0'}}\nroutes:\n" + routes) as daemon:
            with Socket.upgraded(daemon.port(), "/9999") as client:
                for generation in (2, 3):
                    times = []
                    os.kill(daemon.pid, signal.SIGHUP)
                    while not daemon.log_lines("config.reloaded", generation=generation):
                        began = time.monotonic()
                        client.echoed()
                        times.append(time.monotonic() - began)
                        time.sleep(0.002)
                        assert sum(times) < 60
                    assert sorted(times)[-len(times) // 100] < P99
            lines = Path(f"/proc/{daemon.pid}/status").read_text().splitlines()
            assert int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) < 300 * 1024
