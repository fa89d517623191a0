"""Rules between sections: references, reachability, authentication, addresses; and warnings of risky settings."""

from __future__ import annotations

import contextlib
import os
import posixpath
import stat
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import combinations

from pydantic import BaseModel

from wsbridge.config.backend_urls import is_request_field
from wsbridge.config.base import AuthSection, Issue, KeyPath, LoadContext, Section
from wsbridge.config.errors import did_you_mean
from wsbridge.config.key_path_set import KeyPathSet
from wsbridge.config.limits import RouteTimeouts
from wsbridge.config.listener import ListenerConfig
from wsbridge.config.model import Config
from wsbridge.config.route import MatchConfig, RouteConfig, TicketAuthConfig
from wsbridge.config.secrets import Secret
from wsbridge.config.urls import BindAddress
from wsbridge.protocol.pattern_tree import PatternIndex
from wsbridge.protocol.uri import HostPatterns, PathPattern


@dataclass(frozen=True, slots=True)
class WrittenNames:
    """What the file has beside the sections that are valid.

    Attributes:
        listeners: Names of all listeners, those that are invalid included.
        routes: Names of all routes, likewise.
        wrong: Paths of what is wrong. Nothing is concluded from what sections with such a path do not have.
    """

    listeners: Collection[str]
    routes: Collection[str]
    wrong: KeyPathSet = field(default_factory=KeyPathSet)

    def is_sound(self, *path: str) -> bool:
        """Return whether nothing is wrong in a section, or in one that contains it."""
        return not self.wrong.overlaps(path)

    def reachability_is_sound(self) -> bool:
        """Return whether nothing is wrong in the listeners, and in what routes match."""
        return all(self._leaves_reachability(path) for path in self.wrong)

    @staticmethod
    def _leaves_reachability(path: KeyPath) -> bool:
        if path[:1] == ("routes",):
            return len(path) > 2 and path[2] != "match"
        return path[:1] in {("timeouts",), ("limits",), ("log",), ("defaults",)}


def check_tickets(config: Config, names: WrittenNames) -> Iterator[Issue]:
    """Find routes whose tickets no route accepts, or that would issue one to anyone."""
    for name, route in config.routes.items():
        if route.issue_tickets is None:
            continue
        steps: KeyPath = ("routes", name)
        if route.auth is not None and route.auth.kind == "none":
            yield Issue((*steps, "auth"), "cannot be none: anyone could get a ticket", "E013")
        elif ticket_auths(route.auth):
            yield Issue((*steps, "auth"), "cannot accept tickets itself: one ticket would give the next", "E013")
        wanted = config.routes.get(route.issue_tickets.route)
        if wanted is None or not names.is_sound("routes", route.issue_tickets.route):
            missing = route.issue_tickets.route
            if missing in names.routes:
                continue
            text = f'there is no route "{missing}"{did_you_mean(missing, names.routes)}'
            yield Issue((*steps, "issue_tickets", "route"), text, "E020")
        elif not ticket_auths(wanted.auth):
            text = f'the route "{route.issue_tickets.route}" accepts no tickets: its auth needs kind: ticket'
            yield Issue((*steps, "issue_tickets", "route"), text, "E027")
        elif all(taker.key != route.issue_tickets.key for taker in ticket_auths(wanted.auth)):
            text = f'is not the key with which the route "{route.issue_tickets.route}" accepts tickets'
            yield Issue((*steps, "issue_tickets", "key"), text, "E027")


def ticket_auths(auth: AuthSection | None) -> list[TicketAuthConfig]:
    """Return the methods of a route that accept tickets, also those inside others."""
    if auth is None:
        return []
    inner = [taker for member in auth.members() for taker in ticket_auths(member)]
    return [auth, *inner] if isinstance(auth, TicketAuthConfig) else inner


def effective_match(route: RouteConfig) -> MatchConfig | None:
    """Return what a route matches; `any` is a match without conditions."""
    return MatchConfig() if route.match == "any" else route.match


