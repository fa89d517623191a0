"""Reach: which listeners lead to a route, and which routes can never be reached.

Lives here: the comparison of matches. A route is told unreachable only where one earlier route takes all of its
requests at each listener and host, so nothing that works is refused. Must not live here: matching of requests.
"""

from __future__ import annotations

from itertools import product

from wsbridge.config.model import Config, Match, Route
from wsbridge.protocol.target import PathPattern


def match_of(route: Route) -> Match | None:
    """Give what a route matches; `any` matches as if nothing were asked for."""
    return Match() if route.match == "any" else route.match


def matching_listeners(config: Config, route: Route) -> list[str]:
    """Name the listeners whose requests a route may match: those that speak websocket."""
    match = match_of(route)
    if match is None:
        return []
    return [
        name
        for name, listener in config.listeners.items()
        if listener.speaks == "websocket" and (match.listener is None or name in match.listener)
    ]


def naming_listeners(config: Config, name: str) -> list[str]:
    """Name the listeners that speak tcp and send all their connections to a route."""
    return [key for key, listener in config.listeners.items() if listener.speaks == "tcp" and listener.route == name]


def leading_listeners(config: Config, name: str) -> list[str]:
    """Name all listeners that lead to a route."""
    leading = {*matching_listeners(config, config.routes[name]), *naming_listeners(config, name)}
    return [key for key in config.listeners if key in leading]


def shadows(config: Config, name: str) -> list[str] | None:
    """Tell which earlier routes take every request that a route could match.

    Returns:
        Their names, or None where something is left to the route.
    """
    route = config.routes[name]
    match = match_of(route)
    listeners = matching_listeners(config, route)
    if match is None or not listeners:
        return None
    earlier = []
    for other, candidate in config.routes.items():
        if other == name:
            break
        if (candidate.backend is None) == (route.backend is None):
            earlier.append((other, candidate))
    found: list[str] = []
    for listener, host in product(listeners, match.host or (None,)):
        taker = next((other for other, route in earlier if _takes(config, route, listener, host, match.path)), None)
        if taker is None:
            return None
        found.append(taker)
    return list(dict.fromkeys(found))


def _takes(config: Config, route: Route, listener: str, host: str | None, path: str | None) -> bool:
    match = match_of(route)
    return (
        match is not None
        and listener in matching_listeners(config, route)
        and (match.host is None or host in match.host)
        and _covers(match.path, path)
    )


def _covers(wide: str | None, narrow: str | None) -> bool:
    """Tell whether one path pattern takes all that another takes."""
    if wide is None or wide == "/*":
        return True
    if narrow is None:
        return False
    return PathPattern(wide).covers(PathPattern(narrow))
