"""Which requests are admitted: route, Host, Origin, method, subprotocol, authentication, limits of the route."""

from __future__ import annotations

import time
from collections.abc import Hashable
from dataclasses import replace
from types import TracebackType
from typing import Self

import trio

from wsbridge.auth.base import Authenticator
from wsbridge.auth.identity import Identity
from wsbridge.config.limits import RouteLimits
from wsbridge.context import ConnectionContext
from wsbridge.generation import AdmittedRequest, Listener, Route
from wsbridge.limits.clients import ConnectionCounts
from wsbridge.limits.rate import SharedBucket, SharedBucketTable
from wsbridge.protocol.forwarded import NO_PUBLIC_NAME, PublicName
from wsbridge.protocol.handshake import (
    UPGRADE_DROPPED,
    UpgradeRequest,
    acceptable_subprotocols,
    has_lost_upgrade,
    is_upgrade_request,
    parse_upgrade,
    upgrade_refused_to_http10,
    upgrade_required,
)
from wsbridge.protocol.http1 import Request, method_not_allowed, quoted
from wsbridge.protocol.resume_frames import RESUME_SUBPROTOCOL
from wsbridge.protocol.uri import is_safe_from_rebinding, normalise_host
from wsbridge.reasons import Reason, Rejected
from wsbridge.relay.relay import RelayOptions
from wsbridge.responders.base import SAFE_METHODS


def find_route(listener: Listener, request: Request) -> Route:
    """Return the first route that matches a request and is for WebSocket, or for other requests, as this one is.

    Where none is, the first that matches at all is returned, for `admit` to say why it does not fit.

    Raises:
        Rejected: No route matches (404).
    """
    if request.wants_websocket and listener.routes.for_every_websocket is not None:
        return listener.routes.for_every_websocket
    host, path, for_websocket = routing_key(request)
    route = listener.routes.find(host, path, websocket=for_websocket)
    if route is None:
        raise _no_route(listener, request)
    return route


def routing_key(request: Request) -> tuple[str, str, bool]:
    """Return what routes are found by: host and path in normal form, and whether the request is for WebSocket."""
    for_websocket = is_upgrade_request(request) or has_lost_upgrade(request)
    return normalise_host(request.host) or "", request.path, for_websocket


def _no_route(listener: Listener, request: Request, more: str = "") -> Rejected:
    host = quoted(normalise_host(request.host) or "")
    where = f"{quoted(listener.redact_target(request.path))} on host {host}"
    return Rejected(Reason.NO_ROUTE, f"no route of listener {listener.name} for {where}{more}")


def admit(
    listener: Listener,
    route: Route,
    request: Request,
    *,
    by_proxy: bool = False,
    public: PublicName = NO_PUBLIC_NAME,
) -> AdmittedRequest:
    """Check a request against its route.

    The order: WebSocket or not (404, 405, 426), Host against DNS rebinding (403), WebSocket handshake (400, 405, 426)
    or method (405), Origin (403), subprotocol (400).

    Args:
        listener: Where the request came.
        route: Its route; see `find_route`.
        request: The request.
        by_proxy: Whether a trusted proxy sent it, which answers for the Host.
        public: Host and scheme of the client's own request, where that proxy reports them. Only `allowed_origins: same`
            compares with them; routes match the Host that was sent to this listener.

    Raises:
        Rejected: It may not go on.
    """
    upgrade_wanted = is_upgrade_request(request)
    if upgrade_wanted and request.version == "1.0":
        raise upgrade_refused_to_http10()
    if upgrade_wanted and route.backend is None:
        raise _no_route(listener, request, f"; route {route.name} matches, but accepts no WebSocket")
    if route.backend is not None and not upgrade_wanted:
        raise _upgrade_missing(request)
    if route.needs_safe_host and not by_proxy:
        _check_rebinding(listener, route, request)
    tls = listener.tls is not None if public.https is None else public.https
    if not upgrade_wanted:
        return _admit_http_request(route, request, public, tls)
    upgrade = parse_upgrade(request)
    refusal = route.origin_policy.check(upgrade.origin, public.host or upgrade.host, tls)
    if refusal is not None:
        raise Rejected(Reason.ORIGIN_NOT_ALLOWED, refusal)
    if route.requires_origin and upgrade.origin is None:
        raise _origin_missing()
    if route.session_terms is not None and RESUME_SUBPROTOCOL in upgrade.subprotocols:
        return _admit_session(route, upgrade)
    acceptable = acceptable_subprotocols(route.subprotocols, upgrade.subprotocols)
    return AdmittedRequest(route, upgrade, acceptable[0] if acceptable else None, acceptable)


