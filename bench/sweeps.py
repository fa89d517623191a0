"""How speed, latency and cost change with the size of messages and with the number of connections."""

from __future__ import annotations

import resource
from dataclasses import replace

from bench.cases import Case, echo

SIZES = (16, 64, 256, 1024, 4096, 16384, 65536, 262144)
COUNTS = (1, 10, 100, 1000, 3000, 10000)
_SPARE_DESCRIPTORS = 200
"""What a bridge may have open beside two sockets for each connection."""


def most_connections() -> int:
    """Say how many connections a bridge can have by the limit of descriptors here.

    lighttpd accepts none while it uses more than nine tenths of them.
    """
    return (resource.getrlimit(resource.RLIMIT_NOFILE)[1] * 9 // 10 - _SPARE_DESCRIPTORS) // 2


def counts() -> list[int]:
    """Give the numbers of connections to measure, as far as descriptors allow."""
    return sorted({min(count, most_connections()) for count in COUNTS})


def sizes_sweep() -> dict[str, Case]:
    """Give a case for each size of messages, by its number; all count bytes."""
    cases = {str(size): echo(f"{size:,} bytes", 64, size) for size in SIZES}
    return {name: replace(case, figure="bytes_in", unit=(1e6, "MB/s")) for name, case in cases.items()}


def connections_sweep() -> dict[str, Case]:
    """Give a case for each number of connections, by it."""
    return {str(count): echo(f"{count:,} connections", count) for count in counts()}
