"""Routes whose backend is a listener of the same configuration that leads back to the route.

```
route A ─ backend ─► listener b ─► route B ─ backend ─► listener a ─► route A
```

A chain of listeners that does not come back is accepted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address

from wsbridge.config.backend_urls import UrlTemplate
from wsbridge.config.base import Issue
from wsbridge.config.check import WILDCARD_HOSTS, effective_match, matching_listeners, real_socket_path
from wsbridge.config.listener import ListenerConfig
from wsbridge.config.local_address import is_local_ip
from wsbridge.config.model import Config
from wsbridge.config.route import RouteConfig
from wsbridge.config.unions import UrlBackendSection
from wsbridge.config.urls import BindAddress, Target
from wsbridge.protocol.ip import unmap
from wsbridge.protocol.pattern_tree import PatternIndex
from wsbridge.protocol.uri import HostPatterns, PathPattern, normalise_host, normalise_path

Step = tuple[str, str, bool]
"""A listener that a backend leads to, a route there, and whether every connection gets to that route."""


class _WebsocketRoutes:
    """The routes for WebSocket of a listener.

    Attributes:
        names: In the order of the file.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self._index = PatternIndex()

    def add(self, name: str, hosts: HostPatterns | None, path: PathPattern | None) -> None:
        """Add a route at the end."""
        self._index.add(hosts, path, len(self.names))
        self.names.append(name)

    def find(self, host: str, target: str) -> str | None:
        """Return the route of a request."""
        try:
            path = normalise_path(target.partition("?")[0])
        except ValueError:  # rejected there
            return None
        position = self._index.first_match(host, path)
        return None if position is None else self.names[position]


def check_loops(config: Config) -> Iterator[Issue]:
    """Find routes that a connection comes through again and again, and those where it depends on what clients send."""
    websocket_routes = {name: _WebsocketRoutes() for name in config.listeners}
    for name, route in config.routes.items():
        match = effective_match(route)
        if match is not None and route.backend is not None:
            hosts = None if match.host is None else HostPatterns(match.host)
            path = None if match.path is None else PathPattern(match.path)
            for listener in matching_listeners(config, route):
                websocket_routes[listener].add(name, hosts, path)
    steps = {name: list(_steps_from(config, route, websocket_routes)) for name, route in config.routes.items()}
    reported: set[str] = set()
    for certain in (True, False):
        for name, route in config.routes.items():
            loop = () if name in reported else _find_loop(name, steps, certain=certain)
            if loop and route.backend is not None:
                reported.update(step[1] for step in loop)
                where = f"{route.backend.text.partition('?')[0]} is the listener {_way(loop, name)}"
                if certain:
                    text = "every connection would open the next; write the address of the service behind wsbridge"
                    yield Issue(("routes", name, "backend", "url"), f"{where}: {text}", "E042")
                else:
                    text = "connections that come through a route twice are rejected (loop_detected)"
                    yield Issue(("routes", name, "backend", "url"), f"{where}: {text}", "W031")


def _way(loop: Sequence[Step], name: str) -> str:
    """Describe the way back: `"a" of this configuration and leads back to this route through the route "b"`."""
    through = ", ".join(f'"{route}"' for _, route, _ in loop if route != name)
    way = f" through the route{'s' if through.count(',') else ''} {through}" if through else ""
    return f'"{loop[0][0]}" of this configuration and leads back to this route{way}'


def _find_loop(name: str, steps: Mapping[str, Sequence[Step]], *, certain: bool) -> tuple[Step, ...]:
    """Return the shortest way from a route back to it; empty if there is none."""
    ways: list[tuple[Step, ...]] = [()]
    seen: set[str] = set()
    while ways:
        longer = []
        for way in ways:
            for step in steps[way[-1][1] if way else name]:
                if certain and not step[2]:
                    continue
                if step[1] == name:
                    return (*way, step)
                if step[1] not in seen:
                    seen.add(step[1])
                    longer.append((*way, step))
        ways = longer
    return ()


