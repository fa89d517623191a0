"""Check: the rules between sections, and the warnings.

Lives here: what one section alone cannot know: names, addresses, who can reach what. Must not live here: the rules
inside of a section (beside it). All of it is told as faults; `load` gives them their places.
"""

from __future__ import annotations

import contextlib
import posixpath
import stat
from collections.abc import Iterator
from itertools import combinations

from pydantic import BaseModel

from wsbridge.config.issuing import issuing
from wsbridge.config.model import Config, Listener, RouteTimeouts
from wsbridge.config.problems import did_you_mean
from wsbridge.config.reach import leading_listeners, matching_listeners, naming_listeners, shadows
from wsbridge.config.secret import Secret
from wsbridge.config.section import AuthSection, Context, Fault, Section, Steps
from wsbridge.config.template import by_request

ANY = {"0.0.0.0": 4, "::": 6}
"""Addresses that stand for all of a family."""


def check(config: Config, context: Context) -> list[Fault]:
    """Find all that is wrong or risky between the sections of a configuration."""
    return [
        *_names(config),
        *_addresses(config),
        *_unreachable(config),
        *_auth_missing(config),
        *_auth_idle(config),
        *issuing(config),
        *_uncertified(config),
        *_unasked(config),
        *_open_doors(config, context),
        *_waiting(config),
        *_readable_secrets(config),
        *(fault for steps, section in walk(config) for fault in _placed(steps, section, context)),
    ]


def walk(section: BaseModel, steps: Steps = ()) -> Iterator[tuple[Steps, Section]]:
    """Give a section and all that stand inside of it, with the steps that lead to each."""
    if isinstance(section, Section):
        yield steps, section
    for name in type(section).model_fields:
        yield from _walk_value(getattr(section, name), (*steps, name))


def _walk_value(value: object, steps: Steps) -> Iterator[tuple[Steps, Section]]:
    if isinstance(value, Section):
        yield from walk(value, steps)
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _walk_value(inner, (*steps, key))
    elif isinstance(value, tuple):
        for at, inner in enumerate(value):
            yield from _walk_value(inner, (*steps, at))


def _placed(steps: Steps, section: Section, context: Context) -> Iterator[Fault]:
    for fault in section.cautions(context):
        yield Fault((*steps, *fault.steps), fault.message, fault.code, fault.at_key)


def _names(config: Config) -> Iterator[Fault]:
    """Names that routes and listeners call each other by."""
    for name, listener in config.listeners.items():
        if listener.route is None:
            continue
        steps: Steps = ("listeners", name, "route")
        route = config.routes.get(listener.route)
        if route is None:
            guess = did_you_mean(listener.route, config.routes)
            yield Fault(steps, f'there is no route "{listener.route}"{guess}', "E020")
        elif route.backend is None:
            text = f'the route "{listener.route}" has no backend, and this listener speaks tcp'
            yield Fault(steps, text, "E024")
    for name, route in config.routes.items():
        if route.match is None or route.match == "any":
            continue
        for at, wanted in enumerate(route.match.listener or ()):
            steps = ("routes", name, "match", "listener", at)
            if wanted not in config.listeners:
                guess = did_you_mean(wanted, config.listeners)
                yield Fault(steps, f'there is no listener "{wanted}"{guess}', "E020")
            elif config.listeners[wanted].speaks == "tcp":
                text = f'the listener "{wanted}" speaks tcp: it names its route by route:, and nothing is matched there'
                yield Fault(steps, text, "E021")


def _unreachable(config: Config) -> Iterator[Fault]:
    """Routes that no request and no connection can come to."""
    for name, route in config.routes.items():
        steps: Steps = ("routes", name)
        if naming_listeners(config, name):
            continue
        if route.match is None:
            text = "nothing can reach this route: it has no match (any takes all), and no listener names it"
            yield Fault(steps, text, "E021", at_key=True)
        elif not matching_listeners(config, route):
            if route.match == "any" or route.match.listener is None:
                text = "nothing can reach this route: no listener speaks websocket"
                yield Fault((*steps, "match"), text, "E021", at_key=True)
        elif takers := shadows(config, name):
            text = f"nothing can reach this route: {_named(takers)} above takes all that it matches"
            yield Fault((*steps, "match"), text, "E021", at_key=True)


