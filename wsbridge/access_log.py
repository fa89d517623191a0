"""The one line and the audit record of a connection."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Literal

from wsbridge.auth.identity import ANONYMOUS
from wsbridge.context import ClientInfo
from wsbridge.generation import Route
from wsbridge.log.audit import AuditLog
from wsbridge.log.logger import log
from wsbridge.net.address import Peer, local_endpoint
from wsbridge.net.transport import Transport
from wsbridge.protocol.http1 import Request
from wsbridge.reasons import EMPTY_CONNECTION, REASONS, Reason, Termination

UNKNOWN_PEER = Peer("", 0, 0)
"""The peer of a socket whose other end had gone before it could be asked for."""


FAVICON = "/favicon.ico"
"""Every browser asks for it; where there is none, that is worth no line of its own."""


class AccessLog:
    """One connection's facts.

    Args:
        number: Its number since the process started.
        listener: Name of the listener that accepted it.
        http: Whether a refusal there is an HTTP answer.
        trail: The audit, if there is one.
        shown: Gives the target of a request as it may be told, without tokens.

    Attributes:
        identity: Who the client turned out to be.
        target: What the client chose, as a URL.
        tls: Version of TLS that the client speaks; empty without TLS.
        connect_seconds: How long it took to reach the backend, or to fail; None if it was not dialed.
        response_started: Whether an answer has been begun, so that no other can be given.
    """

    __slots__ = (
        "_audit_log",
        "_bytes_to_backend",
        "_bytes_to_client",
        "_dial_started",
        "_http",
        "_redact_target",
        "_relayed",
        "_started",
        "backend_address",
        "connect_seconds",
        "id",
        "identity",
        "listener",
        "peer",
        "rejected_target",
        "request",
        "response_started",
        "route",
        "subprotocol",
        "target",
        "tls",
    )

    def __init__(
        self,
        connection_id: int,
        listener: str,
        *,
        http: bool = True,
        audit_log: AuditLog | None = None,
        redact_target: Callable[[str], str] = str,
    ) -> None:
        self.id = connection_id
        self._audit_log = audit_log
        self._http = http
        self._redact_target = redact_target
        self.tls = ""
        self.connect_seconds: float | None = None
        self._dial_started: float | None = None
        self.listener = listener
        self.peer = UNKNOWN_PEER
        self.request: Request | None = None
        self.rejected_target = ""
        self.route: Route | None = None
        self.target: str | None = None
        self.backend_address: str | None = None
        self.subprotocol: str | None = None
        self.identity = ANONYMOUS
        self.response_started = False
        self._started = time.monotonic()
        self._relayed = False
        self._bytes_to_backend = self._bytes_to_client = 0

    def log_admitted(self, open_level: Literal["debug", "info"] = "debug") -> None:
        """Log that the relay is established, at this level, and write it to the audit log."""
        if open_level == "info" or log.level == "debug":
            method = log.info if open_level == "info" else log.debug
            method("connection.open", **self._connection_fields(), **self._open_fields())
        if self._audit_log is not None:
            self._emit_audit("access.granted", {**self._connection_fields(), **self._request_fields()})

    def _open_fields(self) -> dict[str, object]:
        facts = self._request_fields()
        return {key: facts[key] for key in ("route", "identity", "backend", "target") if key in facts}

    def dial_started(self) -> None:
        """Note the time."""
        self._dial_started = time.monotonic()

    def dial_ended(self, address: str | None = None) -> None:
        """Note how long it took, and the address that was reached, if one was."""
        if self._dial_started is not None and self.connect_seconds is None:
            self.connect_seconds = round(time.monotonic() - self._dial_started, 3)
        self.backend_address = address or self.backend_address

    def _emit_audit(self, event: str, fields: dict[str, object]) -> None:
        """Tell the audit, if there is one; it takes what its table has for the event."""
        if self._audit_log is None:
            return
        more: dict[str, object] = {"auth_method": self.identity.method} if self.identity.method else {}
        if self.request is not None and b"origin" in self.request.headers:
            more["origin"] = self.request.headers.get(b"origin")
        self._audit_log.emit(event, fields | more)

    def client_info(self, transport: Transport) -> ClientInfo:
        """Give what a backend may be told of the client."""
        local = self.peer.destination
        if local is None:
            with contextlib.suppress(OSError):  # it may have gone meanwhile
                local = local_endpoint(transport.fd)
        route = "" if self.route is None else self.route.name
        return ClientInfo(self.id, self.peer, local, self.identity, self.request, self.listener, route, bool(self.tls))

    def set_bytes(self, to_backend: int, to_client: int) -> None:
        """Note the payload bytes of the relay, each way."""
        self._relayed = True
        self._bytes_to_backend, self._bytes_to_client = to_backend, to_client

    def log_request(self, termination: Termination) -> None:
        """Log an answer after which the connection stays open; one that went well only at debug, for there are many."""
        request = self.request
        told = {
            **self._connection_fields(),
            "route": None if self.route is None else self.route.name,
            "method": None if request is None else request.method,
            "path": None if request is None else self._redact_target(request.target),
            "status": termination.status,
            **({"detail": termination.detail} if termination.detail else {}),
        }
        usual = termination.status is not None and (termination.status < 400 or told["path"] == FAVICON)
        tell = log.debug if usual else log.info
        tell("http.request", **told)
        if self.route is not None and self.route.auth is not None:
            self._emit_audit("access.served", {**told, **self._request_fields()})
        self.request = self.route = None  # of the next request nothing is known yet
        self.identity = ANONYMOUS

    def _connection_fields(self) -> dict[str, object]:
        """Who it is, as all lines begin."""
        facts: dict[str, object] = {"id": self.id, "peer": str(self.peer), "listener": self.listener}
        if self.peer.via:
            facts["via"] = list(self.peer.via)
        return facts

    def _request_fields(self) -> dict[str, object]:
        """What it asked for, who asked, and where it went, as far as it came."""
        facts: dict[str, object] = {}
        if self.route is not None:
            facts["route"] = self.route.name
            if self.route.backend is not None:
                facts["backend"] = self.route.backend.name
        if self.identity.name:
            facts["identity"] = self.identity.name
        if self.request is not None:
            facts["path"] = self._redact_target(self.request.target)
        elif self.rejected_target:
            facts["path"] = self._redact_target(self.rejected_target)
        if self.request is not None:
            if host := self.request.host():
                facts["host"] = host
            if agent := self.request.headers.get(b"user-agent"):
                facts["user_agent"] = agent.decode("ascii", "backslashreplace")
        if self.tls:
            facts["tls"] = self.tls
        if self.target is not None:
            facts["target"] = self.target
        if self.backend_address is not None:
            facts["backend_address"] = self.backend_address
        if self.subprotocol is not None:
            facts["subprotocol"] = self.subprotocol
        return facts

    def log_closed(self, termination: Termination) -> None:
        """Tell of the end: `connection.closed`, or `connection.rejected` if it was not relayed; and the audit alike."""
        if termination.reason is Reason.SERVED:
            self.log_request(termination)
            return
        if not self._relayed and termination.detail == EMPTY_CONNECTION:
            log.debug("connection.empty", **self._connection_fields())
            return
        row = REASONS[termination.reason]
        level = row.level
        if termination.reason is Reason.NO_ROUTE and self.request is not None and self.request.path == FAVICON:
            level = "debug"
        facts: dict[str, object] = {
            **self._connection_fields(),
            "reason": termination.reason.value,
            "initiator": termination.initiator,
        }
        if termination.detail:
            facts["detail"] = termination.detail
        facts.update(self._request_fields())
        self.dial_ended()
        if self.connect_seconds is not None:
            facts["connect_seconds"] = self.connect_seconds
        facts["duration_seconds"] = round(time.monotonic() - self._started, 3)
        if termination.close_code is not None:
            facts["close_code"] = termination.close_code
        if self._relayed:
            facts["bytes_to_backend"] = self._bytes_to_backend
            facts["bytes_to_client"] = self._bytes_to_client
            getattr(log, level)("connection.closed", **facts)
            self._emit_audit("access.ended", facts)
        else:
            if termination.close_code is None and row.status is not None and self._http:
                facts["status"] = termination.http_status
            getattr(log, level)("connection.rejected", **facts)
            self._emit_audit("access.denied", facts)
