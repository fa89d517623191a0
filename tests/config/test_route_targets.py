"""The section `allowed_targets:`, and the rules between it, the backend and the path of a route."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.config.loading import LISTENERS, read, wrong
from wsbridge.config.route import Ports, read_host_pattern, read_ports

TARGETS = "allowed_targets: {networks: [10.0.0.0/8], ports: [22]}"


def route(text: str, listeners: str = LISTENERS) -> str:
    """Write a file with one route."""
    return f"{listeners}routes: {{r: {{{text}}}}}\n"


@pytest.mark.parametrize(
    ("written", "first", "last"), [("22", 22, 22), ("5900-5999", 5900, 5999), ("1 - 65535", 1, 65535), ("7-7", 7, 7)]
)
def test_ports(written: str, first: int, last: int) -> None:
    """One, or the first and the last."""
    assert read_ports(written) == Ports(first, last)
    assert read_ports(str(read_ports(written))) == Ports(first, last)


@pytest.mark.parametrize("written", ["0", "9-8", "65536", "1-70000", "-5", "5-", "a", "0x10", "1-2-3", ["1"]])
def test_what_are_no_ports(written: object) -> None:
    """Out of range, upside down, no numbers."""
    with pytest.raises(ValueError, match=r"."):
        read_ports(written)


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("DB.example.org.", "db.example.org"),
        ("*.Example.org", "*.example.org"),
        ("db", "db"),
        ("*.Bücher.example", "*.xn--bcher-kva.example"),
    ],
)
def test_names(written: str, name: str) -> None:
    """They are compared in lower case, without a trailing dot."""
    assert read_host_pattern(written) == name


@pytest.mark.parametrize(
    "written", ["*", "a.*.b", "*a.b", "10.0.0.1", "0x7f.1", "a b", "é .org", "", "*.", "a/b", "::1"]
)
def test_what_are_no_names(written: str) -> None:
    """Stars elsewhere, addresses, what no host is named."""
    with pytest.raises(ValueError, match=r"."):
        read_host_pattern(written)


def test_the_section_is_read(tmp_path: Path) -> None:
    """Networks, names, ports and directories, which begin at the directory of the file and need not be there."""
    text = (
        "match: {path: '/{h}'}, backend: 'tcp://{h}:22', auth: none, "
        "allowed_targets: {networks: [10.0.0.0/8], names: ['*.a.org'], ports: [22, 5900-5999], unix: [run], "
        "allow_own_listeners: true}"
    )
    targets = read(route(text), folder=tmp_path).config.routes["r"].allowed_targets

    assert targets is not None
    assert [str(each) for each in targets.networks or ()] == ["10.0.0.0/8"]
    assert targets.names == ("*.a.org",)
    assert targets.ports == (Ports(22, 22), Ports(5900, 5999))
    assert targets.unix == (tmp_path / "run",)
    assert targets.allow_own_listeners


@pytest.mark.parametrize(
    ("targets", "path", "words"),
    [
        ("{allow_own_listeners: true}", "allowed_targets", "allows no target"),
        ("{ports: [22]}", "allowed_targets.ports", "need networks or names"),
        ("{networks: [10.0.0.0/8]}", "allowed_targets.networks", "needs ports"),
        ("{names: [a], unix: [/x]}", "allowed_targets.names", "needs ports"),
        ("{unix: [/]}", "allowed_targets.unix[0]", "write a directory"),
        ("{networks: [], ports: [1]}", "allowed_targets.networks", "at least one entry"),
        ("{network: [10.0.0.0/8], ports: [1]}", "allowed_targets.network", 'did you mean "networks"'),
    ],
)
def test_rules_that_open_nothing(targets: str, path: str, words: str) -> None:
    """A list that could never let anybody through is an error at its place."""
    match = "match: {path: '/{h}'}, backend: 'tcp://{h}:22', auth: none"
    problems = wrong(route(f"{match}, allowed_targets: {targets}"))
    assert [(problem.setting, words in problem.message) for problem in problems] == [(f"routes.r.{path}", True)]


def test_a_chosen_backend_needs_rules() -> None:
    """Nothing is open that is not written."""
    (problem,) = wrong(route("match: {path: '/{h}'}, backend: 'tcp://{h}:22', auth: none"))
    assert (problem.code, problem.setting) == ("E011", "routes.r.allowed_targets")


@pytest.mark.parametrize("goal", ["backend: 'tcp://a:22'", "respond: 204", "files: /x"])
def test_rules_without_a_choice(goal: str) -> None:
    """They mean nothing there, and the file does not say so silently."""
    (problem,) = wrong(route(f"match: any, auth: none, {goal}, {TARGETS}"))
    assert (problem.code, problem.setting) == ("E013", "routes.r.allowed_targets")


@pytest.mark.parametrize(
    "backend",
    [
        "'tcp://{hots}:22'",
        "'tcp://{identity}:22'",
        "'tcp://{claims.x}:22'",
        "'{target}'",
        "{tokens: /x, token_from: tok}",
    ],
)
def test_fields_that_the_route_has_nothing_for(backend: str) -> None:
    """A segment that the path does not have, or an identity where nobody is asked."""
    problems = wrong(route(f"match: {{path: '/{{host}}'}}, backend: {backend}, auth: none, {TARGETS}"))
    assert [(problem.code, problem.setting) for problem in problems] == [("E040", "routes.r.backend")]


@pytest.mark.parametrize(
    ("backend", "setting", "words"),
    [
        ("'tcp://{cookie.host}:22'", "backend", "only token_from of a token file reads cookies"),
        ("{tokens: t, token_from: 'cookie.a b'}", "backend.token_from", "write the name of a cookie"),
        ("{tokens: t, token_from: cookie.}", "backend.token_from", "write the name of a cookie"),
    ],
)
def test_cookies_are_for_target_tokens_alone(tmp_path: Path, backend: str, setting: str, words: str) -> None:
    """A template with one is an error at its place, as is a name that no cookie has."""
    (tmp_path / "t").write_text("")
    problems = wrong(route(f"match: any, backend: {backend}, auth: none, {TARGETS}"), folder=tmp_path)
    assert [problem.setting for problem in problems] == [f"routes.r.{setting}"]
    assert words in problems[0].message


def test_a_cookie_chooses_no_target_for_the_pages_of_any_site(tmp_path: Path) -> None:
    """Browsers send it for every page, so `allowed_origins: any` is an error (cross-site WebSocket hijacking)."""
    (tmp_path / "t").write_text("a: 10.0.0.1:22\n")
    (tmp_path / "t").chmod(0o600)
    text = f"match: any, backend: {{tokens: t, token_from: cookie.desk}}, auth: none, {TARGETS}"
    assert not read(route(text), folder=tmp_path).warnings
    problems = wrong(route(f"{text}, allowed_origins: any"), folder=tmp_path)
    assert ("E026", "routes.r.allowed_origins") in [(problem.code, problem.setting) for problem in problems]


def test_a_network_does_not_say_who_a_client_is() -> None:
    """Its identity has no name, alone or among others of its kind."""
    auth = "{any_of: [{kind: network, allow: [10.0.0.0/8]}, {kind: network, allow: [::1]}]}".replace("::1", "'::1'")
    (problem,) = wrong(route(f"match: any, backend: 'tcp://{{identity}}:22', auth: {auth}, {TARGETS}"))
    assert problem.code == "E040"


def test_named_segments_mean_nothing_to_files() -> None:
    """A file's place is the path itself."""
    (problem,) = wrong(route("match: {path: '/{x}/*'}, files: /srv, auth: none"))
    assert (problem.code, problem.setting) == ("E013", "routes.r.match.path")


