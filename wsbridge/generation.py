"""Generation: the immutable run-time objects built from one configuration (routes, backends, TLS contexts)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, MutableMapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import trio

from wsbridge.auth.access_list import AccessList, AccessListKey
from wsbridge.auth.base import Authenticator, AuthServices, BackgroundTasks
from wsbridge.auth.jwt_keys import FetchedKeys, KeySource
from wsbridge.auth.passwords import PasswordChecker
from wsbridge.auth.replay import UsedTickets
from wsbridge.auth.ticket import TicketIssuer
from wsbridge.backends.base import Backend, DialRequest, DialServices
from wsbridge.backends.dynamic import TargetPolicy, build_target_policy
from wsbridge.backends.passed_request import RequestPasser
from wsbridge.config import model
from wsbridge.config.base import AuthSection
from wsbridge.config.route import FilesConfig, ResumeConfig
from wsbridge.config.unions import TOKENS_KEY, BackendSectionBase, UrlBackendSection
from wsbridge.counters import ListenerStats, RouteStats
from wsbridge.file_watcher import FileWatcher
from wsbridge.net.loop_detection import new_route_mark
from wsbridge.net.resolver import Resolver
from wsbridge.net.tls import SERVER_CIPHERS, ServerTlsOptions
from wsbridge.net.tls_roles import ListenerTls
from wsbridge.protocol.handshake import KnownRequests, OriginPolicy, UpgradeRequest
from wsbridge.protocol.http1 import HeadLimits
from wsbridge.protocol.pattern_tree import PatternIndex
from wsbridge.protocol.resume_server import SessionTerms
from wsbridge.protocol.uri import HostPatterns, PathPattern
from wsbridge.real_ip import ClientAddressResolver
from wsbridge.registry import AUTH, BACKENDS
from wsbridge.relay.relay import RelayOptions
from wsbridge.responders.base import FixedStatus, Responder
from wsbridge.responders.files import FileOptions, StaticFiles, pattern_prefix
from wsbridge.responders.resume_module import ResumeModule


@dataclass(frozen=True, slots=True)
class Route:
    """One route: which requests it matches, and what handles them.

    Attributes:
        name: Its name in the configuration.
        hosts: Hosts it matches; None for all.
        checks_credentials: Whether a request may be a guess, so that each counts towards its address' handshake rate.
        rejects_cross_site: Whether other pages can make browsers send credentials to it, in the query or a cookie.
        requires_origin: Whether a WebSocket handshake needs an Origin, since a cookie chooses the target.
        needs_safe_host: Whether a listener without TLS accepts only hosts that DNS rebinding cannot take over.
        path: Paths it matches; None for all.
        backend: Where bytes are relayed to; None where `responder` answers.
        target_policy: Selects the target of a client; None where all clients get the same.
        responder: Files, a fixed status, the JavaScript client or tickets.
        redirects_root: Whether it also matches `/`, to redirect it.
        frame_ancestors: Other origins whose pages may show its files in a frame; None for none that is known.
        auth: Who may use it; None for anonymous access.
        dial_defaults: The request to the backend, apart from the client's subprotocols.
        needs_client_info: Whether the backend receives the client address.
        request_passer: Takes from requests what the backend gets; None for nothing.
        connect_timeout: Seconds for one attempt to reach the backend.
        limits: Limits that are counted; None for none but the bandwidth of a connection.
        mark: By which a connection that comes through it again is recognized.
        session_terms: What is granted to resumable sessions; None where there are none.
        first_frame_timeout: Seconds in which a client of one must say which session it wants.
    """

    name: str
    hosts: HostPatterns | None
    needs_safe_host: bool
    checks_credentials: bool
    rejects_cross_site: bool
    requires_origin: bool
    path: PathPattern | None
    backend: Backend | None
    target_policy: TargetPolicy | None
    responder: Responder | None
    redirects_root: bool
    frame_ancestors: OriginPolicy | None
    origin_policy: OriginPolicy
    auth: Authenticator | None
    subprotocols: tuple[str, ...] | None
    dial_defaults: DialRequest
    relay_options: RelayOptions
    connect_timeout: float
    retry_for: float
    dial_before_upgrade: bool
    needs_client_info: bool
    request_passer: RequestPasser | None
    stats: RouteStats
    limits: model.RouteLimits | None
    mark: str
    session_terms: SessionTerms | None = None
    first_frame_timeout: float = 0.0


class RouteTable:
    """The routes of a listener in their order, found by host and path in a time that does not depend on their number.

    Args:
        routes: In the order of the file.

    Attributes:
        redacting_policies: Those of routes whose requests may have a token in their target.
        for_every_websocket: The route of all requests for WebSocket; None where it depends on host or path.
    """

    __slots__ = ("_for_http", "_for_websocket", "_routes", "for_every_websocket", "redacting_policies")

    def __init__(self, routes: Iterable[Route]) -> None:
        self._routes = tuple(routes)
        policies = (route.target_policy for route in self._routes)
        self.redacting_policies = [policy for policy in policies if policy is not None and policy.redacts]
        self._for_websocket = PatternIndex()
        self._for_http = PatternIndex()
        for position, route in enumerate(self._routes):
            index = self._for_http if route.backend is None else self._for_websocket
            index.add(route.hosts, route.path, position)
            if route.redirects_root:
                index.add(route.hosts, _ROOT, position)
        universal = self._for_websocket.universal
        self.for_every_websocket = None if universal is None else self._routes[universal]

    def find(self, host: str, path: str, *, websocket: bool) -> Route | None:
        """Return the first route that matches a request and is for WebSocket, or for other requests, as this one is.

        Where none is, the first that matches at all is returned.

        Args:
            host: In normal form.
            path: In normal form.
            websocket: Whether the request is for WebSocket.
        """
        indexes = (self._for_http, self._for_websocket)
        for index in indexes[::-1] if websocket else indexes:
            position = index.universal if index.universal is not None else index.first_match(host, path)
            if position is not None:
                return self._routes[position]
        return None

    def __iter__(self) -> Iterator[Route]:
        return iter(self._routes)

    def __len__(self) -> int:
        return len(self._routes)


@dataclass(slots=True)
class AdmittedRequest:
    """A request that may go on.

    Attributes:
        route: The route that it is for.
        upgrade: The valid upgrade request; None where the route responds itself.
        subprotocol: The subprotocol of the client's offer that the route prefers.
        subprotocols: All of the client's offer that the route accepts, in the route's order.
        resumable: Whether the client and the route have resumable sessions.
    """

    route: Route
    upgrade: UpgradeRequest | None = None
    subprotocol: str | None = None
    subprotocols: tuple[str, ...] = ()
    resumable: bool = False


_ROOT = PathPattern("/")


@dataclass(frozen=True, slots=True)
class Listener:
    """One listener: its protocol, and its routes in the order in which they are tried.

    Attributes:
        host_names: Names by which clients reach it, besides addresses and localhost.
        is_unix: Whether it binds a Unix path.
        route: The one route of a listener with `protocol: tcp`.
        allow_http: Whether such a listener passes HTTP requests on.
        client_address_resolver: How proxies in front pass the client address; None where no proxy is trusted.
        stats: Its counters.
        known_requests: Requests that it has admitted before; None behind proxies, where each head says who the client
            is, and where a route has tokens in its paths, which are not to stay in memory.
    """

    name: str
    protocol: str
    tls: ListenerTls | None
    host_names: HostPatterns
    is_unix: bool
    route: Route | None
    routes: RouteTable
    client_address_resolver: ClientAddressResolver | None = None
    allow_http: bool = False
    stats: ListenerStats = field(default_factory=ListenerStats)
    known_requests: KnownRequests[AdmittedRequest] | None = None

    def is_direct_client(self, host: str) -> bool:
        """Return whether an address is that of a client: trusted proxies have no limits per address."""
        return self.client_address_resolver is None or not self.client_address_resolver.is_trusted(host)

    def redact_target(self, target: str) -> str:
        """Return the target of a request for the log, without tokens that select a target in any of its routes."""
        for policy in self.routes.redacting_policies:
            target = policy.redact_target(target)
        return target


@dataclass(slots=True, eq=False)
class Lifetime:
    """How long a generation is in use.

    Attributes:
        connections: Connections that began with it and have not ended.
        removed_routes: The routes that the next generation has not, or not like this, with the `on_remove` of each.
        superseded: Set when new connections begin with the next generation.
        unused: Set when besides its last connection has ended.
    """

    connections: int = 0
    removed_routes: dict[str, str] = field(default_factory=dict)
    superseded: trio.Event = field(default_factory=trio.Event)
    unused: trio.Event = field(default_factory=trio.Event)

    def acquire(self) -> None:
        """Count a connection in."""
        self.connections += 1

    def release(self) -> None:
        """Count a connection out."""
        self.connections -= 1
        if not self.connections and self.superseded.is_set():
            self.unused.set()

    def supersede(self, removed_routes: dict[str, str]) -> None:
        """Mark it as superseded: no connection will begin with it any more."""
        self.removed_routes = removed_routes
        self.superseded.set()
        if not self.connections:
            self.unused.set()


@dataclass(frozen=True, slots=True)
class Generation:
    """All that a connection needs of one configuration, for its whole life.

    Attributes:
        number: 1 for the configuration that the process started with; each reload adds one.
        background_tasks: What runs for its routes, such as the refresh of keys; entered while it is in use, and ended
            with it.
        watcher: Replaces certificates and keys when their files change; runs while new connections begin with it.
        lifetime: How long it is in use.
    """

    number: int
    config: model.Config
    listeners: dict[str, Listener]
    routes: dict[str, Route]
    head_limits: HeadLimits
    background_tasks: BackgroundTasks
    watcher: FileWatcher
    lifetime: Lifetime = field(default_factory=Lifetime)


def auth_services(
    *,
    used_tickets: UsedTickets | None = None,
    password_checker: PasswordChecker | None = None,
    resolver: Resolver | None = None,
    fetched_keys: MutableMapping[KeySource, FetchedKeys] | None = None,
    access_lists: MutableMapping[AccessListKey, AccessList[Any]] | None = None,
    watcher: FileWatcher | None = None,
) -> AuthServices:
    """Return what the authentication methods of a generation use.

    All but its background tasks and the watcher of its files outlives it.
    """

    def build(section: AuthSection) -> Authenticator:
        found = AUTH[section.kind](section, services)
        assert found is not None  # noqa: S101 (lists hold no `none`, which alone has no authenticator)
        return found

    services = AuthServices(
        build,
        used_tickets=UsedTickets() if used_tickets is None else used_tickets,
        password_checker=PasswordChecker() if password_checker is None else password_checker,
        resolver=Resolver() if resolver is None else resolver,
        fetched_keys={} if fetched_keys is None else fetched_keys,
        access_lists={} if access_lists is None else access_lists,
        watcher=FileWatcher() if watcher is None else watcher,
    )
    return services


def build_generation(
    config: model.Config,
    dial_services: DialServices,
    stats_for: Callable[[str], RouteStats],
    services: AuthServices | None = None,
    number: int = 1,
    listener_stats_for: Callable[[str], ListenerStats] = lambda _: ListenerStats(),
) -> Generation:
    """Build a generation. It reads certificates and directories: once the event loop runs, call it in a thread.

    Args:
        config: Checked.
        dial_services: For the backends.
        stats_for: Returns the counters of a route by name; they outlive the generation.
        services: For the authentication methods. Default: of this generation alone.
        number: Of the generation.
        listener_stats_for: Returns the counters of a listener by name, likewise.

    Raises:
        ValueError: A file cannot be used; one sentence (`net.tls.TlsError` names the file).
    """
    services = services or auth_services(watcher=dial_services.watcher)
    routes = {
        name: _build_route(name, section, config, dial_services, stats_for(name), services)
        for name, section in config.routes.items()
    }
    listeners = {
        name: _build_listener(name, section, config, routes, dial_services, listener_stats_for(name))
        for name, section in config.listeners.items()
    }
    limits = config.limits
    head_limits = HeadLimits(limits.max_head_bytes, limits.max_head_line_bytes, limits.max_headers)
    return Generation(number, config, listeners, routes, head_limits, services.background_tasks, dial_services.watcher)


def services_for(backend: BackendSectionBase, services: DialServices) -> DialServices:
    """Give a backend whose host names clients choose a resolver of its own.

    Names made of what a client sends, or given with its identity, are absolute; those of a token file are the
    administrator's, like all others in the configuration.
    """
    from_file = backend.kind == TOKENS_KEY
    by_client = backend.kind == "target" or (isinstance(backend, UrlBackendSection) and "{" in backend.url.host)
    if not from_file and not by_client:
        return services
    return replace(services, resolver=services.resolver.for_client_names(absolute=by_client))


def _build_route(
    name: str,
    section: model.RouteConfig,
    config: model.Config,
    dial_services: DialServices,
    stats: RouteStats,
    services: AuthServices,
) -> Route:
    match = section.match if isinstance(section.match, model.MatchConfig) else model.MatchConfig()
    hosts = None if match.host is None else HostPatterns(match.host)
    timeouts = section.effective_timeouts(config.timeouts)
    limits = config.limits
    backend = None
    if section.backend is not None:
        backend = BACKENDS[section.backend.kind](section.backend, services_for(section.backend, dial_services))
    responder: Responder | None = None
    if section.files is not None:
        responder = _build_static_files(section.files, pattern_prefix(match.path), config.timeouts.file_read)
    elif section.respond is not None:
        responder = FixedStatus(section.respond) if isinstance(section.respond, int) else ResumeModule()
    elif section.issue_tickets is not None:
        responder = TicketIssuer(section.issue_tickets, services.wall_clock, services.used_tickets)
    pattern = None if match.path is None else str(match.path)
    path = None if pattern is None else PathPattern(pattern)
    subprotocols = None if section.subprotocols == "any" else section.subprotocols
    passer = _build_request_passer(section, path)
    return Route(
        name=name,
        hosts=hosts,
        checks_credentials=section.auth is not None and section.auth.identifies_clients(),
        rejects_cross_site=section.auth is not None and section.auth.accepts_cross_site_credentials(),
        requires_origin=section.backend is not None and section.backend.reads_cookies,
        needs_safe_host=hosts is None and (section.auth is None or not section.auth.requires_credentials()),
        path=path,
        backend=backend,
        target_policy=build_target_policy(section, path, dial_services.listening_addresses, passer, hosts),
        responder=responder,
        redirects_root=isinstance(section.files, FilesConfig) and section.files.redirect_root,
        frame_ancestors=_frame_ancestors(section.files),
        origin_policy=OriginPolicy(section.allowed_origins),
        auth=None if section.auth is None else AUTH[section.auth.kind](section.auth, services),
        subprotocols=subprotocols,
        dial_defaults=DialRequest(subprotocols or (), False, section.text_messages, limits.max_frame_bytes),
        relay_options=RelayOptions(
            idle=timeouts.idle,
            ping_interval=timeouts.ping_interval,
            ping_timeout=timeouts.ping_timeout,
            write=timeouts.write,
            half_close=timeouts.half_close,
            close=timeouts.close,
            max_lifetime=timeouts.max_lifetime,
            lingering=config.timeouts.lingering,
            lingering_bytes=limits.lingering_bytes,
            control_frame_rate=limits.control_frame_rate,
            deliver_after_close=section.on_client_close == "deliver",
            half_close_on_loss=section.on_client_lost == "fin",
            hold_close=timeouts.half_close if section.on_client_fin == "hold" else None,
            bytes_per_second=section.limits.bytes_per_second,
        ),
        connect_timeout=timeouts.connect,
        retry_for=section.dial.retry_for,
        dial_before_upgrade=section.dial.when == "before-upgrade",
        needs_client_info=section.backend is not None and section.backend.needs_client_info,
        request_passer=passer,
        stats=stats,
        limits=None if section.limits.needs_no_counting else section.limits,
        mark=new_route_mark(),
        session_terms=None if section.resume is None else _session_terms(section.resume),
        first_frame_timeout=0.0 if section.resume is None else section.resume.first_frame,
    )


def _session_terms(section: ResumeConfig) -> SessionTerms:
    return SessionTerms(
        window=section.window,
        ttl=int(section.ttl),
        keepalive=0 if section.keepalive is None else int(section.keepalive),
        node=section.node or "",
    )


def _build_request_passer(section: model.RouteConfig, path: PathPattern | None) -> RequestPasser | None:
    rules = None if section.backend is None else section.backend.pass_rules
    if rules is None:
        return None
    return RequestPasser(rules, path, () if section.auth is None else section.auth.credentials())


def _build_tls(section: model.ListenerTlsConfig, services: DialServices) -> ListenerTls:
    options = ServerTlsOptions(
        section.client_ca,
        section.client_certificate == "required",
        section.min_version,
        section.ciphers or SERVER_CIPHERS,
    )
    return services.tls.for_listener(services.watcher, section.certificates, options)


def _build_listener(
    name: str,
    section: model.ListenerConfig,
    config: model.Config,
    routes: dict[str, Route],
    services: DialServices,
    stats: ListenerStats,
) -> Listener:
    reached: list[Route] = []
    if section.protocol == "websocket":
        for route_name, route in config.routes.items():
            match = route.match
            if match == "any" or (
                isinstance(match, model.MatchConfig) and (match.listener is None or name in match.listener)
            ):
                reached.append(routes[route_name])
    resolver = _build_client_address_resolver(section, config)
    table = RouteTable(reached)
    return Listener(
        name=name,
        protocol=section.protocol,
        tls=None if section.tls is None else _build_tls(section.tls, services),
        host_names=_host_names(section),
        is_unix=section.bind.kind == "unix",
        route=routes[section.route] if section.route is not None else None,
        routes=table,
        allow_http=section.allow_http,
        client_address_resolver=resolver,
        stats=stats,
        known_requests=KnownRequests() if resolver is None and not table.redacting_policies else None,
    )


def _frame_ancestors(files: Path | FilesConfig | None) -> OriginPolicy | None:
    if not isinstance(files, FilesConfig) or isinstance(files.frame_ancestors, str):
        return None
    return OriginPolicy(files.frame_ancestors)


def _build_static_files(files: Path | FilesConfig, prefix: str, read_timeout: float) -> StaticFiles:
    if isinstance(files, Path):
        return StaticFiles(files, FileOptions(prefix=prefix, read_timeout=read_timeout))
    ancestors = {"self": "'self'", "none": "'none'", "any": None}
    options = FileOptions(
        index=files.index,
        headers=tuple(files.headers.items()),
        frame_ancestors=ancestors[files.frame_ancestors]
        if isinstance(files.frame_ancestors, str)
        else " ".join(("'self'", *files.frame_ancestors)),
        max_age=int(files.cache),
        redirect_root=prefix + quote(files.index) if files.redirect_root else None,
        prefix=prefix,
        read_timeout=read_timeout,
    )
    return StaticFiles(files.dir, options)


def _host_names(section: model.ListenerConfig) -> HostPatterns:
    """Return the names that the configuration gives a listener: those written, and the one that it binds."""
    bound = (section.bind.host,) if section.bind.host and section.bind.ip is None else ()
    return HostPatterns((*(section.host_names or ()), *bound))


def _build_client_address_resolver(section: model.ListenerConfig, config: model.Config) -> ClientAddressResolver | None:
    if section.trusted_proxies is None or section.client_address_from is None:
        return None
    seconds, limit = config.timeouts.proxy_header, config.limits.max_proxy_header_bytes
    return ClientAddressResolver(section.trusted_proxies, section.client_address_from, seconds, limit)