def _admit_session(route: Route, upgrade: UpgradeRequest) -> AdmittedRequest:
    """Admit a client that offers resumable sessions; what else it offers is for a WebSocket backend."""
    others = [name for name in upgrade.subprotocols if name != RESUME_SUBPROTOCOL]
    known = route.subprotocols
    acceptable = acceptable_subprotocols(known, others) if known is None else tuple(x for x in known if x in others)
    return AdmittedRequest(route, upgrade, RESUME_SUBPROTOCOL, acceptable, resumable=True)


def _upgrade_missing(request: Request) -> Rejected:
    """Return the rejection of a request without Upgrade by a route that is for WebSocket."""
    if request.method not in SAFE_METHODS:
        return method_not_allowed(request.method, ("GET",))
    if has_lost_upgrade(request):
        return upgrade_required(UPGRADE_DROPPED)
    return upgrade_refused_to_http10() if request.version == "1.0" else upgrade_required()


def _check_rebinding(listener: Listener, route: Route, request: Request) -> None:
    """Reject a Host that DNS rebinding could have put in front of a listener without TLS."""
    if listener.tls is not None or listener.is_unix or not request.host:
        return
    host = normalise_host(request.host) or ""
    if not is_safe_from_rebinding(host, listener.host_names):
        raise Rejected(
            Reason.HOST_NOT_ALLOWED,
            f"Host {quoted(host)} is not allowed without TLS (DNS rebinding): add it to host_names of the listener "
            f"{listener.name} or to match.host of the route {route.name} (bridge, demo: --host-name)",
        )


def _admit_http_request(route: Route, request: Request, public: PublicName, tls: bool) -> AdmittedRequest:
    """Check a request that the route answers itself: its method and, if that does something, its Origin."""
    assert route.responder is not None  # noqa: S101 (a route has a backend or a responder)
    if request.method not in route.responder.methods:
        raise method_not_allowed(request.method, route.responder.methods)
    if request.method not in (*SAFE_METHODS, "OPTIONS") or route.rejects_cross_site:
        origins = request.headers.get_all(b"origin")
        if len(origins) > 1:
            raise Rejected(Reason.ORIGIN_NOT_ALLOWED, f"the request has {len(origins)} Origin headers")
        origin = origins[0].decode("ascii") if origins else None
        refusal = route.origin_policy.check(origin, public.host or request.host, tls)
        if refusal is not None:
            raise Rejected(Reason.ORIGIN_NOT_ALLOWED, refusal)
        if not origins and not route.origin_policy.allows_any:
            _check_fetch_site(route, request)
    return AdmittedRequest(route)


def _check_fetch_site(route: Route, request: Request) -> None:
    """Reject what a page of another site made a browser request, such as an image with a ticket in its URL.

    It is rejected before its credentials are checked, so that no page can have its visitors banned. Links and other
    top-level navigation pass (https://www.w3.org/TR/fetch-metadata/), and frames of pages that may frame the route.
    """
    site = request.headers.get(b"sec-fetch-site") or b"none"
    if site not in (b"cross-site", b"same-site"):
        return
    destination = request.headers.get(b"sec-fetch-dest")
    if request.headers.get(b"sec-fetch-mode") == b"navigate" and (
        destination == b"document" or (destination == b"iframe" and _is_framed_by_ancestor(route, request))
    ):
        return
    raise Rejected(
        Reason.ORIGIN_NOT_ALLOWED,
        f"a page of another site requested this (Sec-Fetch-Site: {site.decode()}), and the route reads "
        "credentials from the query or a cookie",
    )


def _is_framed_by_ancestor(route: Route, request: Request) -> bool:
    """Whether Referer names an origin of `frame_ancestors`: a page can omit it, but not name another origin."""
    values = request.headers.get_all(b"referer")
    if route.frame_ancestors is None or len(values) != 1:
        return False
    origin = "/".join(values[0].decode("latin-1").split("/", 3)[:3])
    return route.frame_ancestors.check(origin, request.host, tls=False) is None


async def authenticate(auth: Authenticator, context: ConnectionContext) -> Identity:
    """Return who a client is.

    Args:
        auth: The route's authentication method.
        context: The client and its request.

    Raises:
        Rejected: It is not allowed in; whatever was wrong, the client learns the same.
    """
    identity = await auth.identify(context)
    if identity.by_cookie and not _is_csrf_safe(context.request):
        raise _origin_missing()
    return identity


def _origin_missing() -> Rejected:
    """Return the rejection of a cookie that a browser may have sent for any page."""
    return Rejected(
        Reason.ORIGIN_NOT_ALLOWED, "the request has no Origin: cookies are only accepted from an allowed origin"
    )


