"""The sections of tickets, as one writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.config.loading import LISTENERS, read, told, wrong

VNC = "vnc: {match: {path: /vnc}, backend: 'tcp://a:1', auth: {kind: ticket, key: {env: KEY}}}"


def gives(goal: str) -> str:
    """Write a file with a route that takes tickets, and another one with this goal."""
    asks = "match: {path: /t}, auth: {kind: network, deny: [10.0.0.1]}"
    return f"{LISTENERS}routes:\n  {VNC}\n  t: {{{asks}, {goal}}}\n"


def test_what_a_route_gives_unless_told() -> None:
    """Half a minute, from any address."""
    route = read(gives("ticket: {route: vnc, key: {env: KEY}}")).config.routes["t"]

    assert route.ticket is not None
    assert (route.ticket.route, route.ticket.ttl, route.ticket.bind_address) == ("vnc", 30.0, False)


@pytest.mark.parametrize(
    ("goal", "path", "message"),
    [
        ("ticket: vnc", "routes.t.ticket", "must be a mapping"),
        ("ticket: {key: {env: KEY}}", "routes.t.ticket.route", "is missing"),
        ("ticket: {route: vnc}", "routes.t.ticket.key", "is missing"),
        ("ticket: {route: vnc, key: secret}", "routes.t.ticket.key", "a secret is written as {file: PATH}"),
        ("ticket: {route: vnc, key: {env: KEY}, ttl: 0s}", "routes.t.ticket.ttl", "must be more than zero"),
        ("ticket: {route: vnc, key: {env: KEY}, ttl: 2h}", "routes.t.ticket.ttl", "a ticket is for one connection"),
        ("ticket: {route: vnc, key: {env: KEY}}, files: .", "routes.t.ticket", "cannot stand beside files"),
        ("ticket: {route: vnc, key: {env: KEY}}, text: accept", "routes.t.text", "means nothing to a route with"),
    ],
)
def test_mistakes(goal: str, path: str, message: str) -> None:
    """Each mistake is told at its key."""
    problems = wrong(gives(goal))

    assert path in [problem.path for problem in problems]
    assert next(problem for problem in problems if problem.path == path).message.startswith(message)


def test_origins_mean_something_there() -> None:
    """Which pages may ask for a ticket is the route's own choice."""
    goal = "ticket: {route: vnc, key: {env: KEY}}, origins: [https://gw.example.org]"

    assert read(gives(goal)).config.routes["t"].origins == ("https://gw.example.org",)


def test_auth_must_be_written_even_where_only_this_host_can_ask() -> None:
    """A ticket without anybody to whom it was given would be a hole in the other route's auth."""
    text = LISTENERS + "routes: {" + VNC + ", t: {match: {path: /t}, ticket: {route: vnc, key: {env: KEY}}}}\n"

    assert told(wrong(text)) == ["E011 routes.t.auth"]


def test_short_keys_are_told_on_both_sides(tmp_path: Path) -> None:
    """Each side is looked at for itself."""
    problems = wrong(gives("ticket: {route: vnc, key: {env: KEY}}"), {"KEY": "short"}, tmp_path)

    assert told(problems) == ["E012 routes.vnc.auth.key", "E012 routes.t.ticket.key"]
