"""Events of the audit: every record with its keys. Names and keys are an interface: scripts read them.

Lives here: the table alone; `docs/audit.md` shows it to users and a test holds the two together. Must not live here:
the making of any record.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Event:
    """One kind of record.

    Attributes:
        meaning: When it is written, one sentence.
        keys: The keys it may carry, beside the time and `event`; absent ones do not apply.
    """

    meaning: str
    keys: tuple[str, ...]


_WHO: Final = ("id", "peer", "via", "listener", "route", "identity", "proof")

EVENTS: Final[dict[str, Event]] = {
    "started": Event("The process begins to serve; ids count from here.", ("pid", "version")),
    "admitted": Event(
        "A client was let in and its backend reached: bytes can go both ways.",
        (*_WHO, "path", "origin", "subprotocol", "backend", "target", "address"),
    ),
    "ended": Event(
        "A connection that was admitted has ended.",
        (*_WHO, "target", "address", "reason", "blame", "detail", "code", "to_back", "to_front", "seconds"),
    ),
    "served": Event(
        "A request on a route that asks who the client is was answered by the bridge itself.",
        (*_WHO, "method", "path", "status", "detail"),
    ),
    "refused": Event(
        "A client was not let in, or its backend could not be reached.",
        (*_WHO, "path", "origin", "backend", "target", "reason", "blame", "detail", "code", "status", "seconds"),
    ),
    "stopped": Event("The process serves no more.", ("pid", "dropped")),
}

KEYS: Final[dict[str, str]] = {
    "id": "number of the connection since `started`; the same as in the log",
    "peer": "address of the client; behind trusted proxies, the one that they told",
    "via": "the trusted proxies that it came through, the nearest last",
    "listener": "name of the listener in the configuration",
    "route": "name of the route",
    "identity": "who the client is",
    "proof": "how he proved it: kinds of authentication, joined by `+`",
    "method": "method of the request",
    "path": "target of the request, secrets in its query replaced",
    "origin": "the page that the request says it came from",
    "subprotocol": "subprotocol agreed on",
    "backend": "backend as configured",
    "target": "URL that the client chose, where the backend is his to choose",
    "address": "where it was reached, after names and tokens were resolved",
    "reason": "why: a name of the table in docs/reasons.md",
    "blame": "whose doing it was: front (the client), back (the backend), bridge",
    "detail": "one sentence more, with numbers",
    "code": "WebSocket close code",
    "status": "HTTP status answered",
    "to_back": "payload bytes from the client to the backend",
    "to_front": "payload bytes from the backend to the client",
    "seconds": "how long the connection lasted, from its first byte",
    "pid": "process id",
    "version": "version of wsbridge",
    "dropped": "how many records were lost since `started`",
}