@pytest.mark.parametrize(
    ("backend", "match"),
    [
        ("'tcp://{query.h}:22'", "any"),
        ("{tokens: /x}", "any"),
        ("{tokens: /x, token_from: cookie.desk}", "any"),
        ("'tcp://{h}:22'", "{path: '/{h}'}"),
    ],
)
def test_plain_tcp_makes_no_request(backend: str, match: str) -> None:
    """A listener that speaks tcp cannot name a route whose backend a request chooses."""
    listeners = LISTENERS.replace("}}", "}, old: {bind: 127.0.0.1:2, protocol: tcp, route: r}}")
    problems = wrong(route(f"match: {match}, backend: {backend}, auth: none, {TARGETS}", listeners))
    assert [(problem.code, problem.setting) for problem in problems] == [("E041", "routes.r.backend")]


def test_a_proxy_cannot_stand_beside_fields() -> None:
    """It would look the name up, and nobody would judge what it finds."""
    backend = "{url: 'ws://{query.h}/', proxy: 'http://p:1'}"
    (problem,) = wrong(route(f"match: any, backend: {backend}, auth: none, {TARGETS}"))
    assert (problem.code, problem.setting) == ("E013", "routes.r.backend.proxy")


def test_a_list_that_cannot_be_used(tmp_path: Path) -> None:
    """A bad line is reported at the start by its number, without its text; a missing file is reported, too."""
    (tmp_path / "t").write_text("a: 10.0.0.1:22\ns3cret 10.0.0.1:22\n")
    (tmp_path / "t").chmod(0o600)
    for name, words in (("t", "line 2"), ("gone", "No such file")):
        (problem,) = wrong(route(f"match: any, backend: {{tokens: {name}}}, auth: none, {TARGETS}"), folder=tmp_path)
        assert (problem.code, problem.setting) == ("E033", "routes.r.backend.tokens")
        assert words in problem.message
        assert "s3cret" not in problem.message


