"""What is measured: each case is one run of `load` against one service of the backend."""

import math
from dataclasses import dataclass
from typing import Literal

Service = Literal["echo", "source", "sink"]
SERVICES: tuple[Service, ...] = ("echo", "source", "sink")

Transport = Literal["plain", "tls", "tunnel", "tunnel-tls"]
TRANSPORTS: tuple[Transport, ...] = ("plain", "tls", "tunnel", "tunnel-tls")
TUNNELS: tuple[Transport, ...] = ("tunnel", "tunnel-tls")


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the table.

    Attributes:
        title: What it is called in the table.
        kind: The case of `load`.
        connections: Concurrent connections.
        service: What is behind the bridge.
        figure: What of the result of `load` is counted; for `idle` the open connections, whose memory is weighed.
        unit: Of the figure, by which it is divided, and its name.
        options: More options for `load`.
        busy: Connections that echo 64-byte messages meanwhile. Their cost is not measured separately, so such a case is
            compared by its latency.
        once: Measured before the rounds, since memory that was taken once stays with the process.
        most_s: The longest that it may run, in seconds.
    """

    title: str
    kind: str
    connections: int
    service: Service
    figure: str
    unit: tuple[float, str]
    options: tuple[str, ...] = ()
    busy: int = 0
    once: bool = False
    most_s: float = math.inf


_MESSAGES = (1.0, "messages/s")
_MEGABYTES = (1e6, "MB/s")
_CONNECTIONS = (1.0, "connections/s")


def echo(title: str, connections: int, size: int = 64, depth: int = 1, *more: str) -> Case:
    """Make a case of clients that get their messages back; large ones count by their bytes."""
    figure, unit = ("messages", _MESSAGES) if size < 1024 else ("bytes_in", _MEGABYTES)
    return Case(title, "echo", connections, "echo", figure, unit, ("-s", str(size), "-d", str(depth), *more))


CASES: dict[str, Case] = {
    "idle": Case("memory of an idle connection", "idle", 5000, "echo", "opened", (1, "KiB"), once=True),
    "echo64x1": echo("64-byte echo, 1 connection", 1),
    "echo64": echo("64-byte echo, 64 connections", 64),
    "echo64x1000": echo("64-byte echo, 1,000 connections", 1000),
    "pipelined": echo("64-byte echo, pipelined", 8, 64, 64),
    "bursts": echo("64-byte echo, 64 to a write", 8, 64, 64, "-b"),
    "echo16k": echo("16 KiB echo", 8, 16384, 4),
    "down": Case("down", "down", 1, "source", "bytes_in", _MEGABYTES),
    "up": Case("up", "up", 1, "sink", "bytes_out", _MEGABYTES, ("-s", "65536")),
    # In a second no bridge uses up the 28,000 ports that it has for one backend, so that none has to look for one.
    "connect": Case("handshakes", "connect", 16, "echo", "opened", _CONNECTIONS, most_s=1.0),
    "connect_busy": Case(
        "handshake beside 64 busy connections, p99", "connect", 1, "echo", "opened", _CONNECTIONS, busy=64, most_s=1.0
    ),
}
