"""Events: every name that the log may carry, with its keys. Names and keys are an interface: scripts read them.

Lives here: the table alone; `docs/logs.md` shows it to users and a test holds the two, and every call of `log` in
the package, to it. Must not live here: the making of any record.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Event:
    """One kind of record.

    Attributes:
        meaning: When it is written, one sentence.
        levels: The levels it may have.
        keys: The keys it may carry, beside the time, the level and `event`; absent ones do not apply.
        most: Records a second, and at once after a quiet time, where clients could cause them without end.
    """

    meaning: str
    levels: tuple[str, ...]
    keys: tuple[str, ...]
    most: tuple[float, float] | None = None


_MANY: Final = (50.0, 200.0)
"""For records of which each tells of another client."""
_FEW: Final = (1.0, 5.0)
"""For records that are all alike."""
_FRONT: Final = ("id", "peer", "listener", "via")
_ENDING: Final = (
    "reason",
    "blame",
    "detail",
    "route",
    "identity",
    "backend",
    "path",
    "target",
    "address",
    "subprotocol",
    "seconds",
)

EVENTS: Final[dict[str, Event]] = {
    "daemon.ready": Event(
        "All listeners are open.",
        ("info",),
        ("version", "pid", "engine", "listeners", "routes", "connections_limit"),
    ),
    "daemon.drain": Event(
        "A signal came: no more connections are accepted, the open ones end.",
        ("info",),
        ("signal", "reason", "connections"),
    ),
    "daemon.stop": Event(
        "The process ends.",
        ("info",),
        ("connections",),
    ),
    "config.warning": Event(
        "A legal but dangerous or useless setting; at each start.",
        ("warning",),
        ("code", "file", "line", "column", "path", "detail"),
    ),
    "listener.open": Event(
        "A listener accepts, at this real address.",
        ("info",),
        ("listener", "address"),
    ),
    "listener.close": Event(
        "A listener accepts no more.",
        ("info",),
        ("listener",),
    ),
    "accept.error": Event(
        "The system refused the next connection (out of descriptors or memory); accepting goes on.",
        ("warning", "error"),
        ("listener", "error", "connections"),
        _FEW,
    ),
    "accept.shed": Event(
        "A connection over the cap was reset at once.",
        ("warning",),
        ("listener", "connections", "limit"),
        _FEW,
    ),
    "accept.banned": Event(
        "A connection of a banned address was reset; one of many.",
        ("info",),
        ("listener", "address", "count"),
        _FEW,
    ),
    "address.banned": Event(
        "So many logins from an address failed that its connections are reset for a while; fail2ban reads it.",
        ("warning",),
        ("address", "failures", "seconds"),
    ),
    "connection.end": Event(
        "A connection whose two sides were joined has ended; the one line that tells all of it.",
        ("info", "warning", "error"),
        (*_FRONT, *_ENDING, "code", "to_back", "to_front"),
    ),
    "connection.refused": Event(
        "A connection ended before its two sides were joined: bad request, no route, backend down.",
        ("debug", "info", "warning", "error"),
        (*_FRONT, *_ENDING, "code", "status"),
        _MANY,
    ),
    "connection.silent": Event(
        "A connection was closed by its client before it sent anything, as health checks and browsers do.",
        ("debug",),
        _FRONT,
    ),
    "request.served": Event(
        "A request was answered by a `files:`, `answer:` or `ticket:` route; debug if with a status below 400.",
        ("debug", "info"),
        (*_FRONT, "route", "method", "path", "status", "detail"),
        _MANY,
    ),
    "backend.retry": Event(
        "A backend is not up yet and `connect: {retry_for: …}` lets the bridge try again.",
        ("info",),
        ("id", "route", "backend", "reason", "detail"),
    ),
    "file.reread": Event(
        "A list of users, tokens or targets has changed and was read again.",
        ("info",),
        ("file",),
    ),
    "file.unusable": Event(
        "Such a file has changed and cannot be used; what it last said well goes on to hold.",
        ("error",),
        ("file", "detail"),
    ),
    "audit.failed": Event(
        "The file of the audit was renamed or removed and cannot be opened anew; the old one is written on.",
        ("error",),
        ("file", "error"),
    ),
    "audit.dropped": Event(
        "So many records of the audit were lost: its queue was full, or its file could not be written.",
        ("warning",),
        ("file", "count"),
    ),
    "keys.fetched": Event(
        "Keys that tokens are verified with were fetched, and are others than before or were not to be had before.",
        ("info",),
        ("url", "count"),
    ),
    "keys.unusable": Event(
        "Keys that tokens are verified with cannot be fetched; the last ones hold for a while.",
        ("error",),
        ("url", "detail"),
    ),
    "log.dropped": Event(
        "So many records were lost: the queue was full, or the output failed.",
        ("warning",),
        ("count",),
    ),
    "log.suppressed": Event(
        "So many records of one event were left out, because they came too fast.",
        ("warning",),
        ("of", "count"),
    ),
    "bug": Event(
        "An error in wsbridge itself; please report it.",
        ("error",),
        ("where", "id", "detail", "exception"),
    ),
}

KEYS: Final[dict[str, str]] = {
    "id": "number of the connection since the start of the process",
    "peer": "address of the client: as the listener saw it, or as the proxies in `via` have told it",
    "via": "hosts of the trusted proxies between the client and the listener, nearest last",
    "listener": "name of the listener in the configuration",
    "reason": "why it ended, or why the backend could not be reached: a name of the table in `wsbridge/reasons.py`",
    "blame": "whose doing it was: front (the side accepted), back (the side dialled), bridge",
    "detail": "one sentence more, with numbers",
    "route": "name of the route",
    "identity": "who the client turned out to be, where the route asks for that",
    "backend": "backend as configured",
    "path": "target of the request, secrets in its query replaced; of config.warning: the setting",
    "target": "URL that the client chose, where the backend is his to choose",
    "address": "real address: of the backend dialled, or of the listener; of bans: the client's, without port",
    "subprotocol": "subprotocol agreed on",
    "seconds": "how long the connection lasted; of address.banned: how long the ban does",
    "code": "WebSocket close code that a peer sent; of config.warning: the warning's own code",
    "status": "HTTP status answered",
    "to_back": "payload bytes from the client to the backend",
    "to_front": "payload bytes from the backend to the client",
    "method": "method of the request",
    "version": "version of wsbridge",
    "pid": "process id",
    "engine": "which engine moves the bytes",
    "listeners": "all addresses that connections are accepted at",
    "routes": "how many routes there are",
    "connections": "how many connections are open",
    "connections_limit": "how many connections may be open",
    "limit": "the same, for accept.shed",
    "signal": "signal that was received",
    "file": "file that the warning points into, that was read, or that is written",
    "url": "where keys are fetched from",
    "line": "line in it",
    "column": "column in it",
    "error": "what the system said",
    "count": "how many",
    "failures": "how many logins failed",
    "of": "the event left out",
    "where": "the part of the program",
    "exception": "the traceback",
}