def test_a_list_that_others_can_read(tmp_path: Path) -> None:
    """It is warned of as every secret is."""
    (tmp_path / "t").write_text("a: 10.0.0.1:22\n")
    (tmp_path / "t").chmod(0o644)
    loaded = read(route(f"match: any, backend: {{tokens: t}}, auth: none, {TARGETS}"), folder=tmp_path)
    assert [warning.code for warning in loaded.warnings] == ["W012"]


TENANT = "backend: 'tcp://{tenant}.internal:22', auth: none, allowed_targets: {names: ['*.internal'], ports: [22]}"


@pytest.mark.parametrize(
    ("match", "backend", "place", "words"),
    [
        ("{host: '{tenant}.x.org', path: '/{tenant}'}", TENANT, "match.host", "is also in match.path"),
        ("{host: ['{tenant}.x.org', y.org]}", TENANT, "backend", "has no named one"),
        ("{host: '{tenant}'}", TENANT, "match.host", "come before a domain"),
        ("{host: 'a{tenant}.x.org'}", TENANT, "match.host", "a whole label"),
        (
            "{host: '{tenant}.x.org'}",
            "backend: {tokens: t, token_from: tenant}, auth: none, allowed_targets: {names: [a], ports: [1]}",
            "backend",
            "has no named one",
        ),
        (
            "{host: '{tenant}.x.org'}",
            "backend: 'tcp://{tenant}.internal:22', auth: none",
            "allowed_targets",
            "required",
        ),
    ],
)
def test_labels_that_no_template_can_use(match: str, backend: str, place: str, words: str) -> None:
    """A name is in every host of the route, once, not secret, and only used with allowed_targets."""
    problem = wrong(route(f"match: {match}, {backend}"))[0]
    assert problem.setting == f"routes.r.{place}"
    assert words in problem.message


def test_named_labels_are_written_like_other_hosts() -> None:
    """The rest of the host is brought into its normal form; the name keeps its case."""
    match = (
        read(route(f"match: {{host: '{{Tenant}}.BÜCHER.example.'}}, {TENANT.replace('{t', '{T')}"))
        .config.routes["r"]
        .match
    )
    assert getattr(match, "host", None) == ("{Tenant}.xn--bcher-kva.example",)
