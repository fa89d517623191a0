"""Why a connection ended: the one table that logs, counters, HTTP answers and close frames draw on.

Lives here: the names of all endings and what each becomes on either side. Must not live here: anything that acts
on them (the pump ends sockets, an exchange answers requests). The text of a close frame is the reason's name.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Literal

Blame = Literal["front", "back", "bridge"]


class Reason(enum.StrEnum):
    """One ending. The value is the stable name used in logs, close frames and counters."""

    BACKEND_CLOSED = "backend_closed"
    CLIENT_CLOSED = "client_closed"
    CLIENT_LOST = "client_lost"
    BACKEND_REFUSED = "backend_refused"
    BACKEND_UNREACHABLE = "backend_unreachable"
    BACKEND_NAME = "backend_name"
    BACKEND_TLS = "backend_tls"
    BACKEND_TIMEOUT = "backend_timeout"
    BACKEND_RESET = "backend_reset"
    IDLE_TIMEOUT = "idle_timeout"
    MAX_AGE = "max_age"
    WRITE_STALLED = "write_stalled"
    PROTOCOL_ERROR = "protocol_error"
    BAD_TEXT = "bad_text"
    TOO_BIG = "too_big"
    UNSUPPORTED = "unsupported"
    FLOOD = "flood"
    BAD_REQUEST = "bad_request"
    HANDSHAKE_TIMEOUT = "handshake_timeout"
    TLS_FAILED = "tls_failed"
    PROXY_HEADER = "proxy_header"
    ORIGIN = "origin"
    FORBIDDEN = "forbidden"
    UNAUTHENTICATED = "unauthenticated"
    AUTH_UNAVAILABLE = "auth_unavailable"
    AUTH_EXPIRED = "auth_expired"
    NO_ROUTE = "no_route"
    RATE = "rate"
    BANNED = "banned"
    OVERLOAD = "overload"
    DRAIN = "drain"
    STOP = "stop"
    INTERNAL_ERROR = "internal_error"
    SERVED = "served"


@dataclass(frozen=True, slots=True)
class Ending:
    """What one reason becomes.

    Attributes:
        status: HTTP status before the 101, or None where it cannot happen there (or the answer carries its own).
        code: WebSocket close code after the 101 (RFC 6455 section 7.4), or None where the connection is dropped.
        reset: whether a raw side is reset (True) or finished with FIN (False).
        level: log level of the line that tells it.
    """

    status: int | None
    code: int | None
    reset: bool
    level: Literal["debug", "info", "warning", "error"] = "info"


ENDINGS: dict[Reason, Ending] = {
    Reason.BACKEND_CLOSED: Ending(None, 1000, reset=False),
    Reason.CLIENT_CLOSED: Ending(None, 1000, reset=False),
    Reason.CLIENT_LOST: Ending(None, None, reset=True),
    Reason.BACKEND_REFUSED: Ending(502, 1014, reset=True, level="warning"),
    Reason.BACKEND_UNREACHABLE: Ending(502, 1014, reset=True, level="warning"),
    Reason.BACKEND_NAME: Ending(502, 1014, reset=True, level="warning"),
    Reason.BACKEND_TLS: Ending(502, 1014, reset=True, level="warning"),
    Reason.BACKEND_TIMEOUT: Ending(504, 1014, reset=True, level="warning"),
    Reason.BACKEND_RESET: Ending(None, 1011, reset=True, level="warning"),
    Reason.IDLE_TIMEOUT: Ending(None, 1001, reset=False),
    Reason.MAX_AGE: Ending(None, 1001, reset=False),
    Reason.WRITE_STALLED: Ending(None, None, reset=True, level="warning"),
    Reason.PROTOCOL_ERROR: Ending(400, 1002, reset=True, level="warning"),
    Reason.BAD_TEXT: Ending(400, 1007, reset=True, level="warning"),
    Reason.TOO_BIG: Ending(431, 1009, reset=True, level="warning"),
    Reason.UNSUPPORTED: Ending(400, 1003, reset=True, level="warning"),
    Reason.FLOOD: Ending(None, 1008, reset=True, level="warning"),
    Reason.BAD_REQUEST: Ending(400, 1002, reset=True),
    Reason.HANDSHAKE_TIMEOUT: Ending(408, 1002, reset=True),
    Reason.TLS_FAILED: Ending(None, None, reset=True),
    Reason.PROXY_HEADER: Ending(None, None, reset=True, level="warning"),
    Reason.ORIGIN: Ending(403, 1008, reset=True, level="warning"),
    Reason.FORBIDDEN: Ending(403, 1008, reset=True),
    Reason.UNAUTHENTICATED: Ending(401, 1008, reset=True),
    Reason.AUTH_UNAVAILABLE: Ending(503, 1013, reset=True, level="error"),
    Reason.AUTH_EXPIRED: Ending(None, 1008, reset=False),
    Reason.NO_ROUTE: Ending(404, 1008, reset=True),
    Reason.RATE: Ending(429, 1008, reset=True),
    Reason.BANNED: Ending(429, 1008, reset=True, level="debug"),
    Reason.OVERLOAD: Ending(503, 1013, reset=True, level="warning"),
    Reason.DRAIN: Ending(503, 1012, reset=False),
    Reason.STOP: Ending(503, 1001, reset=False),
    Reason.INTERNAL_ERROR: Ending(500, 1011, reset=True, level="error"),
    Reason.SERVED: Ending(None, None, reset=False),
}


@dataclass(frozen=True, slots=True)
class End:
    """How one connection ended.

    Attributes:
        reason: The row of the table.
        blame: Whose doing it was: the side that was accepted, the side that was dialled, or the bridge itself.
        detail: One sentence for the log, with the numbers; never a secret. Empty if the reason says it all.
        status: HTTP status to answer, where it differs from the table's (405, 408, 413, 426 ...).
        code: Close code that a peer sent, or None.
        headers: Header lines that the HTTP answer must carry.
    """

    reason: Reason
    blame: Blame
    detail: str = ""
    status: int | None = None
    code: int | None = None
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def http_status(self) -> int:
        """Status to answer before the 101."""
        return self.status or ENDINGS[self.reason].status or 500
