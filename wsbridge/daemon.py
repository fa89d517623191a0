"""The process: descriptors, signals, the service manager, and the exit code.

Lives here: what surrounds a `Server` when wsbridge runs as a program. Must not live here: reading the configuration
(`config`), the command line (`cli`), serving.
"""

from __future__ import annotations

import gc
import os
import resource
import signal
from collections.abc import Awaitable, Callable

import trio

from wsbridge import __version__
from wsbridge.config.model import Config
from wsbridge.listeners import Listening
from wsbridge.log import log
from wsbridge.net.client_hello import ignore_unreadable_names
from wsbridge.reasons import Reason
from wsbridge.server import DESCRIPTORS_KEPT, Server
from wsbridge.systemd import Notifier

STATUS_EVERY = 5.0
"""Seconds between looks at the count of connections for the service manager."""


def raise_descriptor_limit() -> int:
    """Lift the soft limit of open files to the hard one; give it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def _warn_of_descriptors(config: Config, descriptors: int) -> None:
    """Tell of a cap of connections that this process cannot reach."""
    wanted = config.limits.connections
    if isinstance(wanted, int) and 2 * wanted + DESCRIPTORS_KEPT > descriptors:
        log.warning(
            "config.warning",
            code="W014",
            path="limits.connections",
            detail=f"{wanted} connections take up to {2 * wanted + DESCRIPTORS_KEPT} open files, and the limit is"
            f" {descriptors}: raise it (LimitNOFILE= of a systemd unit), or write at most"
            f" {max(1, (descriptors - DESCRIPTORS_KEPT) // 2)}",
        )


async def serve(
    config: Config,
    *,
    once: bool = False,
    ready: Callable[[list[Listening]], None] = lambda _: None,
    beside: Callable[[Server], Awaitable[None]] | None = None,
    signals: bool = True,
) -> None:
    """Serve until a signal, or until the one connection of `once` has ended.

    SIGTERM drains; SIGINT, SIGHUP (a terminal or an ssh that goes away), and any second signal, ends everything within
    `close`. Where whoever started the process has SIGHUP ignored, as nohup does, it stays ignored.

    Args:
        config: Checked.
        once: See `Server`.
        ready: Called once all listeners are open.
        beside: A task to run among the connections.
        signals: Whether to take the process's signals.

    Raises:
        ListenError: An address cannot be had.
        ValueError: A file that the configuration names cannot be used.
    """
    _warn_of_descriptors(config, raise_descriptor_limit())
    ignore_unreadable_names()
    notifier = Notifier()
    server = Server(config, once=once)

    def opened(listening: list[Listening]) -> None:
        gc.collect()
        gc.freeze()
        addresses = [address for one in listening for address in one.addresses]
        log.info(
            "daemon.ready",
            version=__version__,
            pid=os.getpid(),
            engine=server.engine.name,
            listeners=addresses,
            routes=len(config.routes),
            connections_limit=server.limit,
        )
        notifier.ready(f"serving {len(config.routes)} routes at {len(addresses)} addresses")
        ready(listening)

    async with trio.open_nursery() as nursery:
        if signals:
            await nursery.start(_heed_signals, server, notifier)
        if notifier:
            nursery.start_soon(_tell_status, server, notifier)
        try:
            await server.run(opened, beside)
        finally:
            nursery.cancel_scope.cancel()
    log.info("daemon.stop", connections=server.connections)


async def _heed_signals(
    server: Server, notifier: Notifier, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    hangup = () if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (signal.SIGHUP,)
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, *hangup) as signals:
        task_status.started()
        async for number in signals:
            first = server.ending is None
            reason = Reason.DRAIN if number == signal.SIGTERM and first else Reason.STOP
            text = f"{signal.Signals(number).name}: {reason.value}, {server.connections} connections left"
            notifier.stopping(text)
            log.info(
                "daemon.drain", signal=signal.Signals(number).name, reason=reason.value, connections=server.connections
            )
            server.stop(reason)


async def _tell_status(server: Server, notifier: Notifier) -> None:
    told = -1
    while True:
        if server.connections != told and server.ending is None:
            told = server.connections
            notifier.status(f"{told} connections of at most {server.limit}")
        await trio.sleep(STATUS_EVERY)
