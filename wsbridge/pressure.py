"""Watches of the process: memory that runs short, so that new connections are rejected; lag of the event loop."""

from __future__ import annotations

from time import process_time
from typing import Final

import trio

from wsbridge.limits.loop_lag import Lag
from wsbridge.limits.memory import MemoryLimits, MemoryUsage
from wsbridge.log.logger import log
from wsbridge.server import Server
from wsbridge.worker_thread import NoThreadError, run_in_thread

MEMORY_INTERVAL: Final = 1.0
"""Seconds between two checks of the memory."""
RELIEF: Final = 0.95
"""Share of the threshold below which memory is no longer short, so that the state does not flap."""
LAG_INTERVAL: Final = 0.1
"""Seconds between two checks of the event loop."""


async def watch_memory(server: Server, limits: MemoryLimits | None = None) -> None:
    """Let a server reject new connections while memory is short, until cancelled.

    Args:
        server: Its `limits.max_memory` is the threshold.
        limits: Of the process.
    """
    limits = MemoryLimits() if limits is None else limits
    while True:
        try:
            usage = await run_in_thread(limits.tightest)
        except NoThreadError:  # there is no memory for one, most likely
            usage = limits.tightest()
        check_memory(server, usage)
        await trio.sleep(MEMORY_INTERVAL)


def check_memory(server: Server, usage: MemoryUsage | None) -> None:
    """Begin or end the memory pressure of a server, and log the change."""
    server.acceptor.memory = usage
    threshold = server.generation.config.limits.max_memory
    if server.acceptor.memory_pressure:
        threshold = None if threshold is None else threshold * RELIEF
    is_short = usage is not None and threshold is not None and usage.share >= threshold
    if is_short == server.acceptor.memory_pressure:
        return
    server.acceptor.set_memory_pressure(is_short)
    fields: dict[str, object] = {"connections": len(server.connections)}
    if usage is not None:
        fields |= {"memory_bytes": usage.used, "memory_limit_bytes": usage.limit, "memory_limit": usage.source}
    if is_short:
        log.warning("memory.pressure", **fields)
    else:
        log.info("memory.relieved", **fields)


async def watch_loop(server: Server) -> None:
    """Measure the lag of the event loop, and log one above `log.loop_lag`, until cancelled."""
    while True:
        began, cpu_before = trio.current_time(), process_time()
        await trio.sleep(LAG_INTERVAL)
        now = trio.current_time()
        seconds = max(0.0, now - began - LAG_INTERVAL)
        server.loop_lag.record(seconds, now)
        threshold = server.generation.config.log.loop_lag
        if threshold is not None and seconds >= threshold:
            _log_lag(Lag(seconds, process_time() - cpu_before), len(server.connections))


def _log_lag(lag: Lag, connections: int) -> None:
    event = "loop.stalled" if lag.is_stall else "loop.lag"
    log.warning(
        event, lag_seconds=round(lag.seconds, 3), cpu_seconds=round(lag.cpu_seconds, 3), connections=connections
    )
