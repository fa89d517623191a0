"""Defaults of routes: where they apply, how they merge, and where their problems are reported."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.config.loading import LISTENERS, read, summaries, wrong
from wsbridge.config.model import Config
from wsbridge.config.route import RouteDefaults

WS = "ws://10.0.0.5/"
UNIX = "unix:/run/x.sock"


def text(defaults: str, *routes: str, listeners: str = LISTENERS) -> str:
    """Write a file whose routes r0, r1 and so on match /0, /1 and so on."""
    lines = "".join(f"  r{at}: {{match: {{path: /{at}}}, {route}}}\n" for at, route in enumerate(routes))
    return f"{listeners}defaults:\n{defaults}routes:\n{lines}"


def loaded(defaults: str, *routes: str, listeners: str = LISTENERS) -> Config:
    """Load such a file."""
    return read(text(f"  {defaults}\n", *routes, listeners=listeners)).config


def test_a_route_replaces_what_it_sets() -> None:
    """Everything but timeouts, limits and dial is replaced as a whole."""
    own = "auth: {kind: network, allow: [10.0.0.0/8]}, allowed_origins: [https://b.example], on_remove: keep"
    defaults = "{auth: none, allowed_origins: [https://a.example], subprotocols: [mqtt], on_remove: drain}"
    first, second = loaded(defaults, "backend: tcp://a:1", f"backend: tcp://a:1, {own}").routes.values()

    assert (getattr(first.auth, "kind", ""), first.allowed_origins, first.subprotocols, first.on_remove) == (
        "none",
        ("https://a.example",),
        ("mqtt",),
        "drain",
    )
    assert (getattr(second.auth, "kind", ""), second.allowed_origins, second.subprotocols, second.on_remove) == (
        "network",
        ("https://b.example",),
        ("mqtt",),
        "keep",
    )


def test_timeouts_limits_and_dial_are_merged_by_key() -> None:
    """A route that sets some of their keys gets the others from the defaults, and these before the top-level ones."""
    defaults = "{auth: none, timeouts: {idle: 1h, write: off}, limits: {connections: 5}, dial: {retry_for: 3s}}"
    own = "timeouts: {idle: 2h, close: 9s}, limits: {connections_per_token: 2}, dial: {when: after-upgrade}"
    config = read(
        text(f"  {defaults}\n", "backend: tcp://a:1", f"backend: tcp://a:1, {own}") + "timeouts: {idle: 3h}\n"
    ).config
    first, second = config.routes.values()

    assert first.effective_timeouts(config.timeouts).idle == 3600
    assert (second.timeouts.idle, second.timeouts.write, second.timeouts.close) == (7200, None, 9)
    assert second.timeouts.model_fields_set == {"idle", "write", "close"}
    assert (second.limits.connections, second.limits.connections_per_token) == (5, 2)
    assert (second.dial.retry_for, second.dial.when) == (3, "after-upgrade")


@pytest.mark.parametrize(
    ("default", "route", "applies"),
    [
        ("timeouts: {idle: 1h}", "respond: 204", False),
        ("allowed_origins: any", "respond: 204", False),
        ("allowed_targets: {ports: [1], names: [a]}", "backend: tcp://a:1", False),
        ("allowed_targets: {ports: [1], names: [a]}", "backend: 'tcp://{query.h}:1'", True),
        ("allowed_targets: {ports: [1], names: [a]}", "backend: {tokens: /t, token_from: query.t}", True),
        ("subprotocols: any", "backend: tcp://a:1", False),
        ("subprotocols: any", f"backend: {WS}", True),
        ("subprotocols: any", "backend: {url: 'WSS://a'}", True),
        ("subprotocols: [mqtt]", "backend: tcp://a:1", True),
        ("text_messages: bytes", f"backend: {WS}", False),
        ("text_messages: bytes", "backend: tcp://a:1", True),
        ("on_client_fin: hold", "backend: tcp://a:1", False),
        ("on_client_fin: hold", f"backend: {WS}", False),
        ("on_client_lost: reset", f"backend: {UNIX}", False),
        ("on_client_lost: fin", f"backend: {UNIX}", True),
    ],
)
def test_what_does_not_apply_to_a_route_is_left_out(default: str, route: str, applies: bool) -> None:
    """A key that would be an error or a warning if the route itself had it."""
    (found,) = loaded(f"{{auth: none, {default}}}", route).routes.values()
    assert (default.partition(":")[0] in found.model_fields_set) is applies
    assert "auth" in found.model_fields_set


def test_hold_applies_to_routes_of_tcp_listeners() -> None:
    """Those that a listener names."""
    listeners = "listeners: {old: {bind: '127.0.0.1:1', protocol: tcp, route: r0}, web: {bind: '127.0.0.1:2'}}\n"
    config = loaded("{auth: none, on_client_fin: hold}", f"backend: {WS}", f"backend: {WS}", listeners=listeners)
    assert [route.on_client_fin for route in config.routes.values()] == ["hold", "close"]


def test_tickets_get_auth_and_origins_only() -> None:
    """What the route that issues them may have."""
    ticket = "{kind: ticket, key: {env: K}}"
    defaults = (
        "{auth: {kind: network, allow: [10.0.0.0/8]}, allowed_origins: [https://a.example], limits: {connections: 1}}"
    )
    routes = (f"backend: tcp://a:1, auth: {ticket}", "issue_tickets: {route: r0, key: {env: K}}")
    issuer = read(text(f"  {defaults}\n", *routes), {"K": "k" * 44}).config.routes["r1"]
    assert issuer.model_fields_set == {"match", "issue_tickets", "auth", "allowed_origins"}


def test_wrong_defaults_are_reported_once_at_their_line() -> None:
    """Also if many routes get them, and without errors that only follow."""
    defaults = (
        "  auth: bsic\n  timeouts: {idle: 1, write: 5s}\n  match: any\n  subprotcols: [a]\n  limits: {connections: x}\n"
    )
    own = "timeouts: {close: 1s}, limits: {connections_per_token: 1}"
    found = wrong(
        text(
            defaults,
            *["backend: tcp://a:1"] * 3,
            f"backend: tcp://a:1, {own}",
            listeners="listeners: {web: {bind: '0.0.0.0:1'}}\n",
        )
    )
    assert [f"{one.line}:{one.column} {one.code} {one.setting}" for one in found] == [
        "3:9 E012 defaults.auth",
        "4:20 E012 defaults.timeouts.idle",
        "5:3 E010 defaults.match",
        "6:3 E010 defaults.subprotcols",
        "7:25 E012 defaults.limits.connections",
    ]
    assert "each route has its own" in found[2].message


@pytest.mark.parametrize("defaults", ["", " none", " [a]", " {auth: '${NO}'}", " {auth: }"])
def test_defaults_that_cannot_be_read(defaults: str) -> None:
    """Their error is the only one."""
    (one,) = wrong(
        text("", "backend: tcp://a:1", listeners="listeners: {web: {bind: '0.0.0.0:1'}}\n").replace(
            "defaults:", f"defaults:{defaults}"
        )
    )
    assert one.line == 2
    assert one.setting.startswith("defaults")


def test_what_follows_between_sections_is_reported_at_the_defaults() -> None:
    """Warnings once; errors for each route, which they name."""
    config = read(text("  auth: none\n  allowed_origins: any\n  timeouts: {write: off}\n", *["backend: tcp://a:1"] * 3))
    assert summaries(config.warnings) == ["W003 defaults.allowed_origins", "W007 defaults.timeouts.write"]
    assert [one.line for one in config.warnings] == [4, 5]

    listeners = "listeners: {old: {bind: '127.0.0.1:1', protocol: tcp, route: r0}, web: {bind: '127.0.0.1:2'}}\n"
    (one,) = wrong(text("  auth: {kind: basic, users: /u}\n", *["backend: tcp://a:1"] * 3, listeners=listeners))
    assert (one.line, one.code, one.setting) == (3, "E025", "defaults.auth")
    assert one.message.endswith('leads here, which the route "r0" gets')


def test_files_of_the_defaults_are_read_once(tmp_path: Path) -> None:
    """All routes share one section; its warnings are not repeated."""
    (tmp_path / "users").write_text(
        "alice:$scrypt$ln=12,r=8,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n"
    )
    (tmp_path / "users").chmod(0o644)
    routes = ["backend: tcp://a:1"] * 3
    found = read(text("  auth: {kind: basic, users: users}\n", *routes), folder=tmp_path)
    assert len({id(route.auth) for route in found.config.routes.values()}) == 1
    assert [one for one in summaries(found.warnings) if "routes" in one] == []


def test_without_defaults_there_are_none() -> None:
    """The section sets nothing."""
    config = loaded("{}", "respond: 204, auth: none")
    assert config.defaults == RouteDefaults()
    assert config.defaults.model_fields_set == set()
