"""Shares: one for all connections of a key, gone with the last of them."""

from __future__ import annotations

from wsbridge.limits.rate import SharedBucketTable


def test_connections_of_one_key_share() -> None:
    """The same buckets for the same key, others for another; both ways are apart."""
    shares = SharedBucketTable()
    one, two, other = shares.acquire("a", 1000), shares.acquire("a", 1000), shares.acquire("b", 2000)
    assert one is two
    assert one is not other
    assert one.to_backend is not one.to_client
    assert (one.to_backend.rate, other.to_client.rate) == (1000, 2000)
    shares.release("a")
    assert shares.acquire("a", 1000) is one
    for key in ("a", "a", "b"):
        shares.release(key)
    assert len(shares) == 0
    assert shares.acquire("a", 1000) is not one