def matching_listeners(config: Config, route: RouteConfig) -> list[str]:
    """Return the listeners whose requests a route may match: those with protocol: websocket."""
    match = effective_match(route)
    if match is None:
        return []
    return [
        name
        for name, listener in config.listeners.items()
        if listener.protocol == "websocket" and (match.listener is None or name in match.listener)
    ]


def raw_listeners_of(config: Config, name: str) -> list[str]:
    """Return the listeners with protocol: tcp that name a route."""
    return [key for key, listener in config.listeners.items() if listener.protocol == "tcp" and listener.route == name]


def listeners_of(config: Config, name: str) -> list[str]:
    """Name all listeners that lead to a route."""
    leading = {*matching_listeners(config, config.routes[name]), *raw_listeners_of(config, name)}
    return [key for key in config.listeners if key in leading]


def shadowed_routes(config: Config) -> dict[str, list[str]]:
    """Find the routes of which earlier routes match every request that they could match.

    Returns:
        By the name of each, the names of those earlier ones.
    """
    indexes: dict[tuple[str, bool], PatternIndex] = {}  # by listener, and whether the routes are for WebSocket
    names = list(config.routes)
    found: dict[str, list[str]] = {}
    for position, (name, route) in enumerate(config.routes.items()):
        match = effective_match(route)
        if match is None:
            continue
        hosts = None if match.host is None else HostPatterns(match.host)
        path = None if match.path is None else PathPattern(match.path)
        takers: list[int | None] = []
        for listener in matching_listeners(config, route):
            index = indexes.setdefault((listener, route.backend is not None), PatternIndex())
            takers += [index.first_cover(host, path) for host in ((None,) if hosts is None else hosts.parts)]
            index.add(hosts, path, position)
        if takers and None not in takers:
            found[name] = [names[taker] for taker in dict.fromkeys(takers) if taker is not None]
    return found


WILDCARD_HOSTS = {"0.0.0.0": 4, "::": 6}
"""Addresses that mean all of a family."""


def check_config(config: Config, context: LoadContext, names: WrittenNames | None = None) -> list[Issue]:
    """Find all that is wrong or risky between the sections of a configuration.

    Args:
        config: Its valid sections.
        context: What it was read with.
        names: What the file has beside them; None if all is valid.
    """
    names = names or WrittenNames(config.listeners, config.routes)
    return [
        *_check_references(config, names),
        *_check_resume(config, names),
        *_check_bind_conflicts(config),
        *(_check_reachability(config) if names.reachability_is_sound() else ()),
        *_check_missing_auth(config),
        *_check_unusable_auth(config),
        *check_tickets(config, names),
        *_check_client_certificates(config, names),
        *_check_request_fields(config),
        *_check_exposure(config, names),
        *(() if names.wrong else _check_unused_listeners(config)),
        *_check_risky_settings(config),
        *(_check_secret_permissions(config) if context.check_files else ()),
        *_check_sections(config, context, names),
    ]


def walk_sections(section: BaseModel, steps: KeyPath = ()) -> Iterator[tuple[KeyPath, Section]]:
    """Give a section and all sections in it, with the path of each."""
    if isinstance(section, Section):
        yield steps, section
    for name in type(section).model_fields:
        yield from _walk_value(getattr(section, name), (*steps, name))


def _walk_value(value: object, steps: KeyPath) -> Iterator[tuple[KeyPath, Section]]:
    if isinstance(value, Section):
        yield from walk_sections(value, steps)
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _walk_value(inner, (*steps, key))
    elif isinstance(value, tuple):
        for at, inner in enumerate(value):
            yield from _walk_value(inner, (*steps, at))


def _check_sections(config: Config, context: LoadContext, names: WrittenNames) -> Iterator[Issue]:
    """Return the warnings of sections in which nothing is wrong."""
    for path, section in walk_sections(config):
        if not names.wrong.has_below(path):
            for issue in section.warnings(context):
                yield Issue((*path, *issue.key_path), issue.message, issue.code, issue.at_key)


