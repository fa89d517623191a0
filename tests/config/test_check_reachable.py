"""Which listeners lead to a route, and which routes nothing can reach."""

from __future__ import annotations

import pytest

from tests.config.loading import BACKEND, LISTENERS, file, listeners, read, wrong
from wsbridge.config.check import effective_match, listeners_of, matching_listeners, raw_listeners_of, shadowed_routes


@pytest.mark.parametrize(
    ("earlier", "later", "taken"),
    [
        ("any", "any", True),
        ("any", "{path: /x}", True),
        ("{path: /*}", "any", True),
        ("{path: /x/*}", "{path: /x/y}", True),
        ("{path: /x/*}", "{path: /x/y/*}", True),
        ("{path: /x/*}", "{path: /x/*}", True),
        ("{path: /x/*}", "{path: /x}", False),
        ("{path: /x/*}", "{path: /xy/z}", False),
        ("{path: /x/y/*}", "{path: /x/*}", False),
        ("{path: /x}", "{path: /x}", True),
        ("{path: /x}", "{path: /X}", False),
        ("{path: /x}", "any", False),
        ("{path: '/{a}'}", "{path: /x}", True),
        ("{path: '/{a}'}", "{path: '/{b}'}", True),
        ("{path: '/{a}'}", "{path: /}", False),
        ("{path: '/{a}'}", "{path: /x/*}", False),
        ("{path: '/{a}'}", "any", False),
        ("{path: '/{a}/*'}", "{path: /x/y/*}", True),
        ("{path: '/{a}/*'}", "{path: '/{b}/{c}'}", True),
        ("{path: '/{a}/*'}", "{path: /*}", False),
        ("{path: /x}", "{path: '/{a}'}", False),
        ("{path: /*}", "{path: '/{a}/{b}'}", True),
        ("{path: /x/*}", "{path: '/x/{a}'}", True),
        ("{path: /x/*}", "{path: '/{a}/y'}", False),
        ("{host: a}", "{host: a, path: /x}", True),
        ("{host: [a, b]}", "{host: b}", True),
        ("{host: a}", "{host: [a, b]}", False),
        ("{host: a}", "any", False),
        ("{listener: l0}", "{listener: [l0, l1]}", False),
        ("{listener: [l0, l1]}", "any", True),
        ("{listener: l0}", "{listener: l1}", False),
    ],
)
def test_routes_that_an_earlier_one_shadows(earlier: str, later: str, taken: bool) -> None:
    """A route is an error at its match if earlier ones match all its requests, but not if some are left."""
    first = listeners("127.0.0.1:1", "127.0.0.1:2")
    text = file(first, f"match: {earlier}, {BACKEND}, auth: none", f"match: {later}, {BACKEND}, auth: none")
    if not taken:
        read(text)
        return
    (problem,) = [problem for problem in wrong(text) if problem.severity == "error"]
    assert (problem.code, problem.setting) == ("E021", "routes.r1.match")
    assert problem.message == 'unreachable route: the route "r0" above matches all that it matches'


def test_several_routes_may_shadow_one_together() -> None:
    """Where another route matches the requests of each listener, all of these routes are named."""
    first = listeners("127.0.0.1:1", "127.0.0.1:2")
    routes = [f"match: {match}, {BACKEND}, auth: none" for match in ("{listener: l0}", "{listener: l1}", "any")]
    (problem,) = wrong(file(first, *routes))
    assert 'the routes "r0", "r1" above' in problem.message


def test_pages_and_backends_may_share_a_path() -> None:
    """Routes with files or respond serve plain requests, those with a backend upgrades: neither shadows the other."""
    read(file(LISTENERS, f"match: any, {BACKEND}, auth: none", "match: any, respond: 204, auth: none"))
    (problem,) = wrong(file(LISTENERS, "match: any, respond: 204, auth: none", "match: any, respond: 404, auth: none"))
    assert (problem.code, problem.setting) == ("E021", "routes.r1.match")


MIXED = """\
listeners:
  web: {bind: '127.0.0.1:1'}
  more: {bind: '127.0.0.1:2'}
  old: {bind: '127.0.0.1:3', protocol: tcp, route: both}
routes:
  both: {match: {listener: more}, backend: 'tcp://a:1', auth: none}
  all: {match: any, backend: 'tcp://a:1', auth: none}
"""


def test_the_listeners_of_a_route() -> None:
    """Those whose requests it may match and those that name it, in the order of the file."""
    config = read(MIXED).config
    both, everything = config.routes["both"], config.routes["all"]

    assert matching_listeners(config, both) == ["more"]
    assert raw_listeners_of(config, "both") == ["old"]
    assert listeners_of(config, "both") == ["more", "old"]
    assert matching_listeners(config, everything) == listeners_of(config, "all") == ["web", "more"]
    assert raw_listeners_of(config, "all") == []


def test_any_asks_for_nothing() -> None:
    """The word matches as an empty match would; no match at all matches nothing."""
    config = read(MIXED).config
    everything = config.routes["all"]

    match = effective_match(everything)
    assert match is not None
    assert (match.listener, match.host, match.path) == (None, None, None)
    assert effective_match(everything.model_copy(update={"match": None})) is None
    assert matching_listeners(config, everything.model_copy(update={"match": None})) == []


def test_nothing_shadows_a_route_that_keeps_a_listener() -> None:
    """A listener that only the later route serves is enough."""
    assert shadowed_routes(read(MIXED).config) == {}


@pytest.mark.parametrize(
    ("wide", "narrow", "unreachable"),
    [
        ("{host: '*.example.org'}", "{host: a.example.org}", True),
        ("{host: '*.example.org'}", "{host: '*.a.example.org', path: /x}", True),
        ("{host: '*.example.org'}", "{host: [a.example.org, example.net]}", False),
        ("{host: '*.example.org'}", "{host: example.org}", False),
        ("{host: '{x}.example.org'}", "{host: a.example.org}", True),
        ("{host: '{x}.example.org'}", "{host: '{y}.example.org'}", True),
        ("{host: '{x}.example.org'}", "{host: '*.example.org'}", False),
        ("{host: a.example.org, path: '/{x}'}", "{host: a.example.org, path: /b}", True),
        ("{host: a.example.org}", "{path: /b}", False),
    ],
)
def test_hosts_that_another_route_matches(wide: str, narrow: str, unreachable: bool) -> None:
    """A route is unreachable if an earlier one matches each of its hosts, wildcards and named labels included."""
    text = file(LISTENERS, f"match: {wide}, {BACKEND}, auth: none", f"match: {narrow}, {BACKEND}, auth: none")
    if unreachable:
        (problem,) = wrong(text)
        assert (problem.code, problem.setting) == ("E021", "routes.r1.match")
    else:
        read(text)
