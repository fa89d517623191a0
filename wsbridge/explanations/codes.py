"""What HTTP statuses and WebSocket close codes mean where wsbridge sends or logs them."""

from __future__ import annotations

from typing import Final

STATUS_MEANINGS: Final[dict[int, str]] = {
    101: "The connection was established: what follows are WebSocket frames.",
    400: "The request is malformed, or offers no subprotocol that the route accepts; the body says what is wrong.",
    401: "The route requires authentication, and the client presented no valid credentials.",
    403: "The Origin or Host is not allowed, or the client may not connect, or not to the target that it chose.",
    404: "No route matches, or the file does not exist.",
    405: "The route does not accept this method.",
    408: "The request did not arrive within `timeouts.handshake`.",
    410: "Passed on from a WebSocket backend: what was there is gone for good.",
    426: "The route is for WebSocket, and the request has no Upgrade: a browser, or a proxy that drops that header.",
    429: "The client has too many connections, or opens them too fast, or its address is banned.",
    431: "The head of the request is too large; the body names the limit.",
    500: "A bug in wsbridge; the log has `internal_error` with the same `id`.",
    502: "The backend cannot be reached, or rejects the connection.",
    503: "wsbridge is at a limit, drains, or cannot verify credentials now; Retry-After says when to try again.",
    504: "The backend did not respond within `timeouts.connect`.",
    508: "The backend leads back to wsbridge.",
}
"""Status to its meaning; which reasons have it, `reasons.REASONS` and `EXTRA_STATUSES` know."""

EXTRA_STATUSES: Final[dict[str, tuple[int, ...]]] = {
    "bad_request": (405, 426),
    "backend_rejected": (401, 403, 404, 410, 429, 503, 508),
}
"""Statuses that a reason has besides that of the table of reasons."""

CLOSE_CODE_MEANINGS: Final[dict[int, str]] = {
    1000: "A clean end: all data was delivered.",
    1001: "A side goes away: a page was closed, a timeout of wsbridge is over, or wsbridge was stopped.",
    1002: "A peer violated the WebSocket protocol.",
    1003: "A peer sent a type of message that the other side does not accept, such as text.",
    1005: "Never sent: the peer's Close frame had no code. A clean end.",
    1006: (
        "Never sent: a browser reports it where no WebSocket could be established (any status but 101), or where "
        "it broke without a Close frame: the network, a proxy with a timeout, a crash. The log has the cause."
    ),
    1007: "A text message was not valid UTF-8.",
    1008: "Rejected or closed by a rule: credentials expired, access not permitted, or too many control frames.",
    1009: "A message is too large for the side that closes; wsbridge itself has no limit for messages.",
    1011: "The backend broke the connection off, or wsbridge has a bug. Data may be missing.",
    1012: "wsbridge restarts, or a reload removed the route: clients should reconnect.",
    1013: "wsbridge is at a limit, or cannot verify credentials now: clients should wait before they reconnect.",
    1014: "The backend could not be reached after the 101 (`dial: {when: after-upgrade}`).",
    1015: "Never sent: a browser reports it where the TLS handshake failed; the log has `tls_failed`.",
    4001: "The session is unknown, expired or another client's, or the token is wrong: open a new session.",
    4002: "The client and wsbridge do not agree on how far the session had come: it ended.",
    4003: "Another connection of the session has taken over. From a client: it opens another connection.",
    4004: "The session is of an earlier process: wsbridge has restarted, and does not have it any more.",
    4008: "The client violated the resume protocol, or sent no first frame in time.",
    4009: "A rule ended the session; the text is the reason.",
    4010: "The backend of the session refused the connection, or rejected it.",
    4011: "The backend of the session could not be reached.",
    4012: "The backend broke the connection off; everything that it had sent before was delivered.",
    4013: "wsbridge is at a limit: no session begins, or none waits for its client.",
    4014: "wsbridge is being shut down.",
}
"""Close code to its meaning (https://www.iana.org/assignments/websocket)."""