def _check_references(config: Config, names: WrittenNames) -> Iterator[Issue]:
    """References of routes and listeners to each other."""
    for name, listener in config.listeners.items():
        if listener.route is None:
            continue
        steps: KeyPath = ("listeners", name, "route")
        route = config.routes.get(listener.route)
        if listener.route not in names.routes:
            guess = did_you_mean(listener.route, names.routes)
            yield Issue(steps, f'there is no route "{listener.route}"{guess}', "E020")
        elif route is not None and route.backend is None and names.is_sound("routes", listener.route):
            text = f'the route "{listener.route}" has no backend, and this listener has protocol: tcp'
            yield Issue(steps, text, "E024")
    sound = names.reachability_is_sound()
    for name, route in config.routes.items():
        if route.on_client_fin == "hold" and sound and not raw_listeners_of(config, name):
            text = "hold needs a listener with protocol: tcp that names the route: WebSocket clients send a Close"
            yield Issue(("routes", name, "on_client_fin"), text, "E013")
        if route.match is None and route.backend is not None and route.backend.pass_rules is not None:
            text = "passes on the client's request, but the route has no match: plain TCP clients send no request"
            yield Issue(("routes", name, "backend"), text, "E013", at_key=True)
        if route.match is None or route.match == "any":
            continue
        for at, wanted in enumerate(route.match.listener or ()):
            yield from _check_matched_listener(("routes", name, "match", "listener", at), wanted, config, names)


def _check_resume(config: Config, names: WrittenNames) -> Iterator[Issue]:
    """Resumable sessions on routes that no WebSocket client reaches."""
    for name, route in config.routes.items():
        if route.resume is not None and names.reachability_is_sound() and not matching_listeners(config, route):
            text = "needs a listener with protocol: websocket whose requests the route matches"
            yield Issue(("routes", name, "resume"), text, "E013", at_key=True)


def _check_matched_listener(path: KeyPath, wanted: str, config: Config, names: WrittenNames) -> Iterator[Issue]:
    if wanted not in names.listeners:
        guess = did_you_mean(wanted, names.listeners)
        yield Issue(path, f'there is no listener "{wanted}"{guess}', "E020")
    elif wanted in config.listeners and config.listeners[wanted].protocol == "tcp":
        text = f'the listener "{wanted}" has protocol: tcp: it names its route with route:, and matches no requests'
        yield Issue(path, text, "E021")


def _check_reachability(config: Config) -> Iterator[Issue]:
    """Routes that no request and no connection can reach."""
    shadowed = shadowed_routes(config)
    for name, route in config.routes.items():
        steps: KeyPath = ("routes", name)
        if raw_listeners_of(config, name):
            continue
        if route.match is None:
            text = "unreachable route: it has no match (any: all requests), and no listener names it"
            yield Issue(steps, text, "E021", at_key=True)
        elif not matching_listeners(config, route):
            if route.match == "any" or route.match.listener is None:
                text = "unreachable route: no listener has protocol: websocket"
                yield Issue((*steps, "match"), text, "E021", at_key=True)
        elif takers := shadowed.get(name):
            text = f"unreachable route: {_quote_routes(takers)} above matches all that it matches"
            yield Issue((*steps, "match"), text, "E021", at_key=True)


def _check_missing_auth(config: Config) -> Iterator[Issue]:
    """Routes that more than this host can reach, and that have no auth."""
    for name, route in config.routes.items():
        if route.auth is not None:
            continue
        public = public_listeners(config, name)
        if public and config.listeners[public[0]].trusted_proxies is not None:
            text = (
                f'is required, since the listener "{public[0]}" is behind proxies: "auth: none" allows anonymous access'
            )
            yield Issue(("routes", name, "auth"), text, "E022")
        elif public:
            bind = config.listeners[public[0]].bind
            named = "; localhost is a name and may mean others: write 127.0.0.1 or [::1]" if bind.is_loopback else ""
            place = "may have any address" if bind.kind == "fd" else "is not on a loopback address"
            text = (
                f'is required, since the listener "{public[0]}" at {bind} {place}: '
                f'"auth: none" allows anonymous access{named}'
            )
            yield Issue(("routes", name, "auth"), text, "E022")


