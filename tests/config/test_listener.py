"""An address that is listened on, and what its keys allow one another."""

from __future__ import annotations

import getpass
import os
from pathlib import Path

import pytest

from tests.config.loading import ROUTES, read, summaries, wrong
from wsbridge.config.errors import ConfigError


@pytest.mark.parametrize(
    ("listener", "path", "message"),
    [
        ("bind: '127.0.0.1:80', protocol: tcp", "listeners.l.route", "is missing: a listener with protocol: tcp names"),
        ("bind: '127.0.0.1:80', route: vnc", "listeners.l.route", "only a listener with protocol: tcp names a route"),
        ("bind: '127.0.0.1:80', mode: 0660", "listeners.l.mode", "is only for a listener on unix:/path"),
        ("bind: '127.0.0.1:80', owner: a:b", "listeners.l.owner", "is only for a listener on unix:/path"),
        ("bind: '127.0.0.1:80', ipv6_only: true", "listeners.l.ipv6_only", "is only for a listener on an IPv6 address"),
        ("bind: 'unix:/s', owner: a b", "listeners.l.owner", '"a b" is not of the form user or user:group'),
        ("bind: '127.0.0.1:80', tls: {certificates: []}", "listeners.l.tls.certificates", "needs at least one entry"),
        ("bind: '127.0.0.1:80', tls: {certificates: [{key: a}]}", "listeners.l.tls.certificates[0].cert", "is missing"),
        (
            "bind: '127.0.0.1:80', trusted_proxies: [unix]",
            "listeners.l.client_address_from",
            "is missing: trusted_proxies needs",
        ),
        (
            "bind: 'unix:/s', client_address_from: forwarded",
            "listeners.l.trusted_proxies",
            "is missing: client_address_from needs it",
        ),
        (
            "bind: 'unix:/s', trusted_proxies: [10.0.0.1], client_address_from: forwarded",
            "listeners.l.trusted_proxies",
            "has no unix, the only kind of client of unix:/s",
        ),
        (
            "bind: '127.0.0.1:80', trusted_proxies: [], client_address_from: forwarded",
            "listeners.l.trusted_proxies",
            "needs at least one entry",
        ),
        (
            "bind: '127.0.0.1:80', trusted_proxies: [10.0.0.1/24], client_address_from: forwarded",
            "listeners.l.trusted_proxies[0]",
            '"10.0.0.1/24" is an address inside a network',
        ),
        (
            "bind: '127.0.0.1:80', protocol: tcp, route: vnc, trusted_proxies: [unix], client_address_from: forwarded",
            "listeners.l.client_address_from",
            "a listener with protocol: tcp receives no requests; write proxy-protocol",
        ),
        (
            "bind: '127.0.0.1:80', tls: {certificates: [{cert: a, key: b}], client_certificate: optional}",
            "listeners.l.tls.client_certificate",
            "has no effect without client_ca",
        ),
        ("bind: 'fd:web', backlog: 10", "listeners.l.backlog", "is set by Backlog= of the .socket unit"),
        ("bind: 'fd:web', mode: 0660", "listeners.l.mode", "is only for a listener on unix:/path"),
        ("bind: 'fd:web', ipv6_only: true", "listeners.l.ipv6_only", "is only for a listener on an IPv6 address"),
        ("bind: '127.0.0.1:80', backlog: 0", "listeners.l.backlog", "0 is too small: at least 1"),
    ],
)
def test_mistakes_in_listeners(listener: str, path: str, message: str) -> None:
    """Each mistake in a listener gives one problem, with the path of the key and what to write."""
    problems = wrong("listeners:\n  web: {bind: 127.0.0.1:8080}\n  l: {" + listener + "}\n" + ROUTES)
    assert [problem.setting for problem in problems] == [path]
    assert problems[0].message.startswith(message)


