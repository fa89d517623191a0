"""Routes that issue tickets match the routes that accept them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.config.loading import LISTENERS, read, summaries, wrong

KEYS = {"KEY": "k" * 32, "NEW": "n" * 32, "OTHER": "o" * 32}
NETWORK = "{kind: network, allow: [10.0.0.0/8]}"
TICKET = "{kind: ticket, key: {env: KEY}}"


def text(gives: str = "route: vnc, key: {env: KEY}", asks: str = NETWORK, takes: str = TICKET) -> str:
    """Write a file of two routes: one issues tickets after authentication, the other accepts them."""
    return (
        f"{LISTENERS}routes:\n"
        f"  vnc: {{match: {{path: /vnc}}, backend: 'tcp://a:1', auth: {takes}}}\n"
        f"  give: {{match: {{path: /t}}, auth: {asks}, issue_tickets: {{{gives}}}}}\n"
    )


@pytest.mark.parametrize(
    "takes",
    [
        TICKET,
        f"{{any_of: [{NETWORK}, {TICKET}]}}",
        f"{{all_of: [{NETWORK}, {{any_of: [{{kind: ticket, key: {{env: NEW}}}}, {TICKET}]}}]}}",
    ],
)
def test_they_fit(takes: str, tmp_path: Path) -> None:
    """The method that accepts tickets may be one of several, and one of several keys is enough."""
    assert read(text(takes=takes), KEYS, tmp_path).warnings == []


@pytest.mark.parametrize(
    ("parts", "problem", "message"),
    [
        (
            {"gives": "route: vcn, key: {env: KEY}"},
            "E020 routes.give.issue_tickets.route",
            'no route "vcn" (did you mean',
        ),
        (
            {"gives": "route: give, key: {env: KEY}"},
            "E027 routes.give.issue_tickets.route",
            'route "give" accepts no tickets',
        ),
        ({"takes": "none"}, "E027 routes.give.issue_tickets.route", 'the route "vnc" accepts no tickets'),
        ({"gives": "route: vnc, key: {env: OTHER}"}, "E027 routes.give.issue_tickets.key", "is not the key with which"),
        ({"asks": "none"}, "E013 routes.give.auth", "cannot be none"),
        ({"asks": TICKET}, "E013 routes.give.auth", "cannot accept tickets itself"),
        ({"asks": f"{{any_of: [{NETWORK}, {TICKET}]}}"}, "E013 routes.give.auth", "cannot accept tickets itself"),
    ],
)
def test_they_do_not(parts: dict[str, str], problem: str, message: str, tmp_path: Path) -> None:
    """Tickets that no route accepts, or that anyone gets, are an error at their place, which shows no key."""
    (found,) = wrong(text(**parts), KEYS, tmp_path)

    assert summaries([found]) == [problem]
    assert message in found.message
    assert "kkk" not in found.text()


def test_what_is_wrong_with_one_side_is_not_reported_of_the_other(tmp_path: Path) -> None:
    """A key that cannot be read is one mistake, not one of both routes."""
    takes = "{kind: ticket, key: {env: UNSET}}"

    assert summaries(wrong(text(takes=takes), KEYS, tmp_path)) == ["E012 routes.vnc.auth.key"]
