"""Which requests a route matches, and where they go."""

from __future__ import annotations

import pytest

from tests.config.loading import LISTENERS, read, wrong
from wsbridge.config.route import BACKEND_ONLY_KEYS, MatchConfig

ROUTE = "listeners: {{web: {{bind: 127.0.0.1:80}}}}\nroutes:\n  r: {{{}}}\n"


@pytest.mark.parametrize(
    ("route", "path", "message"),
    [
        ("match: any", "routes.r", "needs one of backend, files, respond and issue_tickets"),
        ("match: any, bakend: 'tcp://a:1'", "routes.r.bakend", 'unknown key (did you mean "backend"?)'),
        ("match: any, respond: 204, files: /x", "routes.r.respond", "conflicts with files: a route has one of them"),
        (
            "match: any, respond: 204, allowed_origins: any",
            "routes.r.allowed_origins",
            "has no effect on a route with respond",
        ),
        ("path: /x, match: any, respond: 204", "routes.r.path", 'unknown key (it belongs under "match")'),
        (
            "match: /vnc, respond: 204",
            "routes.r.match",
            '"/vnc" is neither "any" nor a mapping with listener, host and path; write {path: /vnc}',
        ),
        ("match: all, respond: 204", "routes.r.match", '"all" is neither "any" nor a mapping'),
        ("match: {}, respond: 204", "routes.r.match", 'is empty: write "any" to match every request'),
        ("match: [any], respond: 204", "routes.r.match", "must be a mapping"),
        ("match: {path: x}, respond: 204", "routes.r.match.path", "a path begins with a slash"),
        ("match: {path: /a/*/b}, respond: 204", "routes.r.match.path", "a star may only be the last segment"),
        ("match: {path: /a//b}, respond: 204", "routes.r.match.path", "'/a//b' would never match"),
        ("match: {listener: []}, respond: 204", "routes.r.match.listener", "needs at least one entry"),
        ("match: any, backend: 10.0.0.5:1", "routes.r.backend", "must be of the form tcp://"),
        ("match: any, backend: [a]", "routes.r.backend", "must be a URL such as"),
        ("match: any, backend: {ca: x}", "routes.r.backend.url", "is missing"),
        ("match: any, backend: {url: 'tcp://a:1', ca: x}", "routes.r.backend.ca", "unknown key"),
        ("match: any, backend: {url: 'ws://a', text: x}", "routes.r.backend.text", "unknown key"),
        (
            "match: any, backend: 'tcp://a:1', allowed_origins: https://x",
            "routes.r.allowed_origins",
            '"https://x" is not one of same or any; write a list of origins: ["https://x"]',
        ),
        (
            "match: any, backend: 'tcp://a:1', allowed_origins: app.example.org",
            "routes.r.allowed_origins",
            '"app.example.org" is not one of same or any; write a list of origins: ["https://app.example.org"]',
        ),
        (
            "match: any, backend: 'tcp://a:1', allowed_origins: app.example.org/path",
            "routes.r.allowed_origins",
            '"app.example.org/path" is not one of same or any; write a list of origins: ["https://app.example.org"]',
        ),
        (
            "match: any, backend: 'tcp://a:1', allowed_origins: 'http://*.example.org:8080/'",
            "routes.r.allowed_origins",
            '"http://*.example.org:8080/" is not one of same or any; write a list of origins: ["http://*.example.org:8080"]',
        ),
        (
            "match: any, backend: 'tcp://a:1', allowed_origins: //example.org/x",
            "routes.r.allowed_origins",
            '"//example.org/x" is not one of same or any; write a list of origins such as ["https://gw.example.org"]',
        ),
        (
            "match: any, backend: 'tcp://a:1', allowed_origins: ['*']",
            "routes.r.allowed_origins[0]",
            '"*" is not an origin: write any in place of the list',
        ),
        (
            "match: any, backend: 'tcp://a:1', allowed_origins: []",
            "routes.r.allowed_origins",
            "needs at least one entry",
        ),
        (
            "match: any, backend: 'ws://a/', text_messages: bytes",
            "routes.r.text_messages",
            "bytes cannot be sent as text messages to a WebSocket backend",
        ),
        (
            "match: any, backend: 'tcp://a:1', on_client_fin: hold",
            "routes.r.on_client_fin",
            "hold needs a WebSocket backend",
        ),
        (
            "match: any, auth: none, backend: 'ws://a/', on_client_fin: hold",
            "routes.r.on_client_fin",
            "hold needs a listener with",
        ),
        ("match: any, backend: {url: 'ws://a', messages: x}", "routes.r.backend.messages", '"x" is not one of'),
        ("match: any, backend: {url: 'ws://a', resume: on}", "routes.r.backend.resume", '"on" is not one of'),
        (
            "match: any, backend: {url: 'ws://a', resume: auto, messages: text}",
            "routes.r.backend.resume",
            "auto has no effect with messages: text",
        ),
        ("match: any, backend: 'tcp://a:1', subprotocols: a", "routes.r.subprotocols", "must be a list"),
        ("match: any, backend: 'tcp://a:1', subprotocols: any", "routes.r.subprotocols", "any is only for ws and wss"),
        ("match: any, backend: 'tcp://a:1', subprotocols: [a, a]", "routes.r.subprotocols", '"a" is a duplicate'),
        (
            "match: any, backend: 'tcp://a:1', subprotocols: [wsbridge.token.x]",
            "routes.r.subprotocols[0]",
            "what begins with wsbridge.token. carries a token of the client and is never answered",
        ),
        ("match: any, backend: 'tcp://a:1', subprotocols: ['a b']", "routes.r.subprotocols[0]", '"a b" has characters'),
        ("match: any, respond: 101", "routes.r.respond", "101 is not a final status"),
        ("match: any, respond: 204, auth: kerberos", "routes.r.auth", '"kerberos" is unknown: write "none"'),
        ("match: any, respond: 204, auth: {knd: none}", "routes.r.auth.knd", 'unknown key (did you mean "kind"?)'),
        (
            "match: any, respond: 204, auth: {type: basic, users: u}",
            "routes.r.auth.type",
            'unknown key (did you mean "kind"?)',
        ),
        ("match: any, respond: 204, auth: {users: u}", "routes.r.auth.kind", "is missing"),
        (
            "match: any, respond: 204, auth: {basic: users}",
            "routes.r.auth.basic",
            "unknown key: the name of a method is the value of kind; write {kind: basic, users: …}",
        ),
        (
            "match: any, respond: 204, auth: {any_of: [{jwt: {issuer: i}}, none]}",
            "routes.r.auth.any_of[0].jwt",
            "unknown key: the name of a method is the value of kind; write {kind: jwt, keys: …, issuer: …, audience:",
        ),
        (
            "match: any, upstream: 'tcp://a:1', respond: 204",
            "routes.r.upstream",
            'unknown key (did you mean "backend"?)',
        ),
        ("match: any, respond: 204, auth: {kind: none, x: y}", "routes.r.auth.x", "unknown key"),
        (
            "match: any, backend: 'tcp://a:1', timeouts: {handshake: 1s}",
            "routes.r.timeouts.handshake",
            "unknown key: no route is known yet when it counts; write it in timeouts at the top",
        ),
    ],
)
def test_mistakes_in_routes(route: str, path: str, message: str) -> None:
    """Each mistake in a route gives one problem, with the path of the key and what to write."""
    problems = wrong(ROUTE.format(route))
    assert [problem.setting for problem in problems] == [path]
    assert problems[0].message.startswith(message)


