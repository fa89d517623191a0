"""Quotas: what a connection takes of its route's limits, by route, identity and token, and gives back."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tests.targets.clients import asking
from tests.test_generation import BACK, made
from wsbridge.auth.identity import ANONYMOUS, Identity
from wsbridge.generation import Route
from wsbridge.limits.counts import Counts
from wsbridge.limits.shares import Shares
from wsbridge.quota import Quota, occupy, token_of
from wsbridge.reasons import End, Reason

ALICE, BOB = Identity("alice", "basic"), Identity("bob", "basic")


def route(name: str = "app", **limits: str) -> Route:
    """A route with these limits."""
    found = made(routes={"app": {"match": "any", "limits": limits, **BACK}}).routes["app"]
    return dataclasses.replace(found, name=name)


class Process:
    """The counts of a process."""

    def __init__(self) -> None:
        self.counts, self.shares = Counts(), Shares()

    def occupy(self, route: Route, identity: Identity = ANONYMOUS, token: str | None = None) -> Quota | End:
        """Take what a connection needs."""
        return occupy(route, identity, token, self.counts, self.shares)

    def held(self, *arguments: object) -> Quota:
        """Take it; there must be enough."""
        found = self.occupy(*arguments)  # type: ignore[arg-type]  # as it comes
        assert isinstance(found, Quota)
        return found

    def refused(self, *arguments: object) -> str:
        """Take it; there must be too little. Give the sentence for the log."""
        found = self.occupy(*arguments)  # type: ignore[arg-type]  # as it comes
        assert isinstance(found, End)
        assert (found.reason, found.blame) == (Reason.RATE, "front")
        return found.detail


def test_connections_of_a_route() -> None:
    """Whoever they are; a place given back is there for the next."""
    process, limited = Process(), route(connections="2")
    first = process.held(limited, ALICE)
    process.held(limited, BOB)
    assert process.refused(limited) == "2 connections to this route, and the route's limits.connections is 2"
    with first:
        pass
    process.held(limited)


def test_connections_of_an_identity() -> None:
    """Each has his own number, on each route; who has no name has none."""
    process, limited = Process(), route(connections_per_identity="1")
    process.held(limited, ALICE)
    assert process.refused(limited, ALICE) == (
        "1 connections of this identity, and the route's limits.connections_per_identity is 1"
    )
    process.held(limited, BOB)
    process.held(route("other", connections_per_identity="1"), ALICE)
    for _ in range(3):
        process.held(limited, ANONYMOUS)


def test_connections_with_a_token() -> None:
    """Counted apart from identities, of the same name, too."""
    process, limited = Process(), route(connections_per_token="1", connections_per_identity="2")
    process.held(limited, ALICE, "alice")
    assert process.refused(limited, BOB, "alice") == (
        "1 connections with this token, and the route's limits.connections_per_token is 1"
    )
    process.held(limited, ALICE, "other")
    process.refused(limited, ALICE, "third")


def test_who_is_refused_holds_nothing() -> None:
    """What was counted before the limit that refused is given back."""
    process, limited = Process(), route(connections="5", connections_per_identity="1")
    process.held(limited, ALICE)
    for _ in range(10):
        process.refused(limited, ALICE)
    assert process.counts[("app",)] == 1


def test_bytes_of_an_identity() -> None:
    """Connections of one name share, others have their own, who has no name has no limit."""
    process, limited = Process(), route(identity_bytes_per_second="20KiB")
    one, two, other = process.held(limited, ALICE), process.held(limited, ALICE), process.held(limited, BOB)
    assert one.share is not None
    assert one.share is two.share
    assert one.share is not other.share
    assert one.share.to_back.rate == 20_480
    assert process.held(limited, ANONYMOUS).share is None
    for quota in (one, two, other):
        quota.give_back()
        quota.give_back()
    assert (len(process.shares), len(process.counts)) == (0, 0)


def test_without_limits_nothing_is_counted() -> None:
    """One object does for all such connections."""
    process, free = Process(), route()
    first = process.held(free, ALICE)
    assert process.held(free, BOB) is first
    with first as quota:
        assert quota.share is None
    assert len(process.counts) == 0


@pytest.mark.parametrize(
    ("identity", "token"),
    [(ALICE, None), (Identity("ci", "bearer"), "ci"), (Identity("ci", "network+bearer"), "ci"), (ANONYMOUS, None)],
)
def test_the_token_that_let_in(identity: Identity, token: str | None) -> None:
    """The name of a bearer token is one."""
    assert token_of(route(), None, identity) == token


def test_the_token_that_chose_the_target(tmp_path: Path) -> None:
    """One of the route's list counts where no other let the client in."""
    (tmp_path / "list").write_text("desk: 10.0.0.1:22\n")
    app = {
        "match": "any",
        "auth": "none",
        "backend": {"tokens": str(tmp_path / "list")},
        "targets": {"networks": ["10.0.0.0/8"], "ports": ["22"]},
    }
    chosen = made(routes={"app": app}).routes["app"]
    assert token_of(chosen, asking("/?token=desk"), ANONYMOUS) == "desk"
    assert token_of(chosen, asking("/?token=none"), ANONYMOUS) is None
    assert token_of(chosen, asking("/?token=desk"), Identity("ci", "bearer")) == "ci"
