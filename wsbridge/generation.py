"""Generation: what one reading of the configuration becomes at run time; immutable.

Lives here: routes with their backends, TLS contexts and terms, and which listener reaches which. Must not live here:
what outlives a generation (sockets, ledgers, the resolver: `server`), rules between settings (`config.check`).
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass

from wsbridge.auth.auth import Auth, Lent
from wsbridge.auth.background import Background
from wsbridge.auth.passwords import Passwords
from wsbridge.auth.spent import Spent
from wsbridge.backends.backend import Backend, Offer, Services
from wsbridge.config import model
from wsbridge.config.section import AuthSection
from wsbridge.kinds import AUTH, BACKENDS
from wsbridge.ledger import Ledger
from wsbridge.net.resolve import Resolver
from wsbridge.net.tls import server_context
from wsbridge.protocol.head import HeadLimits
from wsbridge.protocol.origin import Origins
from wsbridge.protocol.target import PathPattern, normal_host
from wsbridge.relay.terms import Terms
from wsbridge.routes.answer import FixedAnswer, Responder
from wsbridge.routes.files import Files, prefix_of
from wsbridge.routes.ticket import TicketOffice
from wsbridge.targets.choice import Choice, choice_of
from wsbridge.whence import Whence


@dataclass(frozen=True, slots=True)
class Route:
    """Which requests, and where they go.

    Attributes:
        name: Its name in the file.
        hosts: Hosts it matches, normalised; None for all.
        path: Paths it matches; None for all.
        backend: Where bytes go; None where `responder` answers.
        choice: Which target of the backend a client gets; None where all get the same, whoever they are.
        responder: Files, a fixed answer or tickets.
        auth: Who may use it; None where nobody is asked.
        prefix: The part of a path that the pattern names, cut before a file is looked up.
        offer: What a backend is asked for, but for the client's subprotocols.
        tells_client: Whether the backend is told who the client is.
        connect: Seconds for one attempt to reach the backend.
        limits: How much its clients may have; None for no limit but that of bytes a connection.
    """

    name: str
    hosts: frozenset[str] | None
    path: PathPattern | None
    backend: Backend | None
    choice: Choice | None
    responder: Responder | None
    prefix: str
    origins: Origins
    auth: Auth | None
    subprotocols: tuple[str, ...]
    offer: Offer
    terms: Terms
    connect: float
    retry_for: float
    dial_first: bool
    tells_client: bool
    ledger: Ledger
    limits: model.RouteLimits | None

    def matches(self, host: str, path: str) -> bool:
        """Tell whether a request for this host (normalised) and path is for this route."""
        return (self.hosts is None or host in self.hosts) and (self.path is None or self.path.matches(path))


@dataclass(frozen=True, slots=True)
class Listener:
    """What is spoken at one listener, and the routes it reaches, in order.

    Attributes:
        loopback: Whether it binds a literal loopback address or a Unix path.
        unix: Whether it binds a Unix path.
        route: The one route of a listener that speaks TCP.
        whence: How proxies in front tell the client's address; None where nobody is trusted to.
    """

    name: str
    speaks: str
    tls: ssl.SSLContext | None
    loopback: bool
    unix: bool
    route: Route | None
    routes: tuple[Route, ...]
    whence: Whence | None = None

    def shown(self, target: str) -> str:
        """Give the target of a request for the log, without the tokens that choose a backend of any route here."""
        for route in self.routes:
            if route.choice is not None:
                target = route.choice.hidden(target)
        return target


@dataclass(frozen=True, slots=True)
class Generation:
    """All that a connection needs of the configuration, for its whole life."""

    config: model.Config
    listeners: dict[str, Listener]
    routes: dict[str, Route]
    head: HeadLimits


def lend(
    *,
    spent: Spent | None = None,
    passwords: Passwords | None = None,
    resolver: Resolver | None = None,
    background: Background | None = None,
) -> Lent:
    """Give what ways of authentication are lent; it outlives the generations."""

    def way(section: AuthSection) -> Auth:
        found = AUTH[section.kind](section, lent)
        assert found is not None  # noqa: S101 (lists hold no `none`, which alone asks nobody)
        return found

    lent = Lent(
        way,
        spent=Spent() if spent is None else spent,
        passwords=Passwords() if passwords is None else passwords,
        resolver=Resolver() if resolver is None else resolver,
        background=Background() if background is None else background,
    )
    return lent


def build(
    config: model.Config, services: Services, ledger: Callable[[str], Ledger], lent: Lent | None = None
) -> Generation:
    """Build a generation; reads certificates and folders, so not on the event loop once that serves.

    Args:
        config: Checked.
        services: Lent to the backends.
        ledger: Gives the ledger of a route by name; it outlives the generation.
        lent: Lent to the ways of authentication; left out: what this generation alone has.

    Raises:
        ValueError: A file cannot be used; one sentence (`net.tls.TlsError` names the file).
    """
    lent = lent or lend()
    routes = {
        name: _route(name, section, config, services, ledger(name), lent) for name, section in config.routes.items()
    }
    listeners = {name: _listener(name, section, config, routes) for name, section in config.listeners.items()}
    limits = config.limits
    return Generation(config, listeners, routes, HeadLimits(limits.head, limits.head_line, limits.headers))


def _route(
    name: str, section: model.Route, config: model.Config, services: Services, ledger: Ledger, lent: Lent
) -> Route:
    match = section.match if isinstance(section.match, model.Match) else model.Match()
    hosts = None if match.host is None else frozenset(normal_host(str(host)) or str(host) for host in match.host)
    timeouts = section.effective_timeouts(config.timeouts)
    limits = config.limits
    backend = None
    if section.backend is not None:
        backend = BACKENDS[section.backend.kind](section.backend, services)
    responder: Responder | None = None
    if section.files is not None:
        responder = Files(section.files)
    elif section.answer is not None:
        responder = FixedAnswer(section.answer)
    elif section.ticket is not None:
        responder = TicketOffice(section.ticket, lent.wall)
    pattern = None if match.path is None else str(match.path)
    path = None if pattern is None else PathPattern(pattern)
    return Route(
        name=name,
        hosts=hosts,
        path=path,
        backend=backend,
        choice=choice_of(section, path, services.own),
        responder=responder,
        prefix=prefix_of(pattern),
        origins=Origins(section.origins),
        auth=None if section.auth is None else AUTH[section.auth.kind](section.auth, lent),
        subprotocols=section.subprotocols,
        offer=Offer(section.subprotocols, False, section.text, limits.frame),
        terms=Terms(
            idle=timeouts.idle,
            ping=timeouts.ping,
            pong=timeouts.pong,
            write=timeouts.write,
            half_close=timeouts.half_close,
            close=timeouts.close,
            max_age=timeouts.max_age,
            linger=config.timeouts.linger,
            linger_bytes=limits.linger_bytes,
            chaff_rate=limits.control_rate,
            deliver=section.after_close == "deliver",
            lost_is_fin=section.on_client_lost == "fin",
            bytes_per_second=section.limits.bytes_per_second,
        ),
        connect=timeouts.connect,
        retry_for=section.connect.retry_for,
        dial_first=section.dial == "before-upgrade",
        tells_client=section.backend is not None and section.backend.tells_client,
        ledger=ledger,
        limits=None if section.limits.count_nothing else section.limits,
    )


def _listener(name: str, section: model.Listener, config: model.Config, routes: dict[str, Route]) -> Listener:
    reached: list[Route] = []
    if section.speaks == "websocket":
        for route_name, route in config.routes.items():
            match = route.match
            if match == "any" or (
                isinstance(match, model.Match) and (match.listener is None or name in match.listener)
            ):
                reached.append(routes[route_name])
    tls = None
    if section.tls is not None:
        pairs = [(pair.cert, pair.key) for pair in section.tls.certificates]
        required = section.tls.client_certificate == "required"
        tls = server_context(pairs, section.tls.client_ca, required=required)
    return Listener(
        name=name,
        speaks=section.speaks,
        tls=tls,
        loopback=section.bind.is_loopback,
        unix=section.bind.kind == "unix",
        route=routes[section.route] if section.route is not None else None,
        routes=tuple(reached),
        whence=_whence(section, config),
    )


def _whence(section: model.Listener, config: model.Config) -> Whence | None:
    if section.trusted_proxies is None or section.real_address is None:
        return None
    seconds, limit = config.timeouts.proxy_header, config.limits.proxy_header
    return Whence(section.trusted_proxies, section.real_address, seconds, limit)