def public_listeners(config: Config, name: str) -> list[str]:
    """Return the listeners through which more than this host can reach a route."""
    return [key for key in listeners_of(config, name) if not _is_local_only(config.listeners[key])]


def _is_local_only(listener: ListenerConfig) -> bool:
    """Return whether only this host can reach a listener, also through the proxies that it names."""
    return listener.bind.is_literal_loopback and listener.trusted_proxies is None


def _check_unusable_auth(config: Config) -> Iterator[Issue]:
    """Authentication methods that can never succeed, or that any web page could use."""
    for name, route in config.routes.items():
        steps: KeyPath = ("routes", name, "auth")
        if route.allowed_origins == "any" and route.accepts_cookies():
            text = "cannot be any on a route that accepts cookies: browsers send them for every page"
            yield Issue(("routes", name, "allowed_origins"), text, "E026")
        if route.auth is None or route.auth.kind == "none":
            continue
        named = raw_listeners_of(config, name)
        if named and route.auth.needs_request():
            text = f'needs a request over HTTP, but the listener "{named[0]}" has protocol: tcp and leads here'
            yield Issue(steps, text, "E025")


def _check_client_certificates(config: Config, names: WrittenNames) -> Iterator[Issue]:
    """Client certificate authentication on listeners that do not request certificates."""
    for name, route in config.routes.items():
        if route.auth is None:
            continue
        leading = [key for key in listeners_of(config, name) if names.is_sound("listeners", key)]
        without = [key for key in leading if (tls := config.listeners[key].tls) is None or tls.client_ca is None]
        for steps, way in walk_auth(route.auth, ("routes", name, "auth")):
            needed = way is route.auth or without == leading
            if without and needed and way.needs_certificate():
                text = f'needs a client certificate, and the listener "{without[0]}" has no tls: {{client_ca: …}}'
                yield Issue(steps, f"{text} to ask for one", "E028")
                break


def walk_auth(auth: AuthSection, steps: KeyPath) -> Iterator[tuple[KeyPath, AuthSection]]:
    """Give an authentication method and all that it combines, with the path of each."""
    yield steps, auth
    for at, member in enumerate(auth.members()):
        yield from walk_auth(member, (*steps, auth.kind, at))


def _check_request_fields(config: Config) -> Iterator[Issue]:
    """Backends chosen by a request, which plain TCP clients do not send."""
    for name, route in config.routes.items():
        named = raw_listeners_of(config, name)
        if route.backend is None or not named:
            continue
        field = next((field for field in route.backend.fields if is_request_field(field)), None)
        if field is not None:
            text = f'{{{field}}} is of a request, but the listener "{named[0]}" has protocol: tcp and leads here'
            yield Issue(("routes", name, "backend"), text, "E041")


@dataclass(frozen=True, slots=True)
class _Binding:
    """A section that binds an address, as messages call it."""

    path: KeyPath
    shown: str
    bind: BindAddress
    ipv6_only: bool = False


def _check_bind_conflicts(config: Config) -> Iterator[Issue]:
    """Listeners and endpoints with conflicting addresses."""
    bindings = [
        _Binding(("listeners", name), f'the listener "{name}"', listener.bind, listener.ipv6_only)
        for name, listener in config.listeners.items()
    ]
    for name, section in (("admin", config.admin), ("monitoring", config.monitoring)):
        if section is not None:
            bindings.append(_Binding((name,), name, section.bind))
    places: dict[tuple[str, str | int], list[_Binding]] = {}
    for binding in bindings:
        if (place := _place_of(binding.bind)) is not None:
            places.setdefault(place, []).append(binding)
    pairs = (pair for found in places.values() for pair in combinations(found, 2))
    for one, other in pairs:
        if _binds_conflict(one, other):
            both = {str(one.bind.ip), str(other.bind.ip)} == set(WILDCARD_HOSTS)
            hint = "; [::] accepts IPv4 as well, unless it has ipv6_only: true" if both else ""
            text = f"{other.bind} is taken by {one.shown} at {one.bind}{hint}"
            yield Issue((*other.path, "bind"), text, "E023")


