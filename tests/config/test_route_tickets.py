"""The sections of tickets, as one writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.config.loading import LISTENERS, read, summaries, wrong

VNC = "vnc: {match: {path: /vnc}, backend: 'tcp://a:1', auth: {kind: ticket, key: {env: KEY}}}"


def gives(goal: str) -> str:
    """Write a file with a route that accepts tickets, and another route with these keys."""
    asks = "match: {path: /t}, auth: {kind: network, deny: [10.0.0.1]}"
    return f"{LISTENERS}routes:\n  {VNC}\n  t: {{{asks}, {goal}}}\n"


def test_what_a_route_gives_by_default() -> None:
    """Half a minute, from any address."""
    route = read(gives("issue_tickets: {route: vnc, key: {env: KEY}}")).config.routes["t"]

    assert route.issue_tickets is not None
    assert (route.issue_tickets.route, route.issue_tickets.ttl, route.issue_tickets.bind_client_address) == (
        "vnc",
        30.0,
        False,
    )


@pytest.mark.parametrize(
    ("goal", "path", "message"),
    [
        ("issue_tickets: vnc", "routes.t.issue_tickets", "must be a mapping"),
        ("issue_tickets: {key: {env: KEY}}", "routes.t.issue_tickets.route", "is missing"),
        ("issue_tickets: {route: vnc}", "routes.t.issue_tickets.key", "is missing"),
        (
            "issue_tickets: {route: vnc, key: secret}",
            "routes.t.issue_tickets.key",
            "a secret is written as {file: PATH}",
        ),
        (
            "issue_tickets: {route: vnc, key: {env: KEY}, ttl: 0s}",
            "routes.t.issue_tickets.ttl",
            "must be more than zero",
        ),
        (
            "issue_tickets: {route: vnc, key: {env: KEY}, ttl: 2h}",
            "routes.t.issue_tickets.ttl",
            "a ticket is for one connection",
        ),
        (
            "issue_tickets: {route: vnc, key: {env: KEY}}, files: .",
            "routes.t.issue_tickets",
            "conflicts with files",
        ),
        (
            "issue_tickets: {route: vnc, key: {env: KEY}}, text_messages: accept",
            "routes.t.text_messages",
            "has no effect on a route with",
        ),
    ],
)
def test_mistakes(goal: str, path: str, message: str) -> None:
    """Each mistake is reported at its key."""
    problems = wrong(gives(goal))

    assert path in [problem.setting for problem in problems]
    assert next(problem for problem in problems if problem.setting == path).message.startswith(message)


def test_origins_mean_something_there() -> None:
    """Which pages may ask for a ticket is the route's own choice."""
    goal = "issue_tickets: {route: vnc, key: {env: KEY}}, allowed_origins: [https://gw.example.org]"

    assert read(gives(goal)).config.routes["t"].allowed_origins == ("https://gw.example.org",)


def test_auth_must_be_written_even_where_only_this_host_can_ask() -> None:
    """A ticket issued without authentication would be a hole in the other route's auth."""
    text = LISTENERS + "routes: {" + VNC + ", t: {match: {path: /t}, issue_tickets: {route: vnc, key: {env: KEY}}}}\n"

    assert summaries(wrong(text)) == ["E011 routes.t.auth"]


def test_short_keys_are_reported_on_both_sides(tmp_path: Path) -> None:
    """Each side is looked at for itself."""
    problems = wrong(gives("issue_tickets: {route: vnc, key: {env: KEY}}"), {"KEY": "short"}, tmp_path)

    assert summaries(problems) == ["E012 routes.vnc.auth.key", "E012 routes.t.issue_tickets.key"]
