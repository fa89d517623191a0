"""Identities, and one made of several."""

from __future__ import annotations

from wsbridge.auth.identity import ANONYMOUS, Identity, merge_identities


def test_nobody_has_no_name() -> None:
    """Those who were not asked are nobody, forever."""
    assert (ANONYMOUS.name, ANONYMOUS.method, ANONYMOUS.expires, ANONYMOUS.target) == ("", "", None, None)


def test_several_that_hold_are_one() -> None:
    """The first name and target count, claims are gathered, and it ends with the first of them that ends."""
    network = Identity(method="network")
    token = Identity("alice", "jwt", {"db": "one", "team": "a"}, expires=2000.0, target="tcp://10.0.0.5:22")
    ticket = Identity("bob", "ticket", {"db": "two"}, expires=1500.0, target="tcp://10.0.0.6:22", by_cookie=True)
    assert merge_identities([network, token, ticket]) == Identity(
        "alice",
        "network+jwt+ticket",
        {"db": "one", "team": "a"},
        expires=1500.0,
        target="tcp://10.0.0.5:22",
        by_cookie=True,
    )