def _place_of(bind: BindAddress) -> tuple[str, str | int] | None:
    """Return what two addresses have in common if they conflict; None if an address conflicts with none."""
    if bind.kind == "fd":
        return bind.kind, bind.name
    if bind.kind == "unix":
        return bind.kind, real_socket_path(bind.path)
    return (bind.kind, bind.port) if bind.port else None


def _binds_conflict(one: _Binding, other: _Binding) -> bool:
    """Return whether two addresses with one place conflict."""
    a, b = one.bind, other.bind
    return (
        a.kind != "tcp"
        or bool(_bind_hosts(a) & _bind_hosts(b))
        or (bool(_ip_versions(one) & _ip_versions(other)) and (a.host in WILDCARD_HOSTS or b.host in WILDCARD_HOSTS))
    )


def real_socket_path(path: str) -> str:
    """Return the path of a socket without symbolic links in its directory, such as that of /var/run."""
    return posixpath.join(os.path.realpath(posixpath.dirname(path)), posixpath.basename(path))


def _bind_hosts(bind: BindAddress) -> set[str]:
    """The addresses to bind, as text that can be compared."""
    host = bind.host.lower().rstrip(".")
    return {"127.0.0.1", "::1"} if host == "localhost" else {str(bind.ip or host)}


def _ip_versions(binding: _Binding) -> set[int]:
    """The IP versions of an address to bind; a name may mean both."""
    ip = binding.bind.ip
    if ip is None or (binding.bind.host == "::" and not binding.ipv6_only):
        return {4, 6}
    return {ip.version}


def _routes_by_listener(config: Config) -> dict[str, list[str]]:
    """Return the routes that each listener leads to."""
    found: dict[str, list[str]] = {name: [] for name in config.listeners}
    for route in config.routes:
        for name in listeners_of(config, route):
            found[name].append(route)
    return found


def _check_exposure(config: Config, names: WrittenNames) -> Iterator[Issue]:
    """Listeners that other hosts or users can reach without TLS or authentication."""
    routes_of = _routes_by_listener(config)
    public = {route for name, one in config.listeners.items() if not _is_local_only(one) for route in routes_of[name]}
    for name, listener in config.listeners.items():
        if not names.is_sound("listeners", name):
            continue
        if listener.bind.kind == "unix":
            if listener.mode & 0o006:
                text = f"the mode {listener.mode:04o} allows every user of this host to use the socket"
                yield Issue(("listeners", name, "mode"), text, "W010")
        elif listener.tls is not None:
            continue
        elif _is_local_only(listener) and listener.protocol == "websocket":
            yield from _check_local_listener(config, name, [key for key in routes_of[name] if key not in public])
        elif not listener.bind.is_loopback:
            yield from _check_public_listener(config, name, routes_of[name])


def _check_local_listener(config: Config, name: str, keys: Iterable[str]) -> Iterator[Issue]:
    for key in keys:
        route = config.routes[key]
        if route.backend is not None and route.auth is None:
            text = (
                f'has no auth, and the listener "{name}" has no TLS: a reverse proxy on this host would expose it; '
                'if that is intended, write "auth: none"'
            )
            yield Issue(("routes", key), text, "W001", at_key=True)


