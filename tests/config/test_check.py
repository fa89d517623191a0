"""The rules between sections, and the warnings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.auth.methods import Says
from tests.config.loading import BACKEND, LISTENERS, ROUTES, file, listeners, read, summaries, wrong
from wsbridge.config.errors import ConfigError
from wsbridge.config.load import load_text
from wsbridge.registry import CONFIG_REGISTRY


@pytest.mark.parametrize("bind", ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "localhost:1", "gw.example:1", "[fe80::1%lo]:1"])
@pytest.mark.parametrize("goal", [BACKEND, "respond: 204"])
def test_auth_must_be_written_where_others_can_come(bind: str, goal: str) -> None:
    """A route that a listener on no literal loopback address leads to needs a written auth."""
    (problem,) = wrong(file(listeners(bind), f"match: any, {goal}"))
    assert (problem.code, problem.setting, problem.line) == ("E022", "routes.r0.auth", 4)
    assert (
        f'the listener "l0" at {bind} is not on a loopback address: "auth: none" allows anonymous access'
        in problem.message
    )
    assert ("localhost is a name" in problem.message) == bind.startswith("localhost")
    read(file(listeners(bind), f"match: any, {goal}, auth: none"))


def test_passed_sockets_count_as_exposed() -> None:
    """Nothing is known of the address of a passed socket before the start, so that others may reach it."""
    (problem,) = wrong(file(listeners("fd:web"), f"match: any, {BACKEND}"))
    assert (problem.code, problem.setting) == ("E022", "routes.r0.auth")
    assert 'the listener "l0" at fd:web may have any address' in problem.message
    loaded = read(file(listeners("fd:web"), f"match: {{host: a}}, {BACKEND}, auth: none"))
    (warning,) = loaded.warnings
    assert (warning.code, warning.setting) == ("W005", "listeners.l0.bind")
    assert warning.message.startswith("other hosts may reach")


@pytest.mark.parametrize("section", ["admin: {bind: 'fd:web', token: {env: T}}", "monitoring: {bind: 'fd:web'}"])
def test_only_listeners_have_passed_sockets(section: str) -> None:
    """The admin API and the monitoring endpoint open their own."""
    problems = wrong(file(LISTENERS, f"match: any, {BACKEND}") + section)
    assert len([one for one in problems if one.message.startswith("fd:web is only for listeners")]) == 1


@pytest.mark.parametrize("bind", ["127.0.0.1:1", "[::1]:1", "unix:/s"])
def test_auth_may_be_left_out_where_only_this_host_comes(bind: str) -> None:
    """On loopback addresses and Unix paths a route starts without auth."""
    assert read(file(listeners(bind), f"match: any, {BACKEND}")).config.routes["r0"].auth is None


def test_one_public_listener_is_enough_to_need_auth() -> None:
    """A route needs auth as soon as one of its listeners is public, and not when its match leaves that one out."""
    both = listeners("127.0.0.1:1", "0.0.0.0:2")
    assert "E022 routes.r0.auth" in summaries(wrong(file(both, f"match: any, {BACKEND}")))
    loaded = read(file(both, f"match: {{listener: l0}}, {BACKEND}", f"match: any, {BACKEND}, auth: none"))
    assert "W001" in [warning.code for warning in loaded.warnings]


def test_a_public_tcp_listener_needs_auth_for_its_route() -> None:
    """The route that a listener names itself is reached by all who reach that listener."""
    text = f"listeners: {{l: {{bind: '0.0.0.0:1', protocol: tcp, route: r0}}}}\nroutes: {{r0: {{{BACKEND}}}}}\n"
    assert summaries(wrong(text)) == ["E022 routes.r0.auth"]


@pytest.mark.parametrize(
    ("binds", "collide"),
    [
        (("127.0.0.1:1", "127.0.0.1:1"), True),
        (("127.0.0.1:1", "127.0.0.1:2"), False),
        (("127.0.0.1:1", "127.0.0.2:1"), False),
        (("127.0.0.1:1", "0.0.0.0:1"), True),
        (("[::]:1", "0.0.0.0:1"), True),
        (("[::]:1", "127.0.0.1:1"), True),
        (("[::]:1", "[::1]:1"), True),
        (("[::1]:1", "0.0.0.0:1"), False),
        (("[::1]:1", "[0:0::1]:1"), True),
        (("localhost:1", "127.0.0.1:1"), True),
        (("localhost:1", "[::1]:1"), True),
        (("localhost:1", "0.0.0.0:1"), True),
        (("gw.example:1", "GW.example:1"), True),
        (("gw.example:1", "10.0.0.1:1"), False),
        (("127.0.0.1:0", "127.0.0.1:0"), False),
        (("unix:/a", "unix:/a"), True),
        (("unix:/a", "unix:/b/../a"), True),
        (("unix:/a", "unix:/b"), False),
        (("fd:a", "fd:a"), True),
        (("fd:a", "fd:b"), False),
    ],
)
def test_two_listeners_on_one_address(binds: tuple[str, str], collide: bool) -> None:
    """Listeners that could not be opened side by side are an error at the second, others are not."""
    text = file(listeners(*binds), f"match: any, {BACKEND}, auth: none")
    if not collide:
        read(text)
        return
    (problem,) = [problem for problem in wrong(text) if problem.severity == "error"]
    assert (problem.code, problem.setting) == ("E023", "listeners.l1.bind")
    assert 'is taken by the listener "l0"' in problem.message
    assert ("ipv6_only: true" in problem.message) == (binds == ("[::]:1", "0.0.0.0:1"))


@pytest.mark.parametrize(
    ("bind", "taken_by"),
    [
        ("127.0.0.1:9181", 'the listener "l0"'),
        ("localhost:9182", "admin"),
        ("unix:link/s", 'the listener "l1"'),
        ("127.0.0.1:9183", ""),
    ],
)
def test_endpoints_on_the_address_of_another(bind: str, taken_by: str, tmp_path: Path) -> None:
    """The admin API and the monitoring endpoint need addresses of their own; links in the path are followed."""
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to("run")
    text = listeners("127.0.0.1:9181", "unix:run/s") + ROUTES + "admin: {bind: '127.0.0.1:9182', token: {env: T}}\n"
    text += f"monitoring: {{bind: '{bind}'}}\n"
    if not taken_by:
        read(text, {"T": "x"}, tmp_path)
        return
    (problem,) = [problem for problem in wrong(text, {"T": "x"}, tmp_path) if problem.severity == "error"]
    assert (problem.code, problem.setting) == ("E023", "monitoring.bind")
    assert f"is taken by {taken_by} at " in problem.message


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ("bind: '[::ffff:127.0.0.1]:9181', token: {env: T}", []),
        ("bind: 'LOCALHOST.:9181', token: {env: T}", []),
        ("bind: '192.0.2.1:9181', token: {env: T}", ["E013 admin.bind"]),
        ("bind: 'unix:s'", []),
        ("bind: 'unix:s', mode: 0666", ["W010 admin.mode"]),
        ("bind: 'unix:s', mode: 0666, token: {env: T}", []),
    ],
)
def test_who_reaches_the_admin_api(settings: str, found: list[str]) -> None:
    """Other hosts never do; other users of this host only with a token, or with a warning."""
    text = LISTENERS + ROUTES + f"admin: {{{settings}}}\n"
    try:
        problems = read(text, {"T": "x"}).warnings
    except ConfigError as error:
        problems = error.problems
    assert summaries(problems) == found


def test_ipv6_only_leaves_ipv4_to_another() -> None:
    """With ipv6_only the same port may be used for IPv4."""
    text = "listeners: {a: {bind: '[::]:1', ipv6_only: true}, b: {bind: '0.0.0.0:1'}}\n"
    assert len(read(text + ROUTES).config.listeners) == 2


def test_a_route_without_match_needs_a_listener_that_names_it() -> None:
    """A route with no match that no listener names can never be reached."""
    (problem,) = wrong(file(LISTENERS, f"match: any, {BACKEND}, auth: none", f"{BACKEND}, auth: none"))
    assert (problem.code, problem.setting) == ("E021", "routes.r1")
    assert "it has no match" in problem.message


def test_a_route_needs_a_listener_that_speaks_websocket() -> None:
    """A match cannot match anything where no listener has protocol: websocket."""
    text = "listeners: {l: {bind: '127.0.0.1:1', protocol: tcp, route: r0}}\n"
    (problem,) = wrong(file(text, f"{BACKEND}, auth: none", f"match: any, {BACKEND}, auth: none"))
    assert (problem.code, problem.setting) == ("E021", "routes.r1.match")
    assert "no listener has protocol: websocket" in problem.message


def test_names_that_nothing_bears() -> None:
    """A listener or route that does not exist is an error where it is named, with a guess."""
    text = "listeners: {web: {bind: '127.0.0.1:1'}, old: {bind: '127.0.0.1:2', protocol: tcp, route: vcn}}\n"
    text += f"routes: {{vnc: {{match: {{listener: [web, wbe]}}, {BACKEND}, auth: none}}}}\n"
    assert [(p.code, p.setting, p.message) for p in wrong(text)] == [
        ("E020", "listeners.old.route", 'there is no route "vcn" (did you mean "vnc"?)'),
        ("E020", "routes.vnc.match.listener[1]", 'there is no listener "wbe" (did you mean "web"?)'),
    ]


def test_a_match_cannot_name_a_listener_that_speaks_tcp() -> None:
    """On a listener that speaks tcp nothing is matched; the message says how to reach the route from there."""
    text = "listeners: {web: {bind: '127.0.0.1:1'}, old: {bind: '127.0.0.1:2', protocol: tcp, route: r0}}\n"
    problems = wrong(file(text, f"match: {{listener: old}}, {BACKEND}, auth: none", "match: any, respond: 204"))
    assert [(p.code, p.setting) for p in problems] == [("E021", "routes.r0.match.listener")]


def test_a_tcp_listener_needs_a_backend() -> None:
    """A listener that speaks tcp cannot send its connections to files or to a fixed answer."""
    text = "listeners: {web: {bind: '127.0.0.1:1'}, old: {bind: '127.0.0.1:2', protocol: tcp, route: r0}}\n"
    assert "E024 listeners.old.route" in summaries(wrong(file(text, "match: any, respond: 204, auth: none")))


@pytest.mark.parametrize(
    ("first", "route", "expected"),
    [
        (LISTENERS, f"match: any, {BACKEND}", "W001 routes.r0"),
        (LISTENERS, f"match: any, {BACKEND}, auth: none", None),
        (LISTENERS, "match: any, respond: 204", None),
        (listeners("unix:/s"), f"match: any, {BACKEND}", None),
        (listeners("0.0.0.0:1"), f"match: {{host: a}}, {BACKEND}, auth: none", "W005 listeners.l0.bind"),
        (listeners("0.0.0.0:1"), "match: any, respond: 204, auth: none", None),
        (LISTENERS, f"match: any, {BACKEND}, auth: none, allowed_origins: any", "W003 routes.r0.allowed_origins"),
        (
            LISTENERS,
            f"match: any, {BACKEND}, auth: none, allowed_origins: ['null']",
            "W003 routes.r0.allowed_origins[0]",
        ),
        (
            LISTENERS,
            f"match: any, {BACKEND}, auth: none, timeouts: {{ping_interval: off}}",
            "W006 routes.r0.timeouts.ping_interval",
        ),
        (LISTENERS, f"match: any, {BACKEND}, auth: none, timeouts: {{write: off}}", "W007 routes.r0.timeouts.write"),
        (
            LISTENERS,
            "match: any, auth: none, backend: {url: 'tls://a:1', insecure: true}",
            "W002 routes.r0.backend.insecure",
        ),
        (
            LISTENERS,
            "match: any, auth: none, backend: {url: 'ws://a', headers: {Authorization: {env: E}}}",
            "W004 routes.r0.backend.headers.Authorization",
        ),
        (
            LISTENERS,
            "match: any, auth: none, backend: {url: 'wss://a', headers: {cookie: x}}",
            "W013 routes.r0.backend.headers.cookie",
        ),
        (LISTENERS, "match: any, auth: none, backend: {url: 'ws://a', headers: {X: x}}", None),
        (LISTENERS, "match: any, auth: none, backend: {url: 'wss://a', headers: {X: {env: E}}}", None),
        (LISTENERS, "match: any, auth: none, backend: {url: 'ws://127.0.0.1', headers: {X: {env: E}}}", None),
        (
            "listeners: {l: {bind: 'unix:/s', mode: 0666}}\n",
            f"match: any, {BACKEND}",
            "W010 listeners.l.mode",
        ),
        (
            "listeners: {l: {bind: '127.0.0.1:1'}, m: {bind: '127.0.0.1:2'}}\n",
            f"match: {{listener: l}}, {BACKEND}, auth: none",
            "W011 listeners.m",
        ),
    ],
)
def test_warnings(first: str, route: str, expected: str | None) -> None:
    """What is allowed but dangerous is warned of at its place, and its harmless neighbour is not."""
    assert summaries(read(file(first, route)).warnings) == ([expected] if expected else [])


@pytest.mark.parametrize(("key", "code"), [("ping_interval", "W006"), ("write", "W007")])
def test_warnings_of_timeouts_at_the_top(key: str, code: str) -> None:
    """A timeout that guards against dead peers is warned of when it is off for all."""
    loaded = read(LISTENERS + ROUTES + f"timeouts: {{{key}: off}}\n")
    assert summaries(loaded.warnings) == [f"{code} timeouts.{key}"]
    assert loaded.warnings[0].text().startswith(f"w.yaml:3:{len('timeouts: {' + key) + 3}: warning: timeouts.{key}: ")
    assert f"[{code}]" in loaded.warnings[0].text().splitlines()[0]


def test_sections_with_a_mistake_are_not_judged_further() -> None:
    """One typo is one error: what depends on the misspelt key is not reported as well."""
    text = file(listeners("0.0.0.0:1"), f"match: any, {BACKEND}, atuh: none", f"match: any, {BACKEND}")
    assert summaries(wrong(text)) == ["E010 routes.r0.atuh", "E022 routes.r1.auth", "E021 routes.r1.match"]


def test_ways_that_need_http_are_not_for_plain_tcp() -> None:
    """A route that a listener with protocol: tcp names asks only what needs no request."""
    text = "listeners: {old: {bind: '127.0.0.1:1', protocol: tcp, route: r}}\n"
    text += "routes:\n  r: {backend: 'tcp://a:1', auth: %s}\n"
    kinds = replace(CONFIG_REGISTRY, auth={**CONFIG_REGISTRY.auth, "says": Says})
    with pytest.raises(ConfigError) as caught:
        load_text(text % "{any_of: [{kind: says}]}", file="w.yaml", registry=kinds, environ={})
    (problem,) = caught.value.problems
    assert (problem.code, problem.setting) == ("E025", "routes.r.auth")
    assert 'the listener "old" has protocol: tcp' in problem.message
    load_text(text % "{kind: network, allow: [10.0.0.0/8]}", file="w.yaml", registry=kinds, environ={})


def test_a_cookie_and_any_origin_do_not_go_together() -> None:
    """Browsers would send the cookie along for every page."""
    kinds = replace(CONFIG_REGISTRY, auth={**CONFIG_REGISTRY.auth, "says": Says})
    route = "{match: any, backend: 'tcp://a:1', allowed_origins: any, auth: {any_of: [{kind: says, cookies: true}]}}"
    text = f"listeners: {{web: {{bind: '127.0.0.1:1'}}}}\nroutes:\n  r: {route}\n"
    with pytest.raises(ConfigError) as caught:
        load_text(text, file="w.yaml", registry=kinds, environ={})
    assert ("E026", "routes.r.allowed_origins") in [
        (problem.code, problem.setting) for problem in caught.value.problems
    ]


def test_a_loopback_listener_behind_a_proxy_needs_auth() -> None:
    """All clients that the proxy admits come there, so anonymous access has to be explicit."""
    first = "listeners: {web: {bind: '127.0.0.1:80', trusted_proxies: [127.0.0.1], client_address_from: forwarded}}\n"
    (problem,) = wrong(file(first, "match: any, " + BACKEND))

    assert summaries([problem]) == ["E022 routes.r0.auth"]
    assert 'the listener "web" is behind proxies' in problem.message
    assert summaries(read(file(first, "match: any, auth: none, " + BACKEND)).warnings) == ["W026 routes.r0.match"]


@pytest.mark.parametrize(
    ("listener", "auth", "warned"),
    [
        ("bind: '0.0.0.0:1'", "{kind: bearer, tokens: /t}", True),
        ("bind: '0.0.0.0:1'", "{any_of: [{kind: network, allow: [10.0.0.0/8]}, {kind: bearer, tokens: /t}]}", True),
        ("bind: '0.0.0.0:1'", "{kind: network, allow: [10.0.0.0/8]}", False),
        ("bind: '127.0.0.1:1'", "{kind: bearer, tokens: /t}", False),
        ("bind: 'unix:/s'", "{kind: bearer, tokens: /t}", False),
        (
            "bind: '0.0.0.0:1', trusted_proxies: [10.0.0.1], client_address_from: x-forwarded-for",
            "{kind: bearer, tokens: /t}",
            False,
        ),
    ],
)
def test_credentials_in_the_clear(listener: str, auth: str, warned: bool) -> None:
    """A public listener without TLS is warned of where clients show secrets, unless TLS may end in a named proxy."""
    text = f"listeners: {{web: {{{listener}}}}}\nroutes: {{r: {{match: any, {BACKEND}, auth: {auth}}}}}\n"
    assert ("W016 listeners.web.bind" in summaries(read(text).warnings)) is warned


@pytest.mark.parametrize(
    ("listener", "route", "warned"),
    [
        ("bind: '0.0.0.0:1'", "resume: {}", True),
        ("bind: '0.0.0.0:1'", "respond: '204'", False),
        ("bind: '127.0.0.1:1'", "resume: {}", False),
        ("bind: '0.0.0.0:1', trusted_proxies: [10.0.0.0/8], client_address_from: x-forwarded-for", "resume: {}", False),
        ("bind: '0.0.0.0:1', tls: {certificates: [{cert: c.pem, key: k.pem}]}", "resume: {}", False),
    ],
)
def test_sessions_that_others_can_overhear(listener: str, route: str, warned: bool) -> None:
    """Whoever reads the network can take a session over, unless TLS is here or in front."""
    backend = BACKEND + ", " if "resume" in route else ""
    text = f"listeners: {{web: {{{listener}}}}}\nroutes: {{r: {{match: any, {backend}auth: none, {route}}}}}\n"
    loaded = read(text)
    assert ("W036 listeners.web.bind" in summaries(loaded.warnings)) is warned
