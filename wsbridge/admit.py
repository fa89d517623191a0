"""Admission: which route a request is for, and whether it may use it.

Lives here: the order of the checks. Must not live here: any one check (`protocol.handshake`, `protocol.origin`,
`auth`), or what a refusal looks like on the wire (`speaks`).
"""

from __future__ import annotations

from dataclasses import dataclass

from wsbridge.generation import Listener, Route
from wsbridge.protocol.handshake import (
    CARRIER,
    REFUSE,
    Upgrade,
    read_upgrade,
    select_subprotocol,
    upgrade_required,
    wants_upgrade,
)
from wsbridge.protocol.head import BadHead, Request, method_refused, shown
from wsbridge.protocol.target import loopback_host_allowed, normal_host
from wsbridge.reasons import End, Reason
from wsbridge.routes.answer import SAFE_METHODS


@dataclass(slots=True)
class Admitted:
    """A request that may go on.

    Attributes:
        route: Where to.
        upgrade: The valid request for a WebSocket; None where the route answers by itself.
        subprotocol: What of the client's offer the route takes first.
        fitting: All of the client's offer that the route takes, in the route's order.
    """

    route: Route
    upgrade: Upgrade | None = None
    subprotocol: str | None = None
    fitting: tuple[str, ...] = ()


def refused(bad: BadHead) -> End:
    """Make an ending of what is wrong with a head."""
    reason = {403: Reason.ORIGIN, 431: Reason.TOO_BIG}.get(bad.status, Reason.BAD_REQUEST)
    return End(reason, "front", bad.text, status=bad.status, headers=bad.headers)


def admit(listener: Listener, request: Request) -> Admitted | End:
    """Find the route of a request and judge the request by it.

    The order: route (404, 405, 426), Host against DNS rebinding (403), WebSocket handshake (400, 405, 426) or method
    (405), Origin (403), subprotocol (400).
    """
    host_header = request.host()
    host = normal_host(host_header) or ""
    path = request.path
    upgrade_wanted = wants_upgrade(request)
    route = other = None
    for candidate in listener.routes:
        if candidate.matches(host, path):
            if (candidate.backend is not None) == upgrade_wanted:
                route = candidate
                break
            other = other or candidate
    if route is None:
        if other is not None and not upgrade_wanted:
            post = request.method not in SAFE_METHODS
            return refused(method_refused(request.method, ("GET",)) if post else upgrade_required())
        where = f"{shown(listener.shown(path))} on host {shown(host)}"
        only = f"; route {other.name} matches, but takes no WebSocket" if other is not None else ""
        return End(Reason.NO_ROUTE, "front", f"no route of listener {listener.name} for {where}{only}")
    if listener.loopback and not listener.unix and not loopback_host_allowed(host_header, tuple(route.hosts or ())):
        return End(
            Reason.FORBIDDEN,
            "front",
            f"Host {shown(host_header)} on a loopback listener: name it in the route's match.host to allow it",
        )
    if not upgrade_wanted:
        return _answered(route, request, listener.tls is not None)
    upgrade = read_upgrade(request)
    if isinstance(upgrade, BadHead):
        return refused(upgrade)
    refusal = route.origins.allows(upgrade.origin, upgrade.host, listener.tls is not None)
    if refusal is not None:
        return End(Reason.ORIGIN, "front", refusal)
    subprotocol = None
    if upgrade.protocols:
        chosen = select_subprotocol(route.subprotocols, upgrade.protocols)
        if chosen is REFUSE:
            return End(Reason.BAD_REQUEST, "front", _none_fits(upgrade.protocols, route.subprotocols))
        subprotocol = chosen
    fitting = tuple(name for name in route.subprotocols if name in upgrade.protocols)
    return Admitted(route, upgrade, subprotocol, fitting)


def _answered(route: Route, request: Request, tls: bool) -> Admitted | End:
    """Judge a request that the route answers itself: its method and, if that does something, the page it comes from."""
    assert route.responder is not None  # noqa: S101 (a route has a backend or a responder)
    if request.method not in route.responder.methods:
        return refused(method_refused(request.method, route.responder.methods))
    if request.method not in SAFE_METHODS:
        origins = request.headers.get_all(b"origin")
        if len(origins) > 1:
            return End(Reason.ORIGIN, "front", f"the request has {len(origins)} Origin headers")
        refusal = route.origins.allows(origins[0].decode("ascii") if origins else None, request.host(), tls)
        if refusal is not None:
            return End(Reason.ORIGIN, "front", refusal)
    return Admitted(route)


def _none_fits(offered: tuple[str, ...], configured: tuple[str, ...]) -> str:
    """Say why no subprotocol can be answered; never what was offered, since secrets travel there."""
    known = ", ".join(configured) or "it has none"
    if all(name.startswith(CARRIER) for name in offered):
        return f"only a token was offered as a subprotocol: offer one of the route's ({known}) beside it to be answered"
    return f"none of the {len(offered)} subprotocols offered is one of the route's ({known})"