def _is_csrf_safe(request: Request | None) -> bool:
    """Whether a request names the page that it comes from; that this page may connect was checked before.

    A plain GET or HEAD does nothing that another page could want, and that page cannot read the response.
    """
    if request is None:
        return False
    if request.method in ("GET", "HEAD") and not request.headers.has_token(b"upgrade", b"websocket"):
        return True
    return b"origin" in request.headers


def relay_options(route: Route, identity: Identity) -> RelayOptions:
    """Return the options of a client's relay: the route's, until its identity expires."""
    if identity.expires is None:
        return route.relay_options
    return replace(route.relay_options, auth_expires=identity_deadline(identity))


def identity_deadline(identity: Identity) -> float | None:
    """Return when an identity expires, by the loop's clock: later steps of the wall clock do not move it."""
    if identity.expires is None:
        return None
    return trio.current_time() + identity.expires - time.time()


class RouteSlot:
    """What a connection holds until the end of the `with` block that it is used in.

    Attributes:
        shared_bucket: Bytes a second that it has in common with others of its identity.
        token_name: Name of the token that it is counted under; None for none.
    """

    __slots__ = ("_bandwidth_key", "_counts", "_keys", "_shared_buckets", "shared_bucket", "token_name")

    def __init__(self, counts: ConnectionCounts, shared_buckets: SharedBucketTable) -> None:
        self._counts = counts
        self._shared_buckets = shared_buckets
        self._keys: list[Hashable] = []
        self._bandwidth_key: Hashable = None
        self.shared_bucket: SharedBucket | None = None
        self.token_name: str | None = None

    def acquire_connection(self, key: Hashable, limit: int) -> bool:
        """Count one more connection under a key; False: there are as many as the limit."""
        if not self._counts.acquire(key, limit):
            return False
        self._keys.append(key)
        return True

    def acquire_bandwidth(self, key: Hashable, rate: int) -> None:
        """Share a bandwidth of so many bytes a second with the other connections of the key."""
        self._bandwidth_key = key
        self.shared_bucket = self._shared_buckets.acquire(key, rate)

    def release(self) -> None:
        """Release all that is held."""
        while self._keys:
            self._counts.release(self._keys.pop())
        if self.shared_bucket is not None:
            self.shared_bucket = None
            self._shared_buckets.release(self._bandwidth_key)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


UNLIMITED = RouteSlot(ConnectionCounts(), SharedBucketTable())
"""That of connections to routes without limits: it holds nothing, so one is enough for all."""


def limited_token_name(route: Route, request: Request | None, identity: Identity) -> str | None:
    """Return the name of the bearer token of a client, or else the token that chooses its target, if there is one."""
    if identity.token_name is not None:
        return identity.token_name
    policy = route.target_policy
    return None if policy is None or policy.is_fixed else policy.target_token(request, identity)


def acquire_route_slot(
    route: Route,
    identity: Identity,
    token_name: str | None,
    counts: ConnectionCounts,
    shared_buckets: SharedBucketTable,
) -> RouteSlot:
    """Acquire what a connection needs of the limits of its route.

    Args:
        route: Where it goes.
        identity: Who the client is.
        token_name: Name of the token that authenticated the client or chose its target; None if none did.
        counts: Of the process.
        shared_buckets: Of the process.

    Returns:
        What it holds now.

    Raises:
        Rejected: A limit is reached.
    """
    limits = route.limits
    if limits is None:
        return UNLIMITED
    slot = RouteSlot(counts, shared_buckets)
    slot.token_name = token_name
    for setting, key, most, whose in _applicable_limits(limits, route.name, identity.name, token_name):
        if not slot.acquire_connection(key, most):
            slot.release()
            raise Rejected(Reason.RATE_LIMITED, f"{most} connections {whose}, and the route's {setting} is {most}")
    if limits.identity_bytes_per_second is not None and identity.name:
        rate = limits.identity_bytes_per_second  # a part of the key, so that a reload changes it for new connections
        slot.acquire_bandwidth((route.name, identity.name, rate), rate)
    return slot


def _applicable_limits(
    limits: RouteLimits, route: str, identity: str, token_name: str | None
) -> list[tuple[str, tuple[str, ...], int, str]]:
    """Return the limits that apply to a connection: setting, key, number, and in words whose they are."""
    found: list[tuple[str, tuple[str, ...], int, str]] = []
    if limits.connections is not None:
        found.append(("limits.connections", (route,), limits.connections, "to this route"))
    if limits.connections_per_identity is not None and identity:
        most = limits.connections_per_identity
        found.append(("limits.connections_per_identity", (route, "identity", identity), most, "of this identity"))
    if limits.connections_per_token is not None and token_name:
        most = limits.connections_per_token
        found.append(("limits.connections_per_token", (route, "token", token_name), most, "with this token"))
    return found
