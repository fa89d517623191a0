"""Shares: one for all connections of a key, gone with the last of them."""

from __future__ import annotations

from wsbridge.limits.shares import Shares


def test_connections_of_one_key_share() -> None:
    """The same buckets for the same key, others for another; both ways are apart."""
    shares = Shares()
    one, two, other = shares.enter("a", 1000), shares.enter("a", 1000), shares.enter("b", 2000)
    assert one is two
    assert one is not other
    assert one.to_back is not one.to_front
    assert (one.to_back.rate, other.to_front.rate) == (1000, 2000)
    shares.leave("a")
    assert shares.enter("a", 1000) is one
    for key in ("a", "a", "b"):
        shares.leave(key)
    assert len(shares) == 0
    assert shares.enter("a", 1000) is not one
