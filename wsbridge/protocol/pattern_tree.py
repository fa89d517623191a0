"""Finds the first of many patterns of hosts and paths that matches, in a time that does not depend on their number.

```
              host, labels reversed      path
    org ─ example ─ gw ───────────────── vnc ─ 1      → 0    gw.example.org        /vnc/1
                  └ ANY ──────────────── to ─ ANY     → 1    {tenant}.example.org  /to/{host}
    every host ───────────────────────── files ─ REST → 2                          /files/*
```
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, TypeVar

from wsbridge.protocol.uri import HostPatterns, PathPattern, PatternPart, host_labels, path_segments

SegmentValue = TypeVar("SegmentValue")


class SegmentTree(Generic[SegmentValue]):
    """Values by patterns of segments, each a literal one, `ANY` for one that is not empty, or at the end `REST`."""

    __slots__ = ("_any", "_end", "_literals", "_rest")

    def __init__(self) -> None:
        self._literals: dict[object, SegmentTree[SegmentValue]] = {}
        self._any: SegmentTree[SegmentValue] | None = None
        self._end: SegmentValue | None = None
        self._rest: SegmentValue | None = None

    def set_default(self, pattern: Iterable[str | PatternPart], make: Callable[[], SegmentValue]) -> SegmentValue:
        """Return the value of a pattern, which is made if there is none."""
        node = self
        for part in pattern:
            if part is PatternPart.REST:
                node._rest = make() if node._rest is None else node._rest
                return node._rest
            if part is PatternPart.ANY:
                node._any = node._any or SegmentTree()
                node = node._any
            else:
                node = node._literals.setdefault(part, SegmentTree())
        node._end = make() if node._end is None else node._end
        return node._end

    def values(self, segments: Iterable[str | PatternPart]) -> Iterator[SegmentValue]:
        """Return the values of the patterns that match segments, or that match all that a pattern matches.

        Args:
            segments: Of a host or a path, or of the pattern that is to be covered.
        """
        nodes = [self]
        for segment in segments:
            following = []
            for node in nodes:
                if node._rest is not None:
                    yield node._rest
                if (literal := node._literals.get(segment)) is not None:
                    following.append(literal)
                if node._any is not None and segment and segment is not PatternPart.REST:
                    following.append(node._any)
            if not following:
                return
            nodes = following
        for node in nodes:
            if node._end is not None:
                yield node._end


class _PathPositions:
    """The first position of each pattern of a path."""

    __slots__ = ("_by_path", "_of_every_path")

    def __init__(self) -> None:
        self._of_every_path: int | None = None
        self._by_path: SegmentTree[int] = SegmentTree()

    def add(self, path: PathPattern | None, position: int) -> None:
        if path is not None:
            self._by_path.set_default(path.parts, lambda: position)
        elif self._of_every_path is None:
            self._of_every_path = position

    def find(self, segments: Sequence[str | PatternPart]) -> Iterator[int]:
        if self._of_every_path is not None:
            yield self._of_every_path
        yield from self._by_path.values(segments)


class PatternIndex:
    """Pairs of host and path patterns in an order, of which the first that matches counts.

    Attributes:
        universal: Position of the first pair if it matches everything; None: `first_match` has to look.
    """

    __slots__ = ("_by_host", "_is_empty", "_of_every_host", "universal")

    def __init__(self) -> None:
        self._is_empty = True
        self.universal: int | None = None
        self._of_every_host = _PathPositions()
        self._by_host: SegmentTree[_PathPositions] = SegmentTree()

    def add(self, hosts: HostPatterns | None, path: PathPattern | None, position: int) -> None:
        """Add a pair at the end.

        Args:
            hosts: None for every host.
            path: None for every path.
            position: Greater than those before.
        """
        if self._is_empty and hosts is None and path is None:
            self.universal = position
        self._is_empty = False
        if hosts is None:
            self._of_every_host.add(path, position)
        for parts in () if hosts is None else hosts.parts:
            self._by_host.set_default(parts, _PathPositions).add(path, position)

    def first_match(self, host: str, path: str) -> int | None:
        """Return the position of the first pair that matches a host and a path, both in normal form."""
        return self._first(host_labels(host), path_segments(path))

    def first_cover(self, host: Sequence[str | PatternPart] | None, path: PathPattern | None) -> int | None:
        """Return the position of the first pair that matches all that another one matches.

        Args:
            host: One of the `parts` of its hosts; None for every host.
            path: None for every path.
        """
        return self._first(host, (PatternPart.REST,) if path is None else path.parts)

    def _first(self, labels: Sequence[str | PatternPart] | None, segments: Sequence[str | PatternPart]) -> int | None:
        found = min(self._of_every_host.find(segments), default=None)
        for positions in () if labels is None else self._by_host.values(labels):
            for position in positions.find(segments):
                found = position if found is None else min(found, position)
        return found