def test_what_a_listener_does_by_default() -> None:
    """An address is enough."""
    listener = read("listeners: {l: {bind: '127.0.0.1:80'}}\n" + ROUTES).config.listeners["l"]

    assert (listener.protocol, listener.route, listener.tls, listener.owner) == ("websocket", None, None, None)
    assert (listener.mode, listener.ipv6_only, listener.backlog) == (0o660, False, 1024)


def test_keys_of_unix_and_of_ipv6_listeners() -> None:
    """Mode and owner go with a path, ipv6_only with an IPv6 address."""
    listeners = read(
        "listeners: {u: {bind: 'unix:/s', mode: 0600, owner: a:b}, v: {bind: '[::1]:80', ipv6_only: true}}\n" + ROUTES
    ).config.listeners

    assert (listeners["u"].mode, listeners["u"].owner) == (0o600, "a:b")
    assert listeners["v"].ipv6_only


@pytest.mark.parametrize("backlog", ["65536", "-1", "many"])
def test_the_backlog_is_bounded(backlog: str) -> None:
    """From 1 to what the kernel counts in."""
    (problem,) = wrong(f"listeners: {{l: {{bind: '127.0.0.1:80', backlog: {backlog}}}}}\n" + ROUTES)

    assert problem.setting == "listeners.l.backlog"


def test_a_misspelt_route_is_one_mistake() -> None:
    """Where a key is unknown, the key that it resembles is not reported as missing."""
    (problem,) = wrong("listeners: {l: {bind: '127.0.0.1:80', protocol: tcp, rout: vnc}}\n" + ROUTES)

    assert (problem.setting, problem.code) == ("listeners.l.rout", "E010")


def test_proxies_that_are_trusted() -> None:
    """Trusted proxies are networks, single addresses or `unix`, with the source of the client address."""
    proxies = "trusted_proxies: [10.0.0.0/24, '::1', unix], client_address_from: proxy-protocol"
    loaded = read("listeners: {l: {bind: '127.0.0.1:80', " + proxies + "}}\n" + ROUTES)

    assert summaries(loaded.warnings) == ["W026 routes.vnc.match"]
    listener = loaded.config.listeners["l"]
    assert [str(network) for network in listener.trusted_proxies or ()] == ["10.0.0.0/24", "::1/128", "unix"]
    assert listener.client_address_from == "proxy-protocol"


@pytest.mark.parametrize("network", ["0.0.0.0/0", "::/0"])
def test_to_trust_everybody_is_warned_of(network: str) -> None:
    """Then any client may claim any address."""
    proxies = f"trusted_proxies: [10.0.0.1, '{network}'], client_address_from: forwarded"
    (warning, _) = read("listeners: {l: {bind: '127.0.0.1:80', " + proxies + "}}\n" + ROUTES).warnings

    assert (warning.code, warning.setting) == ("W015", "listeners.l.trusted_proxies[1]")


@pytest.mark.parametrize(
    ("owner", "found"),
    [
        (getpass.getuser(), None),
        (f"{os.geteuid()}:{os.getegid()}", None),
        ("wsb-nobody-has-this", "E012 there is no user"),
        (f"{getpass.getuser()}:wsb-no-group", "E012 there is no group"),
        ("4294967295", "E012 4294967295 is no number of a user or group"),
        ("0:99999999999999999999", "E012 99999999999999999999 is no number of a user or group"),
        ("65533:65533", None if os.geteuid() == 0 else "W028 this process may not give"),
    ],
)
def test_owners(owner: str, found: str | None, tmp_path: Path) -> None:
    """They have to exist, and this process has to be allowed to give the socket to them."""
    text = f"listeners: {{l: {{bind: 'unix:s', owner: '{owner}'}}}}\n" + ROUTES
    try:
        problems = read(text, folder=tmp_path).warnings
    except ConfigError as error:
        problems = error.problems
    code, _, message = (found or "").partition(" ")
    assert [(each.code, each.setting) for each in problems] == ([(code, "listeners.l.owner")] if found else [])
    assert all(message in each.message for each in problems)
