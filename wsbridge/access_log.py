"""The log line and the audit record of a connection, and the counters that go with them."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from typing import Literal

from wsbridge.context import ConnectionContext
from wsbridge.counters import Histogram, ListenerStats
from wsbridge.log.audit import AuditLog
from wsbridge.log.logger import log
from wsbridge.reasons import EMPTY_CONNECTION, REASONS, Reason, Termination

FAVICON = "/favicon.ico"
"""Every browser requests it; that the file is missing is logged at debug only."""

MAX_ENDINGS = 100
"""Endings that are kept for the admin API."""

Endings = deque[tuple[float, str, str, dict[str, object]]]
"""The last endings, as logged: seconds since 1970, event, host of the peer (as `Peer.host`), fields of the line."""

LOGGED_HEADERS = (b"host", b"origin", b"user-agent")
"""Headers of the request that lines and records quote."""

_OWN_CLASS = {code: str(code) for code in (1000, 1001, 1005)}
"""Close codes of ordinary endings (RFC 6455 section 7.4.1): each is a class of its own."""


class AccessLog:
    """Writes the log lines and audit records of one connection, and counts what they say.

    Args:
        context: The connection.
        http: Whether its listener rejects with HTTP responses.
        audit_log: The audit log; None if it is not configured.
        endings: Where the end of the connection is noted for the admin API; None for nowhere.
        redact_target: Returns the target of a request as it may be logged, without tokens.
        listener_stats: The counters of its listener; those of its route are in the context.

    Attributes:
        connect_seconds: Duration of the dial, successful or not; None if the backend was not dialed.
        rejected_target: Target of a request that was rejected while it was read.
    """

    __slots__ = (
        "_audit_log",
        "_context",
        "_dial_started",
        "_endings",
        "_http",
        "_listener_stats",
        "_redact_target",
        "connect_seconds",
        "rejected_target",
    )

    def __init__(
        self,
        context: ConnectionContext,
        *,
        http: bool = True,
        audit_log: AuditLog | None = None,
        redact_target: Callable[[str], str] = str,
        endings: Endings | None = None,
        listener_stats: ListenerStats | None = None,
    ) -> None:
        self._context = context
        self._endings = endings
        self._audit_log = audit_log
        self._http = http
        self._listener_stats = ListenerStats() if listener_stats is None else listener_stats
        self._redact_target = redact_target
        self._dial_started: float | None = None
        self.connect_seconds: float | None = None
        self.rejected_target = ""

    def log_established(self, open_level: Literal["debug", "info"] = "debug") -> None:
        """Log that the relay is established, at this level, and write an audit record."""
        if open_level == "info" or log.level == "debug":
            method = log.info if open_level == "info" else log.debug
            method("connection.open", **self._connection_fields(), **self._open_fields())
        if self._audit_log is not None:
            self._emit_audit("access.granted", {**self._connection_fields(), **self._request_fields()})

    def _open_fields(self) -> dict[str, object]:
        context = self._context
        facts = {
            "route": context.route,
            "backend": context.backend,
            "identity": context.identity.name,
            "target": context.target,
            "backend_address": context.backend_address,
            "subprotocol": context.subprotocol,
            "connect_seconds": self.connect_seconds,
        }
        return {key: value for key, value in facts.items() if value not in (None, "")}

    def facts(self) -> dict[str, object]:
        """Return the fields of a connection that has not ended, as its line would have them now."""
        facts = self._connection_fields()
        self._add_request(facts)
        if self.connect_seconds is not None:
            facts["connect_seconds"] = self.connect_seconds
        return facts

    @property
    def has_dialed(self) -> bool:
        """Whether the dial has begun."""
        return self._dial_started is not None

    def dial_started(self) -> None:
        """Start to measure the dial."""
        self._dial_started = time.monotonic()

    def dial_ended(self, address: str | None = None, seconds: float | None = None) -> None:
        """Note that the dial has ended.

        Args:
            address: What was reached; None if it failed.
            seconds: How long it took; None for since `dial_started`.
        """
        context = self._context
        if self._dial_started is not None and self.connect_seconds is None:
            if seconds is None:
                seconds = time.monotonic() - self._dial_started
            self.connect_seconds = round(seconds, 3)
            if address is not None and context.route_stats is not None:
                observe(context.route_stats.connect_times, seconds)
        context.backend_address = address or context.backend_address

    def audit_session_end(self, fields: dict[str, object]) -> None:
        """Write the audit record of the end of a session, of which this is the latest connection."""
        self._emit_audit("session.ended", fields)

    def _emit_audit(self, event: str, fields: dict[str, object]) -> None:
        """Write a record to the audit log, if it is configured, with the keys of its event."""
        context = self._context
        if self._audit_log is None:
            return
        more: dict[str, object] = {"auth_method": context.identity.method} if context.identity.method else {}
        if context.request is not None and b"origin" in context.request.headers:
            more["origin"] = context.request.headers.get(b"origin")
        self._audit_log.emit(event, fields | more)

    def log_request(self, termination: Termination) -> None:
        """Log a response of wsbridge itself; a successful one at debug, since there are many of them."""
        context = self._context
        if context.route_stats is not None and termination.status is not None:
            context.route_stats.responses[termination.status] += 1
        request = context.request
        fields = {
            **self._connection_fields(),
            "route": context.route or None,
            "method": None if request is None else request.method,
            "path": None if request is None else self._redact_target(request.target),
            "status": termination.status,
            **({"detail": termination.detail} if termination.detail else {}),
        }
        usual = termination.status is not None and (termination.status < 400 or fields["path"] == FAVICON)
        method = log.debug if usual else log.info
        method("http.request", **fields)
        if context.auth_required:
            self._emit_audit("access.served", {**fields, **self._request_fields()})

    def _connection_fields(self) -> dict[str, object]:
        """Return the fields of the connection and its client, with which all lines begin."""
        context = self._context
        facts: dict[str, object] = {"id": context.id, "peer": str(context.peer), "listener": context.listener}
        if context.peer.via:
            facts["via"] = list(context.peer.via)
        return facts

    def _request_fields(self) -> dict[str, object]:
        """Return the fields of the request, the identity and the backend, as far as they are known."""
        facts: dict[str, object] = {}
        self._add_request(facts)
        return facts

    def _add_request(self, facts: dict[str, object]) -> None:
        """Add the request, the identity and the backend, as far as they are known."""
        context = self._context
        request = context.request
        if context.route:
            facts["route"] = context.route
        if context.backend:
            facts["backend"] = context.backend
        if context.identity.name:
            facts["identity"] = context.identity.name
        if request is not None:
            facts["path"] = self._redact_target(request.target)
            if host := request.host:
                facts["host"] = host
            if agent := request.headers.get(b"user-agent"):
                facts["user_agent"] = agent.decode("ascii", "backslashreplace")
        elif self.rejected_target:
            facts["path"] = self._redact_target(self.rejected_target)
        if context.tls:
            facts["tls"] = context.tls
        self._add_backend(facts)

    def _add_backend(self, facts: dict[str, object]) -> None:
        context = self._context
        if context.target is not None:
            facts["target"] = context.target
        if context.backend_address is not None:
            facts["backend_address"] = context.backend_address
        if context.subprotocol is not None:
            facts["subprotocol"] = context.subprotocol
        if context.session:
            facts["session"] = context.session

    def log_closed(self, termination: Termination) -> None:
        """Log and count the end: `connection.closed`, or `connection.rejected` if not relayed; both are audited."""
        context = self._context
        if termination.reason is Reason.SERVED:
            self.log_request(termination)
            return
        if not context.relayed and termination.detail == EMPTY_CONNECTION:
            self._listener_stats.empty += 1
            log.debug("connection.empty", **self._connection_fields())
            return
        row = REASONS[termination.reason]
        level = row.level
        if termination.reason is Reason.NO_ROUTE and context.request is not None and context.request.path == FAVICON:
            level = "debug"
        facts = self._connection_fields()
        facts["reason"] = reason = termination.reason.value
        facts["initiator"] = termination.initiator
        if termination.detail:
            facts["detail"] = termination.detail
        self._add_request(facts)
        self.dial_ended()
        if self.connect_seconds is not None:
            facts["connect_seconds"] = self.connect_seconds
        seconds = time.monotonic() - context.started
        self._count_end(reason, termination, seconds)
        facts["duration_seconds"] = round(seconds, 3)
        if termination.close_code is not None:
            facts["close_code"] = termination.close_code
        if context.relayed:
            facts["bytes_to_backend"] = context.bytes_to_backend
            facts["bytes_to_client"] = context.bytes_to_client
            facts["engine"] = context.engine
            event = "connection.closed"
            log.emit(level, {**facts, "event": event})
            self._emit_audit("access.ended", facts)
        else:
            if termination.close_code is None and row.status is not None and self._http:
                facts["status"] = termination.http_status
            event = "connection.rejected"
            log.emit(level, {**facts, "event": event})
            self._emit_audit("access.denied", facts)
        if self._endings is not None:
            self._endings.append((time.time(), event, context.peer.host, facts))

    def _count_end(self, reason: str, termination: Termination, seconds: float) -> None:
        """Count a connection that was relayed or rejected, after so many seconds."""
        context, initiator = self._context, termination.initiator
        stats = context.route_stats
        if stats is None:
            self._listener_stats.rejections[reason, initiator] += 1
            return
        if context.relayed:
            stats.closed[reason, initiator] += 1
            observe(stats.durations, seconds)
        else:
            stats.rejections[context.listener, reason, initiator] += 1
        if termination.close_code is not None:
            stats.close_codes[initiator, close_code_class(termination.close_code)] += 1


def count_bytes(context: ConnectionContext, to_backend: int, to_client: int) -> None:
    """Add payload bytes of a connection to the counters of its route, as far as they are not in them yet.

    Args:
        context: The connection.
        to_backend: All that were relayed from the client so far.
        to_client: All that were relayed from the backend so far.
    """
    stats = context.route_stats
    if stats is not None:
        stats.bytes_to_backend += to_backend - context.counted_to_backend
        stats.bytes_to_client += to_client - context.counted_to_client
        context.counted_to_backend, context.counted_to_client = to_backend, to_client


def observe(histogram: Histogram, value: float) -> None:
    """Count a value."""
    histogram.counts[bisect_left(histogram.bounds, value)] += 1
    histogram.total += value


def close_code_class(code: int) -> str:
    """Return the class of a close code: an ordinary one itself, else its thousand, such as `4xxx`."""
    return _OWN_CLASS.get(code) or f"{code // 1000}xxx"
