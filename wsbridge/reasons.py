"""Why a connection ended: one table for logs, counters, HTTP responses and close frames, and `Rejected`.

The text of a close frame is the name of the reason.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final, Literal

Initiator = Literal["client", "backend", "wsbridge"]


class Reason(enum.StrEnum):
    """Why a connection ended; the value is the stable name in logs, close frames and counters."""

    BACKEND_CLOSED = "backend_closed"
    CLIENT_CLOSED = "client_closed"
    CLIENT_LOST = "client_lost"
    BACKEND_REFUSED = "backend_refused"
    BACKEND_REJECTED = "backend_rejected"
    BACKEND_UNREACHABLE = "backend_unreachable"
    BACKEND_DENIED = "backend_denied"
    BACKEND_DNS = "backend_dns"
    BACKEND_TLS = "backend_tls"
    BACKEND_TIMEOUT = "backend_timeout"
    BACKEND_RESET = "backend_reset"
    IDLE_TIMEOUT = "idle_timeout"
    MAX_LIFETIME = "max_lifetime"
    WRITE_STALLED = "write_stalled"
    PROTOCOL_ERROR = "protocol_error"
    INVALID_UTF8 = "invalid_utf8"
    REQUEST_TOO_LARGE = "request_too_large"
    UNSUPPORTED_DATA = "unsupported_data"
    CONTROL_FLOOD = "control_flood"
    BAD_REQUEST = "bad_request"
    HANDSHAKE_TIMEOUT = "handshake_timeout"
    TLS_FAILED = "tls_failed"
    BAD_PROXY_HEADER = "bad_proxy_header"
    ORIGIN_NOT_ALLOWED = "origin_not_allowed"
    HOST_NOT_ALLOWED = "host_not_allowed"
    FORBIDDEN = "forbidden"
    UNAUTHENTICATED = "unauthenticated"
    AUTH_UNAVAILABLE = "auth_unavailable"
    AUTH_EXPIRED = "auth_expired"
    NO_ROUTE = "no_route"
    RATE_LIMITED = "rate_limited"
    BANNED = "banned"
    OVERLOAD = "overload"
    ROUTE_REMOVED = "route_removed"
    CLOSED_BY_OPERATOR = "closed_by_operator"
    ACCESS_REVOKED = "access_revoked"
    DRAINING = "draining"
    SHUTDOWN = "shutdown"
    LOOP_DETECTED = "loop_detected"
    INTERNAL_ERROR = "internal_error"
    SERVED = "served"
    RESUME_REJECTED = "resume_rejected"
    RESUME_GAP = "resume_gap"
    SUPERSEDED = "superseded"
    SESSION_LOST = "session_lost"
    SESSION_EXPIRED = "session_expired"
    SESSION_DISPLACED = "session_displaced"
    HANDED_OVER = "handed_over"


@dataclass(frozen=True, slots=True)
class ReasonInfo:
    """How one reason is reported to the peers and in the log.

    Attributes:
        status: HTTP status before the 101; None if it cannot happen there, or if the response has its own.
        close_code: WebSocket close code after the 101 (RFC 6455 section 7.4), or None where the connection is dropped.
        reset: whether a raw side is reset (True) or finished with FIN (False).
        level: log level of its line.
        advice: What the HTTP response says to the client besides the name of the reason. The same for every request, so
            that it reveals nothing of the configuration; the response to a bad request has the detail of the log.
        session_code: Close code for the client of a resumable session (`protocol.resume_frames.ResumeCode`), or None
            where the connection is dropped.
    """

    status: int | None
    close_code: int | None
    reset: bool
    level: Literal["debug", "info", "warning", "error"] = "info"
    advice: str = ""
    session_code: int | None = 4009

    @property
    def close_code_to_backend(self) -> int | None:
        """The close code for a WebSocket backend, to which 1000 and 1001 mean that the client has ended cleanly."""
        return 1012 if self.close_code in (1000, 1001) else self.close_code


EMPTY_CONNECTION = "sent nothing"
"""Detail of a connection that ended before its first byte; it is logged at debug only."""

_NO_SERVICE: Final = (
    "The service behind this server cannot be reached. Try again later, or report this to the operator."
)
_RESTARTING: Final = "The server is shutting down or restarting. Try again later."

REASONS: dict[Reason, ReasonInfo] = {
    Reason.BACKEND_CLOSED: ReasonInfo(None, 1000, reset=False, session_code=1000),
    Reason.CLIENT_CLOSED: ReasonInfo(None, 1000, reset=False, session_code=1000),
    Reason.CLIENT_LOST: ReasonInfo(None, None, reset=True, session_code=None),
    Reason.BACKEND_REFUSED: ReasonInfo(502, 1014, reset=True, level="warning", advice=_NO_SERVICE, session_code=4010),
    Reason.BACKEND_REJECTED: ReasonInfo(
        502,
        1014,
        reset=True,
        level="warning",
        advice="The service behind this server rejected the connection. The log of the server has its response.",
        session_code=4010,
    ),
    Reason.BACKEND_UNREACHABLE: ReasonInfo(
        502, 1014, reset=True, level="warning", advice=_NO_SERVICE, session_code=4011
    ),
    Reason.BACKEND_DENIED: ReasonInfo(502, 1014, reset=True, level="warning", advice=_NO_SERVICE, session_code=4010),
    Reason.BACKEND_DNS: ReasonInfo(502, 1014, reset=True, level="warning", advice=_NO_SERVICE, session_code=4011),
    Reason.BACKEND_TLS: ReasonInfo(502, 1014, reset=True, level="warning", advice=_NO_SERVICE, session_code=4011),
    Reason.BACKEND_TIMEOUT: ReasonInfo(
        504,
        1014,
        reset=True,
        level="warning",
        advice="The service behind this server did not answer in time. Try again later, or report it to the operator.",
        session_code=4011,
    ),
    Reason.BACKEND_RESET: ReasonInfo(None, 1011, reset=True, level="warning", session_code=4012),
    Reason.IDLE_TIMEOUT: ReasonInfo(None, 1001, reset=True),
    Reason.MAX_LIFETIME: ReasonInfo(None, 1001, reset=True),
    Reason.WRITE_STALLED: ReasonInfo(None, None, reset=True, level="warning"),
    Reason.PROTOCOL_ERROR: ReasonInfo(
        400,
        1002,
        reset=True,
        level="warning",
        advice="The client violated the WebSocket protocol. The log of the server says how.",
        session_code=4008,
    ),
    Reason.INVALID_UTF8: ReasonInfo(
        400, 1007, reset=True, level="warning", advice="The client sent text that is not UTF-8.", session_code=4008
    ),
    Reason.REQUEST_TOO_LARGE: ReasonInfo(431, 1009, reset=True, level="warning"),
    Reason.UNSUPPORTED_DATA: ReasonInfo(
        400,
        1003,
        reset=True,
        level="warning",
        advice="The client sent data that is not supported here.",
        session_code=4008,
    ),
    Reason.CONTROL_FLOOD: ReasonInfo(None, 1008, reset=True, level="warning"),
    Reason.BAD_REQUEST: ReasonInfo(400, 1002, reset=True, session_code=4008),
    Reason.HANDSHAKE_TIMEOUT: ReasonInfo(
        408, 1002, reset=True, advice="The request did not arrive in time.", session_code=4008
    ),
    Reason.TLS_FAILED: ReasonInfo(None, None, reset=True),
    Reason.BAD_PROXY_HEADER: ReasonInfo(None, None, reset=True, level="warning"),
    Reason.ORIGIN_NOT_ALLOWED: ReasonInfo(
        403,
        1008,
        reset=True,
        level="warning",
        advice="The page that sent this request may not use this server (cross-site request). Its operator can allow "
        "the origin of the page: allowed_origins of the route; the log names both.",
    ),
    Reason.HOST_NOT_ALLOWED: ReasonInfo(
        403,
        1008,
        reset=True,
        level="warning",
        advice="The host name in the URL is not configured for this server, which has no TLS here (DNS rebinding "
        "protection). Its operator can allow the name: host_names of the listener, or wsbridge bridge or demo with "
        "--host-name NAME. An IP address in the URL needs no permission.",
    ),
    Reason.FORBIDDEN: ReasonInfo(
        403, 1008, reset=True, advice="Access is not allowed. If it should be, report this to the operator."
    ),
    Reason.UNAUTHENTICATED: ReasonInfo(401, 1008, reset=True, advice="This address requires valid credentials."),
    Reason.AUTH_UNAVAILABLE: ReasonInfo(
        503,
        1013,
        reset=True,
        level="error",
        advice="Credentials cannot be verified at present. Try again later, or report this to the operator.",
    ),
    Reason.AUTH_EXPIRED: ReasonInfo(None, 1008, reset=True),
    Reason.NO_ROUTE: ReasonInfo(
        404, 1008, reset=True, advice="There is nothing at this address. Check the host name and the path of the URL."
    ),
    Reason.RATE_LIMITED: ReasonInfo(
        429,
        1008,
        reset=True,
        advice="This client has too many connections, or opens them too fast. Try again later.",
        session_code=4013,
    ),
    Reason.BANNED: ReasonInfo(
        429,
        1008,
        reset=True,
        level="debug",
        advice="There were too many failed logins from the address of this client. Try again later.",
    ),
    Reason.OVERLOAD: ReasonInfo(
        503,
        1013,
        reset=True,
        level="warning",
        advice="The server has reached a limit. Try again later.",
        session_code=4013,
    ),
    Reason.ROUTE_REMOVED: ReasonInfo(None, 1012, reset=True),
    Reason.CLOSED_BY_OPERATOR: ReasonInfo(
        503, 1001, reset=True, advice="The operator of the server closed this connection."
    ),
    Reason.ACCESS_REVOKED: ReasonInfo(
        403, 1008, reset=True, advice="Access is not allowed any more. If it should be, report this to the operator."
    ),
    Reason.DRAINING: ReasonInfo(503, 1012, reset=True, advice=_RESTARTING, session_code=4014),
    Reason.SHUTDOWN: ReasonInfo(503, 1001, reset=True, advice=_RESTARTING, session_code=4014),
    Reason.LOOP_DETECTED: ReasonInfo(
        508,
        1011,
        reset=True,
        level="warning",
        advice="The service behind this server leads back to it. Report this to the operator.",
    ),
    Reason.INTERNAL_ERROR: ReasonInfo(
        500, 1011, reset=True, level="error", advice="The server has a fault. Report this to the operator."
    ),
    Reason.SERVED: ReasonInfo(None, None, reset=False),
    Reason.RESUME_REJECTED: ReasonInfo(None, None, reset=True, session_code=4001),
    Reason.RESUME_GAP: ReasonInfo(None, None, reset=True, level="warning", session_code=4002),
    Reason.SUPERSEDED: ReasonInfo(None, None, reset=True, session_code=4003),
    Reason.SESSION_LOST: ReasonInfo(None, None, reset=True, session_code=4004),
    Reason.SESSION_EXPIRED: ReasonInfo(None, None, reset=True),
    Reason.SESSION_DISPLACED: ReasonInfo(None, None, reset=True),
    Reason.HANDED_OVER: ReasonInfo(None, None, reset=False, session_code=1012),
}


@dataclass(slots=True)
class Termination:
    """How one connection ended.

    Attributes:
        reason: The row of the table.
        initiator: Who caused it: the client (the accepted side), the backend (the dialed side), or wsbridge.
        detail: One sentence for the log, with the numbers; never a secret. Empty if the reason is enough.
        status: HTTP status of the response, where it differs from the table's (405, 413, 426 ...).
        close_code: Close code that a peer sent, or None.
        headers: Header lines that the HTTP response must carry.
        incomplete: Whether the connection was forced to end before everything was delivered, although a side had
            ended cleanly.
    """

    reason: Reason
    initiator: Initiator
    detail: str = ""
    status: int | None = None
    close_code: int | None = None
    headers: tuple[tuple[str, str], ...] = ()
    incomplete: bool = False

    @property
    def http_status(self) -> int:
        """HTTP status of the response before the 101."""
        return self.status or REASONS[self.reason].status or 500


class Rejected(Exception):  # noqa: N818  (a decision about a client, not an error of the program)
    """The client is rejected: raised by any step before the relay, and caught in one place, `connection`.

    Args:
        reason: The row of the table.
        detail: One sentence for the log, with the numbers and the setting; never a secret.
        initiator: Which party caused it.
        status: HTTP status of the response, where it differs from the table's.
        headers: Header lines that the HTTP response must carry.
        failed_login: Whether a wrong credential was presented, which counts towards a ban of the client's address.
        genuine: Whether the credential is no guess, since it was issued here: expired, or not valid for this route.
        permanent: Whether a backend or proxy gave a definite answer, so that it is not dialed again.
        silent: Whether no response is sent: the client sent nothing, has disconnected, or speaks another protocol.
        retry_after: Seconds after which a backend or proxy asks to be tried again (RFC 9110 section 10.2.3), or None.
        answered: HTTP status with which a backend or proxy refused, or None.

    Attributes:
        target: Target of a request that could not be read to its end, as far as it was read; for the log.
        credential: Hash of the credential that was presented, by which `any_of` recognizes it; None if unknown.
    """

    def __init__(
        self,
        reason: Reason,
        detail: str = "",
        *,
        initiator: Initiator = "client",
        status: int | None = None,
        headers: tuple[tuple[str, str], ...] = (),
        failed_login: bool = False,
        genuine: bool = False,
        permanent: bool = False,
        silent: bool = False,
        retry_after: float | None = None,
        answered: int | None = None,
    ) -> None:
        super().__init__(
            reason, detail, initiator, status, headers, failed_login, genuine, permanent, silent, retry_after, answered
        )
        self.reason = reason
        self.detail = detail
        self.initiator: Initiator = initiator
        self.status = status
        self.headers = headers
        self.failed_login = failed_login
        self.genuine = genuine
        self.permanent = permanent
        self.silent = silent
        self.retry_after = retry_after
        self.answered = answered
        self.target = ""
        self.credential: int | None = None

    def __str__(self) -> str:
        return f"{self.reason.value}: {self.detail}"

    def with_detail(self, detail: str) -> Rejected:
        """Return the same rejection with another sentence for the log."""
        return Rejected(
            self.reason,
            detail,
            initiator=self.initiator,
            status=self.status,
            headers=self.headers,
            failed_login=self.failed_login,
            genuine=self.genuine,
            permanent=self.permanent,
            silent=self.silent,
            retry_after=self.retry_after,
            answered=self.answered,
        )

    def termination(self) -> Termination:
        """Return how the connection ends."""
        return Termination(self.reason, self.initiator, self.detail, status=self.status, headers=self.headers)
