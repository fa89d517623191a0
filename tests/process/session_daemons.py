"""Daemons with resumable sessions: one that takes over from another one, and one that a service manager restarts."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import trio

from tests.process.daemon import Daemon
from tests.process.service_manager import ServiceManager, passed_tcp
from tests.serving import Backend, written

LIMITS = {"detached_sessions_per_identity": 1000}
TAKEOVER = {
    "admin": {"bind": "unix:@FOLDER@/admin.sock"},
    "timeouts": {"drain": "10s", "drain_spread": "200ms", "close": "1s"},
}
"""What a daemon has that can be taken over from."""
RESTART = {
    "listeners": {"web": {"bind": "fd:web"}},
    "timeouts": {"drain": "5s", "drain_spread": "200ms", "close": "1s", "retry_after": "1s"},
}
"""What a service has."""


def session_config(back: Backend, rest: dict[str, Any]) -> str:
    """Write a configuration with a route that has resumable sessions.

    Args:
        back: Its backend.
        rest: `TAKEOVER` or `RESTART`.
    """
    return written(route={"backend": back.url, "resume": {"ttl": "5m"}}, limits=LIMITS, **rest)


@contextlib.asynccontextmanager
async def started(text: str, old: Daemon | None = None) -> AsyncIterator[Daemon]:
    """Run a daemon, which takes over from another one if there is one."""
    daemon = Daemon(text) if old is None else Daemon(text, folder=old.folder, arguments=("--takeover",))
    await trio.to_thread.run_sync(daemon.__enter__)
    try:
        yield daemon
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(daemon.__exit__)
    assert not daemon.log_lines("internal_error")


@contextlib.asynccontextmanager
async def managed(text: str) -> AsyncIterator[tuple[ServiceManager, int]]:
    """Run a service whose sockets stay open over restarts, with a descriptor store; gives the manager and the port."""
    with passed_tcp() as sock:
        manager = ServiceManager(text, [("web", sock)], store_max=1000)
        await trio.to_thread.run_sync(manager.__enter__)
        try:
            yield manager, sock.getsockname()[1]
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(manager.__exit__)
    for daemon in manager.daemons:
        assert not daemon.log_lines("internal_error")


async def line(daemon: Daemon, event: str, count: int = 1, **facts: object) -> dict[str, Any]:
    """Wait for a line of the log of a daemon."""
    return await trio.to_thread.run_sync(lambda: daemon.wait(event, count, **facts))


async def ended(daemon: Daemon) -> None:
    """Wait for the end of a daemon, in order."""
    assert await trio.to_thread.run_sync(daemon.ended) == 0
