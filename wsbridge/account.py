"""Account: what is known of one connection, its one line in the log, and what it leaves in the audit.

Lives here: the facts gathered on the way and the names under which they are told. Must not live here: how a line is
written (`log`, `audit`), counters (`ledger`).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

from wsbridge.audit import Trail
from wsbridge.auth.identity import ANONYMOUS
from wsbridge.backends.client import Client
from wsbridge.generation import Route
from wsbridge.log import log
from wsbridge.net.address import Peer, local_place
from wsbridge.net.wire import Wire
from wsbridge.protocol.head import Request
from wsbridge.reasons import ENDINGS, End, Reason
from wsbridge.speaks.websocket import SILENT

UNKNOWN = Peer("", 0, 0)
"""The peer of a socket whose other end had gone before it could be asked for."""


class Account:
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
        tls: Whether the client speaks TLS.
        answering: Whether an answer has been begun, so that no other can be given.
    """

    __slots__ = (
        "_began",
        "_http",
        "_relayed",
        "_shown",
        "_to_back",
        "_to_front",
        "_trail",
        "address",
        "answering",
        "id",
        "identity",
        "listener",
        "peer",
        "request",
        "route",
        "subprotocol",
        "target",
        "tls",
    )

    def __init__(
        self,
        number: int,
        listener: str,
        *,
        http: bool = True,
        trail: Trail | None = None,
        shown: Callable[[str], str] = str,
    ) -> None:
        self.id = number
        self._trail = trail
        self._http = http
        self._shown = shown
        self.tls = False
        self.listener = listener
        self.peer = UNKNOWN
        self.request: Request | None = None
        self.route: Route | None = None
        self.target: str | None = None
        self.address: str | None = None
        self.subprotocol: str | None = None
        self.identity = ANONYMOUS
        self.answering = False
        self._began = time.monotonic()
        self._relayed = False
        self._to_back = self._to_front = 0

    def admitted(self) -> None:
        """Tell the audit that both sides are there."""
        if self._trail is not None:
            self._audit("admitted", {**self._front(), **self._known()})

    def _audit(self, event: str, facts: dict[str, object]) -> None:
        """Tell the audit, if there is one; it takes what its table has for the event."""
        if self._trail is None:
            return
        more: dict[str, object] = {"proof": self.identity.method} if self.identity.method else {}
        if self.request is not None and b"origin" in self.request.headers:
            more["origin"] = self.request.headers.get(b"origin")
        self._trail.tell(event, facts | more)

    def client(self, wire: Wire) -> Client:
        """Give what a backend may be told of the client."""
        local = self.peer.asked
        if local is None:
            with contextlib.suppress(OSError):  # it may have gone meanwhile
                local = local_place(wire.fd)
        route = "" if self.route is None else self.route.name
        return Client(self.id, self.peer, local, self.identity, self.request, self.listener, route, self.tls)

    def carried(self, to_back: int, to_front: int) -> None:
        """Note the payload bytes of the relay, each way."""
        self._relayed = True
        self._to_back, self._to_front = to_back, to_front

    def served(self, end: End) -> None:
        """Log an answer after which the connection stays open; one that went well only at debug, for there are many."""
        request = self.request
        told = {
            **self._front(),
            "route": None if self.route is None else self.route.name,
            "method": None if request is None else request.method,
            "path": None if request is None else self._shown(request.target),
            "status": end.status,
            **({"detail": end.detail} if end.detail else {}),
        }
        tell = log.debug if end.status is not None and end.status < 400 else log.info
        tell("request.served", **told)
        if self.route is not None and self.route.auth is not None:
            self._audit("served", {**told, **self._known()})
        self.request = self.route = None  # of the next request nothing is known yet
        self.identity = ANONYMOUS

    def _front(self) -> dict[str, object]:
        """Who it is, as all lines begin."""
        facts: dict[str, object] = {"id": self.id, "peer": str(self.peer), "listener": self.listener}
        if self.peer.via:
            facts["via"] = list(self.peer.via)
        return facts

    def _known(self) -> dict[str, object]:
        """What it asked for, who asked, and where it went, as far as it came."""
        facts: dict[str, object] = {}
        if self.route is not None:
            facts["route"] = self.route.name
            if self.route.backend is not None:
                facts["backend"] = self.route.backend.name
        if self.identity.name:
            facts["identity"] = self.identity.name
        if self.request is not None:
            facts["path"] = self._shown(self.request.target)
        if self.target is not None:
            facts["target"] = self.target
        if self.address is not None:
            facts["address"] = self.address
        if self.subprotocol is not None:
            facts["subprotocol"] = self.subprotocol
        return facts

    def close(self, end: End) -> None:
        """Tell of the end: `connection.end`, or `connection.refused` if it was not relayed; and the audit alike."""
        if end.reason is Reason.SERVED:
            self.served(end)
            return
        if not self._relayed and end.detail == SILENT:
            log.debug("connection.silent", **self._front())
            return
        row = ENDINGS[end.reason]
        facts: dict[str, object] = {**self._front(), "reason": end.reason.value, "blame": end.blame}
        if end.detail:
            facts["detail"] = end.detail
        facts.update(self._known())
        facts["seconds"] = round(time.monotonic() - self._began, 3)
        if end.code is not None:
            facts["code"] = end.code
        if self._relayed:
            facts["to_back"] = self._to_back
            facts["to_front"] = self._to_front
            getattr(log, row.level)("connection.end", **facts)
            self._audit("ended", facts)
        else:
            if end.code is None and row.status is not None and self._http:
                facts["status"] = end.http_status
            getattr(log, row.level)("connection.refused", **facts)
            self._audit("refused", facts)
