"""Counters of routes and listeners: `access_log` and tasks of the event loop increment them, a scrape reads them.

A connection costs a handful of increments. Keys are names of the configuration and of the table of reasons, never what
a peer sends, so that the number of keys does not depend on clients.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from wsbridge.reasons import Initiator

CONNECT_BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds that a dial takes: from a socket of this host to the default of `timeouts.connect` and beyond."""
DURATION_BOUNDS: Final = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 43200.0, 86400.0)
"""Seconds that a connection lasts: from a second to a day."""


@dataclass(slots=True)
class Histogram:
    """How many values were at most as large as each bound.

    Attributes:
        bounds: In ascending order.
        counts: Values by the first bound that they do not exceed; the last is for those beyond all bounds.
        total: Sum of all values.
    """

    bounds: tuple[float, ...]
    counts: list[int]
    total: float = 0.0


@dataclass(slots=True, weakref_slot=True)
class RouteStats:
    """Counters of one route since the process started, or since a reload added it.

    Attributes:
        active: Connections being relayed now.
        relayed: Connections that were relayed, including the active ones.
        bytes_to_backend: Payload bytes relayed from clients to the backend; those of open connections as far as
            `Acceptor.count_bytes` has added them.
        bytes_to_client: Payload bytes relayed in the other direction.
        closed: Relayed connections that ended, by reason and initiator: the lines `connection.closed`.
        rejections: Requests and dials that ended before the relay, by listener, reason and initiator: the lines
            `connection.rejected` that name the route.
        close_codes: Connections that ended with a close frame, by initiator and class of its code.
        responses: Responses of wsbridge itself, by status.
        sessions_opened: Resumable sessions that were opened.
        sessions_adopted: Sessions of an earlier process that went on in this one.
        sessions_resumed: How often a session went on over another connection.
        sessions_closed: Sessions that ended, by reason and initiator: the lines `session.closed`.
        backend_sessions: Resumable sessions that WebSocket backends have opened for plain clients.
        backend_transports_lost: Connections to WebSocket backends that were lost while a resumable session used them.
        backend_sessions_resumed: How often such a session went on over another connection.
        backend_sessions_detached: Such sessions that have no connection now.
        durations: Seconds that relayed connections lasted, from accept.
        connect_times: Seconds that successful dials took.
    """

    active: int = 0
    relayed: int = 0
    bytes_to_backend: int = 0
    bytes_to_client: int = 0
    closed: Counter[tuple[str, Initiator]] = field(default_factory=Counter)
    rejections: Counter[tuple[str, str, Initiator]] = field(default_factory=Counter)
    close_codes: Counter[tuple[Initiator, str]] = field(default_factory=Counter)
    responses: Counter[int] = field(default_factory=Counter)
    sessions_opened: int = 0
    sessions_adopted: int = 0
    sessions_resumed: int = 0
    sessions_closed: Counter[tuple[str, Initiator]] = field(default_factory=Counter)
    backend_sessions: int = 0
    backend_transports_lost: int = 0
    backend_sessions_resumed: int = 0
    backend_sessions_detached: int = 0
    durations: Histogram = field(default_factory=lambda: Histogram(DURATION_BOUNDS, [0] * (len(DURATION_BOUNDS) + 1)))
    connect_times: Histogram = field(default_factory=lambda: Histogram(CONNECT_BOUNDS, [0] * (len(CONNECT_BOUNDS) + 1)))

    @property
    def rejected(self) -> int:
        """Requests and dials that ended before the relay."""
        return sum(self.rejections.values())


@dataclass(slots=True, weakref_slot=True)
class ListenerStats:
    """Counters of one listener since the process started, or since a reload added it.

    Attributes:
        accepted: Connections accepted.
        empty: Connections that ended before their first byte: the lines `connection.empty`.
        shed: Connections reset without a response over the connection limit: the lines `connection.shed`.
        accept_errors: Failures of accept(2), by the name of the errno.
        rejections: Connections that were rejected before their route was known, by reason and initiator: the lines
            `connection.rejected` without a route.
    """

    accepted: int = 0
    empty: int = 0
    shed: int = 0
    accept_errors: Counter[str] = field(default_factory=Counter)
    rejections: Counter[tuple[str, Initiator]] = field(default_factory=Counter)