def _check_public_listener(config: Config, name: str, keys: list[str]) -> Iterator[Issue]:
    path: KeyPath = ("listeners", name, "bind")
    can, are = ("may", "may be") if config.listeners[name].bind.kind == "fd" else ("can", "are")
    routes = {key: config.routes[key] for key in keys if config.routes[key].auth is not None}
    is_open = [
        key
        for key, route in routes.items()
        if route.backend is not None and route.auth is not None and route.auth.allows_everyone()
    ]
    if is_open:
        text = f"other hosts {can} reach {_quote_routes(is_open)} without TLS and without authentication"
        yield Issue(path, text, "W005")
    overheard = [key for key, route in routes.items() if route.auth is not None and route.auth.identifies_clients()]
    if overheard and config.listeners[name].trusted_proxies is None:  # else TLS may end in front
        yield Issue(path, f"credentials for {_quote_routes(overheard)} {are} sent over the network without TLS", "W016")
    resumable = [key for key in keys if config.routes[key].resume is not None]
    if resumable and config.listeners[name].trusted_proxies is None:
        text = (
            f"sessions of {_quote_routes(resumable)} can be taken over by anyone who reads the network traffic: no TLS"
        )
        yield Issue(path, text, "W036")


def _check_unused_listeners(config: Config) -> Iterator[Issue]:
    """Listeners whose requests no route matches."""
    used = {name for route in config.routes.values() for name in matching_listeners(config, route)}
    for name, listener in config.listeners.items():
        if listener.protocol == "websocket" and name not in used:
            text = "no route matches requests of this listener: all get 404"
            yield Issue(("listeners", name), text, "W011", at_key=True)


def _check_risky_settings(config: Config) -> Iterator[Issue]:
    """Settings that allow everybody, or keep dead connections open."""
    sections: list[tuple[KeyPath, RouteTimeouts]] = [(("timeouts",), config.timeouts)]
    sections += [(("routes", name, "timeouts"), route.timeouts) for name, route in config.routes.items()]
    for steps, timeouts in sections:
        if "ping_interval" in timeouts.model_fields_set and timeouts.ping_interval is None:
            text = "without pings, dead peers keep their connection open until TCP detects them"
            yield Issue((*steps, "ping_interval"), text, "W006")
        if "write" in timeouts.model_fields_set and timeouts.write is None:
            yield Issue((*steps, "write"), "stalled peers keep their connection open forever", "W007")
    for name, route in config.routes.items():
        asks_for_reset = "on_client_lost" in route.model_fields_set and route.on_client_lost == "reset"
        if asks_for_reset and route.backend is not None and route.backend.kind == "unix":
            text = "a Unix socket has no reset: the service sees an end of file, as if the client had finished"
            yield Issue(("routes", name, "on_client_lost"), text, "W030")
        if "null" in route.allowed_origins:
            at = route.allowed_origins.index("null")
            text = 'every page can have the origin "null"'
            yield Issue(("routes", name, "allowed_origins", at), text, "W003")
        if route.allowed_origins == "any":
            text = "every page that a user of this route opens may connect to it"
            yield Issue(("routes", name, "allowed_origins"), text, "W003")


def _check_secret_permissions(config: Config) -> Iterator[Issue]:
    """Secret files that every user of this host can read."""
    for steps, section in walk_sections(config):
        for name in type(section).model_fields:
            for inner, secret in _find_secrets(getattr(section, name), (*steps, name)):
                with contextlib.suppress(OSError):  # it may be gone again
                    if secret.file is not None and secret.file.stat().st_mode & stat.S_IROTH:
                        yield Issue(inner, f"every user of this host can read the secret in {secret.file}", "W012")


def _find_secrets(value: object, steps: KeyPath) -> Iterator[tuple[KeyPath, Secret]]:
    if isinstance(value, Secret):
        yield steps, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _find_secrets(inner, (*steps, key))
    elif isinstance(value, tuple):
        for at, inner in enumerate(value):
            yield from _find_secrets(inner, (*steps, at))


MAX_QUOTED_ROUTES = 5


def _quote_routes(names: list[str]) -> str:
    """Name routes in a message, of many only the first."""
    shown = ", ".join(f'"{name}"' for name in names[:MAX_QUOTED_ROUTES])
    more = len(names) - MAX_QUOTED_ROUTES
    return ("the route " if len(names) == 1 else "the routes ") + shown + (f" and {more} more" if more > 0 else "")