def _steps_from(config: Config, route: RouteConfig, websocket_routes: Mapping[str, _WebsocketRoutes]) -> Iterator[Step]:
    backend = route.backend
    if not isinstance(backend, UrlBackendSection) or getattr(backend, "proxy", None) is not None:
        return
    if isinstance(backend.url, UrlTemplate):  # own listeners are no targets for clients, unless they are allowed
        return
    for name, listener in config.listeners.items():
        if _is_bound(listener, backend.url) and _is_spoken(listener, backend):
            for found, certain in _routes_behind(config, name, backend, websocket_routes[name]):
                yield name, found, certain


def _is_spoken(listener: ListenerConfig, backend: UrlBackendSection) -> bool:
    """Return whether a listener accepts what a backend sends first: TLS and the PROXY header."""
    scheme = backend.url.scheme
    expects_proxy = listener.client_address_from == "proxy-protocol"
    if expects_proxy and getattr(backend, "proxy_protocol", None) is None:
        return False
    if listener.tls is not None:
        return scheme in ("tls", "wss", "tcp", "unix")
    return listener.protocol == "tcp" or scheme in ("ws", "tcp", "unix")


def _routes_behind(
    config: Config, name: str, backend: UrlBackendSection, websocket_routes: _WebsocketRoutes
) -> Iterator[tuple[str, bool]]:
    """Give the routes that a backend may get to at a listener, and whether it does so for certain."""
    listener, scheme = config.listeners[name], backend.url.scheme
    if listener.protocol == "tcp":
        if listener.route in config.routes:  # it dials at once, whatever is sent
            yield listener.route, listener.tls is None or scheme in ("tls", "wss")
        return
    if scheme not in ("ws", "wss") or getattr(backend, "pass_path", False):  # clients choose the path
        for key in websocket_routes.names:
            yield key, len(websocket_routes.names) == 1
        return
    found = websocket_routes.find(normalise_host(_host_sent(backend)) or "", backend.url.path)
    if found is not None:
        auth = config.routes[found].auth
        yield found, auth is None or not auth.requires_credentials()


def _host_sent(backend: UrlBackendSection) -> str:
    for key in ("host", "server_name"):
        written: str | None = getattr(backend, key, None)
        if written is not None:
            return written
    return backend.url.authority


def _is_bound(listener: ListenerConfig, target: Target) -> bool:
    """Return whether connecting to a target leads to a listener, as far as that is known without DNS."""
    bind, path = listener.bind, target.socket_path or (target.path if target.scheme == "unix" else "")
    if path or bind.kind == "unix":
        return bool(path and bind.path) and real_socket_path(bind.path) == real_socket_path(path)
    if bind.kind != "tcp" or bind.port == 0 or bind.port != target.port:
        return False
    if bind.host.lower().rstrip(".") == target.host.lower().rstrip("."):
        return True
    return any(_accepts(listener, ip) for ip in _addresses(target.host))


def _addresses(host: str) -> list[IPv4Address | IPv6Address]:
    """Return the addresses of a literal or of localhost; to connect to the unspecified address means loopback."""
    name = host.lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return [IPv4Address("127.0.0.1"), IPv6Address("::1")]
    ip = BindAddress("tcp", host.partition("%")[0]).ip
    if ip is None:
        return []
    if ip.is_unspecified:
        return [ip_address("127.0.0.1" if ip.version == 4 else "::1")]
    return [unmap(ip)]


def _accepts(listener: ListenerConfig, ip: IPv4Address | IPv6Address) -> bool:
    if listener.bind.host not in WILDCARD_HOSTS:
        return ip in _addresses(listener.bind.host)
    both = listener.bind.host == "::" and not listener.ipv6_only
    return (both or WILDCARD_HOSTS[listener.bind.host] == ip.version) and (ip.is_loopback or is_local_ip(str(ip)))
