"""What is measured: each case is one run of `load` against one service of the backend."""

import math
from dataclasses import dataclass
from typing import Literal

Service = Literal["echo", "source", "sink"]
SERVICES: tuple[Service, ...] = ("echo", "source", "sink")

Transport = Literal["plain", "tls"]
TRANSPORTS: tuple[Transport, ...] = ("plain", "tls")


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
    once: bool = False
    most_s: float = math.inf


_MESSAGES = (1.0, "messages/s")
_MEGABYTES = (1e6, "MB/s")

CASES: dict[str, Case] = {
    "idle": Case("memory of an idle connection", "idle", 5000, "echo", "opened", (1, "KiB"), once=True),
    "echo64": Case("64-byte echo, 64 connections", "echo", 64, "echo", "messages", _MESSAGES),
    "echo64x1000": Case("64-byte echo, 1,000 connections", "echo", 1000, "echo", "messages", _MESSAGES),
    "pipelined": Case("64-byte echo, pipelined", "echo", 8, "echo", "messages", _MESSAGES, ("-d", "64")),
    "bursts": Case("64-byte echo, 64 to a write", "echo", 8, "echo", "messages", _MESSAGES, ("-d", "64", "-b")),
    "echo16k": Case("16 KiB echo", "echo", 8, "echo", "bytes_in", _MEGABYTES, ("-s", "16384", "-d", "4")),
    "down": Case("down", "down", 1, "source", "bytes_in", _MEGABYTES),
    "up": Case("up", "up", 1, "sink", "bytes_out", _MEGABYTES, ("-s", "65536")),
    # In a second no bridge uses up the 28,000 ports that it has for one backend, so that none has to look for one.
    "connect": Case("handshakes", "connect", 16, "echo", "opened", (1.0, "connections/s"), most_s=1.0),
}
