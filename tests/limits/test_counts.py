"""Counts by key."""

from __future__ import annotations

from wsbridge.limits.counts import Counts


def test_so_many_and_no_more() -> None:
    """Who finds no room is not counted; what is zero takes no room."""
    counts = Counts()
    assert [counts.enter("a", 2) for _ in range(3)] == [True, True, False]
    assert counts.enter("b", 1)
    assert (counts["a"], counts["b"], counts["c"], len(counts)) == (2, 1, 0, 2)
    counts.leave("a")
    assert counts.enter("a", 2)
    counts.leave("a")
    counts.leave("a")
    counts.leave("b")
    assert len(counts) == 0
