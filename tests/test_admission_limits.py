"""Limits of routes: connections and bandwidth by route, identity and token, and their release."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tests.backends.target_requests import asking
from tests.rejections import outcome
from tests.test_generation import BACK, made
from wsbridge.admission import RouteSlot, acquire_route_slot, limited_token_name
from wsbridge.auth.identity import ANONYMOUS, Identity, merge_identities
from wsbridge.generation import Route
from wsbridge.limits.clients import ConnectionCounts
from wsbridge.limits.rate import SharedBucketTable
from wsbridge.reasons import Reason, Rejected

ALICE, BOB = Identity("alice", "basic"), Identity("bob", "basic")


def route(name: str = "app", **limits: str) -> Route:
    """A route with these limits."""
    found = made(routes={"app": {"match": "any", "limits": limits, **BACK}}).routes["app"]
    return dataclasses.replace(found, name=name)


class Process:
    """The counts of a process."""

    def __init__(self) -> None:
        self.counts, self.shares = ConnectionCounts(), SharedBucketTable()

    def occupy(self, route: Route, identity: Identity = ANONYMOUS, token: str | None = None) -> RouteSlot | Rejected:
        """Acquire what a connection needs."""
        return outcome(acquire_route_slot, route, identity, token, self.counts, self.shares)

    def held(self, *arguments: object) -> RouteSlot:
        """Acquire it; there must be enough."""
        found = self.occupy(*arguments)
        assert isinstance(found, RouteSlot)
        return found

    def refused(self, *arguments: object) -> str:
        """Try to acquire it; there must be too little. Return the sentence for the log."""
        found = self.occupy(*arguments)
        assert isinstance(found, Rejected)
        assert (found.reason, found.initiator) == (Reason.RATE_LIMITED, "client")
        return found.detail


def test_connections_of_a_route() -> None:
    """Whatever their identity; a place that is released can be used by the next."""
    process, limited = Process(), route(connections="2")
    first = process.held(limited, ALICE)
    process.held(limited, BOB)
    assert process.refused(limited) == "2 connections to this route, and the route's limits.connections is 2"
    with first:
        pass
    process.held(limited)


def test_connections_of_an_identity() -> None:
    """Each identity has its own count on each route; clients without a name have none."""
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
    assert one.shared_bucket is not None
    assert one.shared_bucket is two.shared_bucket
    assert one.shared_bucket is not other.shared_bucket
    assert one.shared_bucket.to_backend.rate == 20_480
    assert process.held(limited, ANONYMOUS).shared_bucket is None
    for slots in (one, two, other):
        slots.release()
        slots.release()
    assert (len(process.shares), len(process.counts)) == (0, 0)


def test_a_reload_changes_the_bytes_of_an_identity() -> None:
    """New connections get the new rate, also while an old one goes on."""
    process = Process()
    old = process.held(route(identity_bytes_per_second="20KiB"), ALICE)
    new = process.held(route(identity_bytes_per_second="10MiB"), ALICE)
    assert old.shared_bucket is not None and new.shared_bucket is not None
    assert (old.shared_bucket.to_client.rate, new.shared_bucket.to_client.rate) == (20_480, 10 * 1024 * 1024)
    old.release()
    new.release()
    assert len(process.shares) == 0


def test_without_limits_nothing_is_counted() -> None:
    """Nor is anything to be given back."""
    process, free = Process(), route()
    with process.held(free, ALICE) as slots:
        assert slots.shared_bucket is None
    assert len(process.counts) == 0


@pytest.mark.parametrize(
    ("identity", "token"),
    [
        (ALICE, None),
        (Identity("ci", "bearer", token_name="ci"), "ci"),
        (merge_identities([ALICE, Identity("ci", "bearer", token_name="ci")]), "ci"),
        (ANONYMOUS, None),
    ],
)
def test_the_token_that_let_in(identity: Identity, token: str | None) -> None:
    """It is counted by the name of the bearer token, also where another method of all_of names the client."""
    assert limited_token_name(route(), None, identity) == token


def test_the_token_that_chose_the_target(tmp_path: Path) -> None:
    """One of the route's list counts where no other let the client in."""
    (tmp_path / "list").write_text("desk: 10.0.0.1:22\n")
    app = {
        "match": "any",
        "auth": "none",
        "backend": {"tokens": str(tmp_path / "list")},
        "allowed_targets": {"networks": ["10.0.0.0/8"], "ports": ["22"]},
    }
    chosen = made(routes={"app": app}).routes["app"]
    assert limited_token_name(chosen, asking("/?token=desk"), ANONYMOUS) == "desk"
    assert limited_token_name(chosen, asking("/?token=none"), ANONYMOUS) is None
    assert limited_token_name(chosen, asking("/?token=desk"), Identity("ci", "bearer", token_name="ci")) == "ci"
