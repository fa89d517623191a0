"""All events of the log and of the audit log, with the keys that they may carry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """One kind of record.

    Attributes:
        meaning: When it is written, one sentence.
        keys: The keys it may carry, beside the time and `event`; absent ones do not apply.
    """

    meaning: str
    keys: tuple[str, ...]


_AUDIT_CLIENT_KEYS: Final = ("id", "peer", "via", "listener", "route", "identity", "auth_method")

AUDIT_EVENTS: Final[dict[str, AuditEvent]] = {
    "audit.started": AuditEvent(
        "The process starts to accept connections; connection numbers count from here.", ("pid", "version")
    ),
    "access.granted": AuditEvent(
        "A client was authorized and its backend connected: the relay is established.",
        (*_AUDIT_CLIENT_KEYS, "path", "origin", "subprotocol", "backend", "target", "backend_address", "session"),
    ),
    "access.ended": AuditEvent(
        "A connection with an `access.granted` record was closed.",
        (
            *_AUDIT_CLIENT_KEYS,
            "target",
            "backend_address",
            "reason",
            "initiator",
            "detail",
            "close_code",
            "bytes_to_backend",
            "bytes_to_client",
            "duration_seconds",
            "session",
        ),
    ),
    "session.ended": AuditEvent(
        "A resumable session ended, and its connection to the backend, "
        "or it goes on in the next process (`handed_over`); its connections have records of their own.",
        (
            *_AUDIT_CLIENT_KEYS,
            "session",
            "target",
            "backend_address",
            "reason",
            "initiator",
            "detail",
            "close_code",
            "transports",
            "bytes_to_backend",
            "bytes_to_client",
            "duration_seconds",
        ),
    ),
    "access.served": AuditEvent(
        "A request was answered by wsbridge itself, on a route with authentication.",
        (*_AUDIT_CLIENT_KEYS, "method", "path", "status", "detail"),
    ),
    "access.denied": AuditEvent(
        "A client was denied access, or its backend could not be reached.",
        (
            *_AUDIT_CLIENT_KEYS,
            "path",
            "origin",
            "backend",
            "target",
            "reason",
            "initiator",
            "detail",
            "close_code",
            "status",
            "duration_seconds",
        ),
    ),
    "admin.request": AuditEvent(
        "A request to the admin API that changed something, or tried to.",
        ("method", "path", "status", "uid", "pid", "client_address"),
    ),
    "audit.stopped": AuditEvent("The process no longer accepts connections.", ("pid", "dropped")),
}

AUDIT_KEYS: Final[dict[str, str]] = {
    "id": "connection number since `audit.started`; the same as in the log",
    "peer": "client address; behind trusted proxies the one that they reported",
    "via": "addresses of the trusted proxies on the way, nearest last",
    "listener": "name of the listener in the configuration",
    "route": "name of the route",
    "identity": "authenticated identity",
    "auth_method": "authentication methods, joined by `+`",
    "method": "request method",
    "path": "request target; secrets in the query are redacted",
    "origin": "Origin header of the request",
    "subprotocol": "selected subprotocol",
    "backend": "backend as configured",
    "target": "URL that the client chose, on routes with dynamic targets",
    "backend_address": "address of the backend, after names and target tokens were resolved",
    "reason": "why: a name of the table in docs/reasons.md",
    "initiator": "who caused it: client, backend or wsbridge",
    "detail": "details in one sentence, with numbers",
    "close_code": "WebSocket close code",
    "session": "id of the resumable session; the same as in the log",
    "transports": "connections that the session has had",
    "status": "HTTP status of the response",
    "bytes_to_backend": "payload bytes from the client to the backend",
    "bytes_to_client": "payload bytes from the backend to the client",
    "duration_seconds": "how long the connection or the session lasted, from its first byte",
    "pid": "process ID",
    "uid": "user ID of a client of the admin API, on a Unix socket",
    "client_address": "address of a client of the admin API, on a port",
    "version": "version of wsbridge",
    "dropped": "number of records lost since `audit.started`",
}


@dataclass(frozen=True, slots=True)
class LogEvent:
    """One kind of record.

    Attributes:
        meaning: When it is written, one sentence.
        levels: The levels it may have.
        keys: The keys it may carry, beside the time, the level and `event`; absent ones do not apply.
        rate_limit: Records a second, and at once after a quiet time, where clients could cause them without end.
    """

    meaning: str
    levels: tuple[str, ...]
    keys: tuple[str, ...]
    rate_limit: tuple[float, float] | None = None


_PER_CLIENT_RATE_LIMIT: Final = (50.0, 200.0)
"""For records each of which is about another client."""
_REPEATED_RATE_LIMIT: Final = (1.0, 5.0)
"""For records that do not differ."""
_LAG_RATE_LIMIT: Final = (0.1, 3.0)
"""For the lag of an event loop that is overloaded all the time."""
_CONNECTION_KEYS: Final = ("id", "peer", "listener", "via")
_CLOSE_KEYS: Final = (
    "reason",
    "initiator",
    "detail",
    "route",
    "identity",
    "backend",
    "path",
    "target",
    "backend_address",
    "subprotocol",
    "host",
    "user_agent",
    "tls",
    "connect_seconds",
    "duration_seconds",
)

LOG_EVENTS: Final[dict[str, LogEvent]] = {
    "daemon.ready": LogEvent(
        "All listeners are open.",
        ("info",),
        ("version", "pid", "engine", "engine_threads", "listeners", "routes", "connections_limit"),
    ),
    "daemon.draining": LogEvent(
        "Shutdown started by a signal, or another process took over: open connections end, or are closed in time.",
        ("info",),
        ("signal", "successor", "reason", "connections"),
    ),
    "daemon.signal_ignored": LogEvent(
        "SIGHUP was received and ignored: the configuration did not come from a file.",
        ("warning",),
        ("signal", "detail"),
    ),
    "daemon.stopped": LogEvent(
        "The process ends.",
        ("info",),
        ("connections",),
    ),
    "takeover.completed": LogEvent(
        "This process has the listening sockets of the process `pid`, which drains now.",
        ("info",),
        ("pid", "count"),
    ),
    "takeover.failed": LogEvent(
        "A takeover failed: the running process serves as before (warning, in its log), the new one ends (error).",
        ("warning", "error"),
        ("pid", "detail"),
    ),
    "takeover.no_process": LogEvent(
        "With `--takeover`, no process listens at the admin socket: this one starts as usual.",
        ("info",),
        ("address", "detail"),
    ),
    "config.reloaded": LogEvent(
        "Another configuration is in effect for new connections.",
        ("info",),
        ("generation", "routes", "duration_seconds"),
    ),
    "config.reload_failed": LogEvent(
        "A reload failed: the configuration that worked stays in effect. Its errors are logged before it.",
        ("error",),
        ("generation", "detail"),
    ),
    "admin.request": LogEvent(
        "A request to the admin API that changed something, or tried to.",
        ("info",),
        ("method", "path", "status", "uid", "pid", "client_address"),
    ),
    "admin.denied": LogEvent(
        "A request to the admin API was rejected: no valid token, or a web page sent it.",
        ("warning",),
        ("method", "path", "status", "uid", "pid", "client_address"),
    ),
    "generation.ended": LogEvent(
        "The last connection that began with a configuration before the current one has ended.",
        ("debug",),
        ("generation",),
    ),
    "config.warning": LogEvent(
        "A valid but dangerous or useless setting; logged at each start and reload.",
        ("warning",),
        ("problem", "file", "line", "column", "setting", "detail"),
    ),
    "config.error": LogEvent(
        "The configuration is invalid, or a file that it names cannot be used: the process ends, or a reload fails.",
        ("error",),
        ("problem", "file", "line", "column", "setting", "detail"),
    ),
    "listener.error": LogEvent(
        "An address cannot be bound: the process ends, or a reload fails.",
        ("error",),
        ("listener", "listen_address", "problem", "detail"),
    ),
    "listener.opened": LogEvent(
        "A listener accepts connections on this address.",
        ("info",),
        ("listener", "listen_address"),
    ),
    "listener.closed": LogEvent(
        "A listener stopped accepting connections.",
        ("info",),
        ("listener",),
    ),
    "accept.stalled": LogEvent(
        "Clients wait at a listener and nothing accepts them; systemd is not notified any more, and restarts wsbridge.",
        ("error",),
        ("listener",),
    ),
    "accept.error": LogEvent(
        "accept() failed (out of file descriptors or memory); the listener continues.",
        ("warning", "error"),
        ("listener", "error", "connections"),
        _REPEATED_RATE_LIMIT,
    ),
    "connection.shed": LogEvent(
        "A connection over a limit of connections or open files was reset immediately.",
        ("warning",),
        ("listener", "connections", "detail"),
        _REPEATED_RATE_LIMIT,
    ),
    "memory.pressure": LogEvent(
        "More than limits.max_memory is in use: no more connections are accepted than are open now; others get 503.",
        ("warning",),
        ("memory_bytes", "memory_limit_bytes", "memory_limit", "connections"),
    ),
    "memory.relieved": LogEvent(
        "The memory is not short any more.",
        ("info",),
        ("memory_bytes", "memory_limit_bytes", "memory_limit", "connections"),
    ),
    "loop.lag": LogEvent(
        "The event loop was busy for longer than log.loop_lag: all connections had to wait.",
        ("warning",),
        ("lag_seconds", "cpu_seconds", "connections"),
        _LAG_RATE_LIMIT,
    ),
    "loop.stalled": LogEvent(
        "The process did not run for longer than log.loop_lag: it was stopped (SIGSTOP), the host was overloaded, or a "
        "system call blocked.",
        ("warning",),
        ("lag_seconds", "cpu_seconds", "connections"),
        _LAG_RATE_LIMIT,
    ),
    "connection.banned": LogEvent(
        "Connections from a banned address were reset; one record for many.",
        ("info",),
        ("listener", "client_address", "count"),
        _REPEATED_RATE_LIMIT,
    ),
    "address.banned": LogEvent(
        "Too many failed logins from an address: its connections are reset for some time. fail2ban reads this record.",
        ("warning",),
        ("client_address", "failures", "ban_seconds"),
    ),
    "address.unbanned": LogEvent(
        "An operator lifted a ban, which would have lasted `ban_seconds` more; `admin.request` says who.",
        ("info",),
        ("client_address", "ban_seconds"),
    ),
    "connection.accepted": LogEvent(
        "A connection was accepted.",
        ("debug",),
        ("id", "peer", "listener"),
    ),
    "connection.tls": LogEvent(
        "The TLS handshake with a client is complete.",
        ("debug",),
        ("id", "tls", "cipher", "server_name", "client_certificate"),
    ),
    "request.routed": LogEvent(
        "A request was read. Which route it matches, and why the routes before that one do not: the eight nearest are "
        "named, the others counted.",
        ("debug",),
        ("id", "peer", "via", "method", "path", "host", "detail", "route", "skipped"),
    ),
    "request.admitted": LogEvent(
        "A request passed the checks of its route; the detail says what allowed its Origin.",
        ("debug",),
        ("id", "route", "origin", "subprotocol", "detail"),
    ),
    "request.authenticated": LogEvent(
        "A client was authenticated.",
        ("debug",),
        ("id", "route", "auth_method", "identity"),
    ),
    "connection.open": LogEvent(
        "The relay of a connection is established; info in `bridge` and `demo`, debug in `run`.",
        ("debug", "info"),
        (
            *(*_CONNECTION_KEYS, "route", "identity", "backend", "target", "backend_address", "subprotocol"),
            "connect_seconds",
        ),
    ),
    "connection.closed": LogEvent(
        "An established connection was closed; its summary.",
        ("info", "warning", "error"),
        (*_CONNECTION_KEYS, *_CLOSE_KEYS, "session", "close_code", "bytes_to_backend", "bytes_to_client", "engine"),
    ),
    "connection.rejected": LogEvent(
        "A connection ended before the relay was established: bad request, no route, backend down.",
        ("debug", "info", "warning", "error"),
        (*_CONNECTION_KEYS, *_CLOSE_KEYS, "close_code", "status"),
        _PER_CLIENT_RATE_LIMIT,
    ),
    "session.opened": LogEvent(
        "A client opened a resumable session, whose backend is connected.", ("debug",), ("id", "session", "route")
    ),
    "session.detached": LogEvent(
        "A session has lost its connection, and waits for its client.", ("debug",), ("id", "session", "route")
    ),
    "session.adopted": LogEvent(
        "A session of another process goes on in this one.", ("debug",), ("id", "session", "route")
    ),
    "session.lost": LogEvent(
        "A session of another process cannot go on in this one.", ("warning",), ("session", "detail")
    ),
    "sessions.handed_over": LogEvent(
        "The next process has `count` sessions; `lost` have ended, and `left` were not moved and stay until the drain.",
        ("info",),
        ("count", "lost", "left", "detail"),
    ),
    "sessions.not_stored": LogEvent(
        "Sessions could not be put into the descriptor store of systemd, and are lost.", ("error",), ("detail",)
    ),
    "sessions.not_removed": LogEvent(
        "Sessions that go on in this process could not be removed from the descriptor store of systemd.",
        ("warning",),
        ("detail",),
    ),
    "sessions.adopted": LogEvent(
        "`count` sessions of another process go on in this one, `ended` have ended by its configuration or a limit, "
        "and `lost` could not go on.",
        ("info",),
        ("count", "ended", "lost"),
    ),
    "session.resumed": LogEvent(
        "A session goes on over the connection `id`.", ("debug",), ("id", "session", "route", "replayed_bytes")
    ),
    "session.closed": LogEvent(
        "A resumable session ended, and its backend's connection with it; its summary. `id` is its latest connection.",
        ("info", "warning", "error"),
        (
            *_CONNECTION_KEYS,
            *_CLOSE_KEYS,
            "session",
            "close_code",
            "bytes_to_backend",
            "bytes_to_client",
            "transports",
            "replayed_bytes",
        ),
    ),
    "connection.empty": LogEvent(
        "The client closed the connection without sending anything, as health checks and browsers do.",
        ("debug",),
        _CONNECTION_KEYS,
    ),
    "http.request": LogEvent(
        (
            "A request was answered by a route with `files:`, `respond:` or `issue_tickets:`; debug if "
            "the status is below 400."
        ),
        ("debug", "info"),
        (*_CONNECTION_KEYS, "route", "method", "path", "status", "detail"),
        _PER_CLIENT_RATE_LIMIT,
    ),
    "backend.retry": LogEvent(
        "A backend is not available yet and is retried (`dial: {retry_for: …}`).",
        ("info",),
        ("id", "route", "backend", "reason", "detail"),
    ),
    "backend.dialed": LogEvent(
        "What was done to reach a backend, and how long it took: name lookup, attempts, TLS handshake, upgrade. "
        "Omitted where a local socket connected immediately.",
        ("debug",),
        ("id", "route", "backend", "steps"),
    ),
    "backend.lost": LogEvent(
        "The connection to a WebSocket backend with resumable sessions was lost; it is being replaced, and the client "
        "of the connection waits.",
        ("info",),
        ("id", "route", "backend", "session", "detail"),
    ),
    "backend.resumed": LogEvent(
        "The session goes on over another connection.",
        ("info",),
        ("id", "route", "backend", "session", "backend_address", "attempts", "outage_seconds", "replayed_bytes"),
    ),
    "file.reloaded": LogEvent(
        "A users file, token file, target token file, JWT key file or CA bundle changed and was reloaded.",
        ("info",),
        ("file",),
    ),
    "file.reload_failed": LogEvent(
        "Such a file changed and cannot be used; its last valid content stays in effect.",
        ("error",),
        ("file", "detail"),
    ),
    "certificate.reloaded": LogEvent(
        "A certificate, its private key or the CA bundle beside it changed; new connections use it.",
        ("info",),
        ("file", "expires"),
    ),
    "certificate.reload_failed": LogEvent(
        "A certificate or its key changed, and the two cannot be used: the last valid pair stays in effect.",
        ("error",),
        ("file", "detail"),
    ),
    "tls.openssl": LogEvent(
        "The native engine cannot do the TLS of a listener, or of a backend: OpenSSL does it.",
        ("info",),
        ("file", "server_name", "detail"),
    ),
    "certificate.expiring": LogEvent(
        "A certificate expires within 14 days (or a third of its lifetime), or has expired; logged once a day.",
        ("warning",),
        ("file", "expires", "detail"),
    ),
    "audit.failed": LogEvent(
        "The audit file was renamed or removed and cannot be reopened; writing continues to the old one.",
        ("error",),
        ("file", "error"),
    ),
    "audit.dropped": LogEvent(
        "Audit records were lost: the queue was full, or the file could not be written.",
        ("warning",),
        ("file", "count"),
    ),
    "jwks.refreshed": LogEvent(
        "The keys that verify tokens were fetched, and have changed or were not available before.",
        ("info",),
        ("url", "count"),
    ),
    "jwks.refresh_failed": LogEvent(
        "The keys that verify tokens cannot be fetched; the last ones stay valid for some time.",
        ("error",),
        ("url", "detail"),
    ),
    "log.dropped": LogEvent(
        "Records were lost: the queue was full, or the output failed.",
        ("warning",),
        ("count",),
    ),
    "log.suppressed": LogEvent(
        "Records of one event were suppressed by rate limiting.",
        ("warning",),
        ("suppressed_event", "count"),
    ),
    "internal_error": LogEvent(
        "An error in wsbridge itself; please report it.",
        ("error",),
        ("component", "id", "detail", "exception"),
    ),
}

LOG_KEYS: Final[dict[str, str]] = {
    "id": "connection number since the start of the process",
    "peer": "client address: as seen by the listener, or as reported by the proxies in `via`",
    "via": "addresses of the trusted proxies between the client and the listener, nearest last",
    "listener": "name of the listener in the configuration",
    "reason": "why it was closed, or why the backend could not be reached: a name of the table in docs/reasons.md",
    "initiator": "who caused it: client (the accepted side), backend (the dialled side) or wsbridge",
    "detail": "details in one sentence, with numbers",
    "route": "name of the route",
    "identity": "authenticated identity, on routes with authentication",
    "backend": "backend as configured",
    "path": "request target; secrets in the query are redacted",
    "setting": "path of the setting in the configuration, such as `routes.vnc.auth`",
    "target": "URL that the client chose, on routes with dynamic targets",
    "backend_address": "address of the backend that was dialled",
    "listen_address": "address of the listener; in `listener.error` as configured",
    "client_address": "address that is banned, or of a client of the admin API, without port",
    "subprotocol": "selected subprotocol",
    "session": "id of the resumable session; not secret",
    "transports": "connections that the session has had",
    "replayed_bytes": "payload bytes that were sent again",
    "host": "Host header of the request",
    "user_agent": "User-Agent header of the request",
    "tls": "version of TLS that the client uses, on listeners with TLS",
    "cipher": "TLS cipher suite",
    "server_name": "host name that a client, or a dial, asks for by TLS (SNI)",
    "client_certificate": "subject of the client's certificate, and the end of its validity",
    "origin": "Origin header of the request",
    "auth_method": "authentication method that succeeded",
    "skipped": "routes that do not match the request, each with what is different: its host, its path, or its kind",
    "steps": "steps to reach the backend in order, each with its result and its duration",
    "attempts": "attempts to connect again, the successful one among them",
    "outage_seconds": "how long a session had no connection",
    "ended": "sessions that have ended by the configuration or a limit of this process",
    "lost": "sessions that could not go on in the next process",
    "left": "sessions that cannot move to the next process, and have not ended",
    "connect_seconds": "how long it took to reach the backend, or to fail",
    "duration_seconds": "how long the connection or session lasted",
    "ban_seconds": "how long the ban lasts",
    "close_code": "WebSocket close code sent by a peer",
    "problem": "code of the error or warning, such as E012 or W003",
    "status": "HTTP status of the response",
    "bytes_to_backend": "payload bytes from the client to the backend",
    "bytes_to_client": "payload bytes from the backend to the client",
    "method": "request method",
    "version": "version of wsbridge",
    "pid": "process ID",
    "uid": "user ID of a client of the admin API",
    "successor": "process ID of the process that took over",
    "address": "admin socket",
    "engine": "relay engine: python or native; of a connection, native if that relayed any of it",
    "engine_threads": "threads of the native engine",
    "listeners": "all addresses on which connections are accepted",
    "generation": "number of the configuration in effect: 1 at the start, and one more with each reload",
    "routes": "number of routes",
    "connections": "number of open connections",
    "connections_limit": "maximum number of open connections",
    "memory_bytes": "memory in use, without file cache that the kernel drops as needed",
    "memory_limit_bytes": "the memory limit",
    "memory_limit": "what limits the memory: a file of the cgroup, or RLIMIT_AS",
    "lag_seconds": "how late the event loop was",
    "cpu_seconds": "processor time that the process used in that time",
    "signal": "signal that was received",
    "file": "file that the warning refers to, that was read, or that is written",
    "expires": "when the certificate expires, in UTC",
    "url": "URL that the keys are fetched from",
    "line": "line in the file",
    "column": "column in the file",
    "error": "error message of the system",
    "count": "number of records, connections, keys, listeners or sessions",
    "failures": "number of failed logins",
    "suppressed_event": "event whose records were suppressed",
    "component": "component of the program",
    "exception": "traceback",
}
