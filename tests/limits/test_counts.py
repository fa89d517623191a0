"""Counts by key."""

from __future__ import annotations

from wsbridge.limits.clients import ConnectionCounts


def test_so_many_and_no_more() -> None:
    """Who finds no room is not counted; what is zero takes no room."""
    counts = ConnectionCounts()
    assert [counts.acquire("a", 2) for _ in range(3)] == [True, True, False]
    assert counts.acquire("b", 1)
    assert (counts["a"], counts["b"], counts["c"], len(counts)) == (2, 1, 0, 2)
    counts.release("a")
    assert counts.acquire("a", 2)
    counts.release("a")
    counts.release("a")
    counts.release("b")
    assert len(counts) == 0