def _auth_missing(config: Config) -> Iterator[Fault]:
    """Routes that more than this host can reach, and of which is not written who may."""
    for name, route in config.routes.items():
        if route.auth is not None:
            continue
        public = [key for key in leading_listeners(config, name) if not _is_private(config.listeners[key])]
        if public and config.listeners[public[0]].trusted_proxies is not None:
            text = (
                f'must be written, since the listener "{public[0]}" is behind proxies: "auth: none" lets everybody in'
            )
            yield Fault(("routes", name, "auth"), text, "E022")
        elif public:
            bind = config.listeners[public[0]].bind
            named = "; localhost is a name and may mean others: write 127.0.0.1 or [::1]" if bind.is_loopback else ""
            text = (
                f'must be written, since the listener "{public[0]}" at {bind} is not on a loopback address: '
                f'"auth: none" lets everybody in{named}'
            )
            yield Fault(("routes", name, "auth"), text, "E022")


def _is_private(listener: Listener) -> bool:
    """Tell whether nobody but this host reaches a listener, not even through a proxy that it knows of."""
    return listener.bind.is_literal_loopback and listener.trusted_proxies is None


def _auth_idle(config: Config) -> Iterator[Fault]:
    """Ways of authentication that could never let anybody in, or would let in whoever another page brings."""
    for name, route in config.routes.items():
        steps: Steps = ("routes", name, "auth")
        if route.auth is None or route.auth.kind == "none":
            continue
        named = naming_listeners(config, name)
        if named and route.auth.needs_request():
            text = f'needs a request over HTTP, but the listener "{named[0]}" speaks tcp and sends its clients here'
            yield Fault(steps, text, "E025")
        if route.auth.takes_cookies() and route.origins == "any":
            text = "cannot be any where a cookie lets in: browsers send it along for every page"
            yield Fault(("routes", name, "origins"), text, "E026")


def _uncertified(config: Config) -> Iterator[Fault]:
    """Ways of authentication by certificate, where clients are asked for none."""
    for name, route in config.routes.items():
        if route.auth is None:
            continue
        leading = leading_listeners(config, name)
        without = [key for key in leading if (tls := config.listeners[key].tls) is None or tls.client_ca is None]
        for steps, way in _ways(route.auth, ("routes", name, "auth")):
            needed = way is route.auth or without == leading
            if without and needed and way.needs_certificate():
                text = f'needs a client certificate, and the listener "{without[0]}" has no tls: {{client_ca: …}}'
                yield Fault(steps, f"{text} to ask for one", "E028")
                break


def _ways(way: AuthSection, steps: Steps) -> Iterator[tuple[Steps, AuthSection]]:
    """Give a way of authentication and all that it holds, with the steps that lead to each."""
    yield steps, way
    for at, member in enumerate(way.members()):
        yield from _ways(member, (*steps, way.kind, at))


def _unasked(config: Config) -> Iterator[Fault]:
    """Backends that are chosen by what a client of plain TCP cannot say."""
    for name, route in config.routes.items():
        named = naming_listeners(config, name)
        if route.backend is None or not named:
            continue
        field = next((field for field in route.backend.fields if by_request(field)), None)
        if field is not None:
            text = f'{{{field}}} is of a request, but the listener "{named[0]}" speaks tcp and sends its clients here'
            yield Fault(("routes", name, "backend"), text, "E041")


def _addresses(config: Config) -> Iterator[Fault]:
    """Listeners that the system could not open side by side."""
    for (first, one), (second, other) in combinations(config.listeners.items(), 2):
        if _collide(one, other):
            both = {str(one.bind.ip), str(other.bind.ip)} == set(ANY)
            hint = "; [::] takes IPv4 as well, unless it has ipv6_only: true" if both else ""
            text = f'{other.bind} is taken by the listener "{first}" at {one.bind}{hint}'
            yield Fault(("listeners", second, "bind"), text, "E023")


def _collide(one: Listener, other: Listener) -> bool:
    a, b = one.bind, other.bind
    if a.kind != b.kind:
        return False
    if a.kind == "unix":
        return posixpath.normpath(a.path) == posixpath.normpath(b.path)
    if a.port != b.port or a.port == 0:
        return False
    return bool(_spans(one) & _spans(other)) or (
        bool(_families(one) & _families(other)) and (a.host in ANY or b.host in ANY)
    )


def _spans(listener: Listener) -> set[str]:
    """The addresses that a listener takes, as text that can be compared."""
    host = listener.bind.host.lower().rstrip(".")
    return {"127.0.0.1", "::1"} if host == "localhost" else {str(listener.bind.ip or host)}


