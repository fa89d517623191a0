"""Watchdog: the service manager is notified only while the event loop runs and every listener accepts."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable

import trio

from wsbridge.accept import AcceptTask
from wsbridge.log.logger import log
from wsbridge.server import Server


class AcceptCheck:
    """Finds listeners at which clients wait although nothing accepts them.

    Args:
        server: Whose listeners.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._before: dict[AcceptTask, int] = {}

    def stalled(self) -> list[str]:
        """Return the names of listeners whose task has ended, or has let a client wait since the last call.

        While the server stops there are none: nothing more needs to be accepted.
        """
        before, self._before = self._before, {}
        if self._server.services.stop_requested.is_set():
            return []
        found = []
        for opened in self._server.listeners:
            for task in opened.accepting:
                if has_waiting_client(task.sock):
                    self._before[task] = task.wakeups
            kept_waiting = any(before.get(task) == self._before.get(task, -1) for task in opened.accepting)
            if kept_waiting or len(opened.accepting) < len(opened.listening.sockets):
                found.append(opened.listener.name)
        return found


def has_waiting_client(sock: socket.socket) -> bool:
    """Return whether a client waits in the backlog of a listening socket."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


async def feed_watchdog(server: Server, feed: Callable[[], object], timeout: float) -> None:
    """Call `feed` twice within the timeout; not while a listener is stalled, so that the service is restarted.

    A loop that hangs, or spins in one task, does not come back here.

    Args:
        server: Whose listeners are checked.
        feed: Notifies the service manager.
        timeout: `WatchdogSec=`, in seconds.
    """
    check = AcceptCheck(server)
    while True:
        stalled = check.stalled()
        for name in stalled:
            log.error("accept.stalled", listener=name)
        if not stalled:
            feed()
        await trio.sleep(timeout / 2)
