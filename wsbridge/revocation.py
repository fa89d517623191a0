"""Revocation: connections end when the user or token that authenticated them leaves its list (`on_revoke: close`)."""

from __future__ import annotations

from typing import Any, Final

import trio

from wsbridge.admin.long_lists import Turns
from wsbridge.auth.access_list import REVOCATION_DELAY, AccessList, ListEntry
from wsbridge.connection import Connection
from wsbridge.log.logger import log
from wsbridge.reasons import Reason
from wsbridge.server import Server
from wsbridge.sessions.session import ResumableSession

REVOCATION_INTERVAL: Final = 2.0
"""Seconds between two checks of the lists."""
REVOCATION_TIME: Final = 60.0
"""Seconds after the change of a list in which connections are checked: some were being authenticated by the old one."""


async def watch_access_lists(server: Server) -> None:
    """Check the lists, and end the connections that one of them revokes, until cancelled."""
    while True:
        lists = _lists_in_use(server)
        if not lists:
            await server.generation.lifetime.superseded.wait()
            continue
        await trio.sleep(REVOCATION_INTERVAL)
        async with trio.open_nursery() as nursery:
            for one in lists:
                nursery.start_soon(_refresh, one)
        if any(one.age <= REVOCATION_DELAY + REVOCATION_TIME for one in lists):
            await end_revoked(server)


def _lists_in_use(server: Server) -> list[AccessList[Any]]:
    found = (reference() for reference in server.services.access_lists.valuerefs())  # a reload adds some in a thread
    return [one for one in found if one is not None]


async def _refresh(access_list: AccessList[Any]) -> None:
    """Read a list again; a bug, or no thread to be had, must not end the daemon."""
    try:
        await access_list.refresh()
    except Exception:
        log.exception("internal_error", component="revocation")


async def end_revoked(server: Server) -> None:
    """End the connections whose user or token has left its list."""
    turns = Turns()
    waiting = server.services.sessions.detached
    served: list[Connection | ResumableSession] = [*server.connections.values(), *waiting.values()]
    for connection in served:
        for entry in connection.context.identity.entries:
            if is_revoked(server, connection, entry):
                file = entry.access_list.key[1]
                connection.end(
                    Reason.ACCESS_REVOKED, f"{entry.subject} was removed from {file}, or its line has changed"
                )
        await turns.share()


def is_revoked(server: Server, connection: Connection | ResumableSession, entry: ListEntry) -> bool:
    """Return whether what authenticated a connection has left its list.

    The list is that of the route as it is configured now: where a reload has replaced it by another one of its kind,
    that one counts. Where a route has none of this kind any more, it is the one that they began with.
    """
    own, services = entry.access_list, server.services
    section = server.generation.config.routes.get(connection.context.route)
    keys = () if section is None or section.auth is None else tuple(section.auth.access_list_keys())
    lists = [] if own.key in keys else [services.access_lists.get(key) for key in keys if key[0] == own.key[0]]
    return all(one.revokes(entry.key) for one in [one for one in lists if one is not None] or [own])