def _families(listener: Listener) -> set[int]:
    """The IP versions that a listener takes; a name may stand for both."""
    ip = listener.bind.ip
    if ip is None:
        return {4, 6}
    if listener.bind.host == "::" and not listener.ipv6_only:
        return {4, 6}
    return {ip.version}


def _open_doors(config: Config, context: Context) -> Iterator[Fault]:
    """Who may come in without being asked."""
    nobody_asked = context.kinds.auth.get("none")
    for name, listener in config.listeners.items():
        if listener.bind.kind == "unix":
            if listener.mode & 0o006:
                text = f"the mode {listener.mode:04o} lets every user of this host use the socket"
                yield Fault(("listeners", name, "mode"), text, "W010")
            continue
        routes = {key: route for key, route in config.routes.items() if name in leading_listeners(config, key)}
        bridges = {key: route for key, route in routes.items() if route.backend is not None}
        if listener.tls is not None:
            continue
        if _is_private(listener) and listener.speaks == "websocket":
            for key in [key for key, route in bridges.items() if route.auth is None]:
                text = (
                    f'has no auth, and the listener "{name}" has no TLS: a proxy on this host would publish it; '
                    'if that is meant, write "auth: none"'
                )
                yield Fault(("routes", key), text, "W001", at_key=True)
        elif not listener.bind.is_loopback:
            unasked = [key for key, route in bridges.items() if nobody_asked and isinstance(route.auth, nobody_asked)]
            if unasked:
                text = f"other hosts can reach {_named(unasked)} here without TLS and without being asked who they are"
                yield Fault(("listeners", name, "bind"), text, "W005")
            overheard = [key for key, route in routes.items() if route.auth is not None and route.auth.names_clients()]
            if overheard and listener.trusted_proxies is None:  # else TLS may end in front
                text = f"what proves to {_named(overheard)} who a client is goes over the network here without TLS"
                yield Fault(("listeners", name, "bind"), text, "W016")


def _waiting(config: Config) -> Iterator[Fault]:
    """Settings that let in everybody, or keep what should end."""
    for name, listener in config.listeners.items():
        if listener.speaks == "websocket" and not any(
            name in matching_listeners(config, route) for route in config.routes.values()
        ):
            yield Fault(
                ("listeners", name), "no route takes requests of this listener: all get 404", "W011", at_key=True
            )
    sections: list[tuple[Steps, RouteTimeouts]] = [(("timeouts",), config.timeouts)]
    sections += [(("routes", name, "timeouts"), route.timeouts) for name, route in config.routes.items()]
    for steps, timeouts in sections:
        if "ping" in timeouts.model_fields_set and timeouts.ping is None:
            text = "without pings, peers that vanished hold their connection until TCP notices"
            yield Fault((*steps, "ping"), text, "W006")
        if "write" in timeouts.model_fields_set and timeouts.write is None:
            yield Fault((*steps, "write"), "peers that take nothing hold their connection for ever", "W007")
    for name, route in config.routes.items():
        if "null" in route.origins:
            at = route.origins.index("null")
            text = 'every page can take the origin "null"'
            yield Fault(("routes", name, "origins", at), text, "W003")
        if route.origins == "any":
            text = "every page that a user of this route opens may connect to it"
            yield Fault(("routes", name, "origins"), text, "W003")


def _readable_secrets(config: Config) -> Iterator[Fault]:
    """Files of secrets that are none to this host's users."""
    for steps, section in walk(config):
        for name in type(section).model_fields:
            for inner, secret in _secrets(getattr(section, name), (*steps, name)):
                with contextlib.suppress(OSError):  # it may be gone again
                    if secret.file is not None and secret.file.stat().st_mode & stat.S_IROTH:
                        yield Fault(inner, f"every user of this host can read the secret in {secret.file}", "W012")


def _secrets(value: object, steps: Steps) -> Iterator[tuple[Steps, Secret]]:
    if isinstance(value, Secret):
        yield steps, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _secrets(inner, (*steps, key))
    elif isinstance(value, tuple):
        for at, inner in enumerate(value):
            yield from _secrets(inner, (*steps, at))


def _named(names: list[str]) -> str:
    return ("the route " if len(names) == 1 else "the routes ") + ", ".join(f'"{name}"' for name in names)
