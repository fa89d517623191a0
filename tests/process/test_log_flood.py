"""Fault: bad clients flood the log. Lines are limited, others are served meanwhile, and nothing is lost silently."""

from __future__ import annotations

import socket
import time
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.client import request
from tests.process.attackers import Attackers
from tests.process.daemon import Daemon
from tests.process.plain import backend, served
from tests.serving import written

FLOOD = 800
LINES_A_SECOND, LINES_AT_ONCE = 50, 200
"""The limit of `connection.rejected` (docs/logs.md)."""


def scrape(path: Path) -> dict[tuple[str, str], float]:
    """Ask the monitoring endpoint; give the sums of each metric by reason or event."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(15)
        sock.connect(str(path))
        sock.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = b""
        while data := sock.recv(65536):
            answer += data
    found: dict[tuple[str, str], float] = {}
    for family in text_string_to_metric_families(answer.partition(b"\r\n\r\n")[2].decode()):
        for sample in family.samples:
            key = sample.name, sample.labels.get("reason") or sample.labels.get("event") or ""
            found[key] = found.get(key, 0) + sample.value
    return found


def test_rejected_clients_cannot_flood_the_log() -> None:
    """Cross-site requests as fast as they come: at most 50 lines a second after 200 at once, the rest is counted."""
    with backend() as back:
        text = written(route={"backend": back.url}, monitoring={"bind": "unix:@FOLDER@/monitoring.sock"})
        with Daemon(text) as daemon:
            head = request("/", "Origin: https://evil.example").decode()
            began = time.monotonic()
            plan = {"sources": ["127.0.0.1"], "head": head, "rate": 800, "most": 100, "least": FLOOD}
            with Attackers(None, port=daemon.port(), **plan) as flood:
                for _ in range(10):
                    served(daemon.port())
            seconds = time.monotonic() - began
            daemon.wait("connection.closed", 10)
            made = flood.found["made"]
            counted = scrape(daemon.folder / "monitoring.sock")
            suppressed = counted["wsbridge_log_suppressed_total", "connection.rejected"]
            daemon.until(
                lambda: sum(line["count"] for line in daemon.log_lines("log.suppressed")) == suppressed,
            )
            lines = daemon.log_lines("connection.rejected")
            closed = daemon.log_lines("connection.closed")
    assert made >= FLOOD
    assert counted["wsbridge_handshakes_rejected_total", "origin_not_allowed"] == made
    assert counted["wsbridge_log_dropped_total", ""] == 0
    assert LINES_AT_ONCE <= len(lines) <= LINES_AT_ONCE + LINES_A_SECOND * seconds
    assert len(lines) + suppressed == made
    assert len(closed) == 10
