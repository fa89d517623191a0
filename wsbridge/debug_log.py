"""Records at level debug of what was decided about one connection before its relay, and why.

Callers check `log.level == "debug"` first, so that nothing of it is done at another level.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import islice
from typing import Final

from wsbridge.admission import routing_key
from wsbridge.context import ConnectionContext
from wsbridge.generation import AdmittedRequest, Listener, Route
from wsbridge.log.logger import log
from wsbridge.net.tls_transport import EncryptedTransport
from wsbridge.protocol.http1 import Request

MAX_EXAMINED_ROUTES: Final = 1000
"""Routes that are compared with a request to say why they do not match, the first ones; it takes about 1 µs each."""
MAX_NAMED_ROUTES: Final = 8
"""Routes whose mismatch is named, the nearest ones; the others are counted."""
MAX_NAMED_HOSTS: Final = 3


def log_accepted(context: ConnectionContext) -> None:
    """Log that a connection was accepted."""
    log.debug("connection.accepted", id=context.id, peer=str(context.peer), listener=context.listener)


def log_client_tls(context: ConnectionContext, transport: EncryptedTransport) -> None:
    """Log the TLS handshake with a client."""
    facts = {"server_name": context.peer.sni, "client_certificate": transport.peer_subject()}
    log.debug(
        "connection.tls",
        id=context.id,
        tls=context.tls,
        cipher=transport.cipher(),
        **{key: value for key, value in facts.items() if value},
    )


def log_routing(context: ConnectionContext, listener: Listener, request: Request) -> None:
    """Log which route a request matches, and why those before it do not match."""
    host, path, websocket = routing_key(request)
    route = listener.routes.find(host, path, websocket=websocket)
    mismatches = describe_mismatches(listener, route, host, path, websocket=websocket)
    log.debug(
        "request.routed",
        id=context.id,
        peer=str(context.peer),
        **({"via": list(context.peer.via)} if context.peer.via else {}),
        method=request.method,
        path=listener.redact_target(request.target),
        host=request.host,
        detail="a WebSocket request" if websocket else "a request without Upgrade",
        **({} if route is None else {"route": route.name}),
        **({"skipped": mismatches} if mismatches else {}),
    )


@dataclass(frozen=True, slots=True)
class _Mismatch:
    """Why one route does not match a request; each None if that does match."""

    route: str
    host: str | None
    path: str | None
    kind: str | None

    @property
    def distance(self) -> int:
        """How far it is from matching: another path is nearer than another host."""
        return (4 if self.host else 0) + (2 if self.path else 0) + (1 if self.kind else 0)

    def __str__(self) -> str:
        return f"{self.route}: {', '.join(part for part in (self.host, self.path, self.kind) if part)}"


def describe_mismatches(
    listener: Listener, chosen: Route | None, host: str, path: str, *, websocket: bool
) -> list[str]:
    """Say why the routes before the chosen one do not match, the nearest of them first; the others are counted.

    Args:
        listener: Where the request came.
        chosen: The route that matches; None for none.
        host: Of the request, in normal form.
        path: Of the request, in normal form.
        websocket: Whether the request is for WebSocket.
    """
    found: list[_Mismatch] = []
    left = 0
    for position, route in enumerate(islice(listener.routes, MAX_EXAMINED_ROUTES)):
        if route is chosen:
            break
        found.append(_compare(route, host, path, websocket=websocket))
        left = len(listener.routes) - position - 1
    found.sort(key=lambda mismatch: mismatch.distance)
    texts = [str(mismatch) for mismatch in found[:MAX_NAMED_ROUTES]]
    others = Counter("host" if each.host else "path" if each.path else "kind" for each in found[MAX_NAMED_ROUTES:])
    if others:
        counts = ", ".join(f"{count} by {what}" for what, count in sorted(others.items()))
        texts.append(f"{others.total()} more ({counts})")
    if len(found) == MAX_EXAMINED_ROUTES and left:
        texts.append(f"the {left} routes after the first {MAX_EXAMINED_ROUTES} are not listed")
    return texts


def _compare(route: Route, host: str, path: str, *, websocket: bool) -> _Mismatch:
    other_host = other_path = other_kind = None
    if route.hosts is not None and not route.hosts.matches(host):
        hosts = route.hosts.texts
        other_host = f"host {', '.join(hosts[:MAX_NAMED_HOSTS])}" + (", …" if len(hosts) > MAX_NAMED_HOSTS else "")
    if route.path is not None and not route.path.matches(path) and not (route.redirects_root and path == "/"):
        other_path = f"path {route.path.text}"
    if websocket != (route.backend is not None):
        other_kind = "no WebSocket" if websocket else "only WebSocket"
    return _Mismatch(route.name, other_host, other_path, other_kind)


def log_admitted(context: ConnectionContext, admitted: AdmittedRequest) -> None:
    """Log that a request passed the checks of its route, and what allowed its Origin."""
    upgrade = admitted.upgrade
    facts: dict[str, object] = {}
    if upgrade is not None:
        facts["origin"] = upgrade.origin
        facts["detail"] = admitted.route.origin_policy.describe(upgrade.origin)
        facts["subprotocol"] = admitted.subprotocol
    known = {key: value for key, value in facts.items() if value is not None}
    log.debug("request.admitted", id=context.id, route=admitted.route.name, **known)


def log_authenticated(context: ConnectionContext) -> None:
    """Log who a client is, and by which method."""
    identity = context.identity
    facts = {"auth_method": identity.method, "identity": identity.name}
    log.debug(
        "request.authenticated",
        id=context.id,
        route=context.route,
        **{key: value for key, value in facts.items() if value},
    )