def test_timeouts_of_a_route_replace_those_it_writes() -> None:
    """A route has the timeouts of the whole file but for those it writes, `off` included."""
    config = read(
        LISTENERS
        + "routes: {vnc: {match: any, backend: 'tcp://a:1', auth: none, timeouts: {ping_interval: off, idle: 1h}}}\n"
        + "timeouts: {ping_interval: 5s, ping_timeout: 7s, handshake: 3s}\n"
    ).config
    timeouts = config.routes["vnc"].effective_timeouts(config.timeouts)
    assert (timeouts.ping_interval, timeouts.idle, timeouts.ping_timeout, timeouts.handshake) == (
        None,
        3600.0,
        7.0,
        3.0,
    )


def test_what_a_route_does_by_default() -> None:
    """Every key but the goal has its default."""
    route = read(LISTENERS + "routes: {r: {match: any, backend: 'tcp://a:1'}}\n").config.routes["r"]

    assert (route.files, route.respond, route.auth) == (None, None, None)
    assert (route.allowed_origins, route.subprotocols, route.text_messages) == ("same", ("binary",), "accept")
    assert (route.dial.when, route.on_client_close, route.on_client_lost) == ("before-upgrade", "discard", "reset")
    assert route.dial.retry_for == 0
    assert route.timeouts.model_fields_set == set()


@pytest.mark.parametrize("key", BACKEND_ONLY_KEYS)
@pytest.mark.parametrize("goal", ["respond: 204", "files: ."])
def test_what_only_a_backend_uses_is_refused_beside_another_goal(key: str, goal: str) -> None:
    """Each key that would be ignored is an error at that key, whatever its value."""
    problems = wrong(LISTENERS + f"routes: {{r: {{match: any, auth: none, {goal}, {key}: x}}}}\n")

    said = f"has no effect on a route with {goal.partition(':')[0]}"
    assert (f"routes.r.{key}", said) in [(problem.setting, problem.message) for problem in problems]


@pytest.mark.parametrize(
    ("written", "host"), [("a.example", ("a.example",)), ("[a.example, B.example]", ("a.example", "b.example"))]
)
def test_hosts_one_or_many(written: str, host: tuple[str, ...]) -> None:
    """One host means a list of one, and case does not count."""
    config = read(LISTENERS + f"routes: {{r: {{match: {{host: {written}}}, respond: 204, auth: none}}}}\n").config

    assert isinstance(config.routes["r"].match, MatchConfig)
    assert config.routes["r"].match.host == host


def test_a_route_without_timeouts_shares_those_of_the_file() -> None:
    """Nothing is copied where nothing differs."""
    config = read(LISTENERS + "routes: {r: {match: any, respond: 204, auth: none}}\ntimeouts: {idle: 1h}\n").config

    assert config.routes["r"].effective_timeouts(config.timeouts) is config.timeouts


def test_a_held_close_needs_a_plain_client_and_a_websocket_backend() -> None:
    """Nowhere else is there a FIN that would become a Close."""
    listener = "listeners: {old: {bind: 127.0.0.1:80, protocol: tcp, route: r}}\n"
    config = read(listener + "routes: {r: {backend: 'ws://a/', on_client_fin: hold}}\n").config
    assert config.routes["r"].on_client_fin == "hold"


def test_a_reset_that_a_unix_socket_does_not_have() -> None:
    """Where it is asked for, a warning says that the backend sees an end of file."""
    text = "listeners: {w: {bind: 127.0.0.1:80}}\nroutes: {r: {match: any, backend: 'unix:/s', auth: none%s}}\n"
    for keys, warned in (("", False), (", on_client_lost: reset", True), (", on_client_lost: fin", False)):
        codes = [warning.code for warning in read(text % keys).warnings]
        assert ("W030" in codes) is warned
