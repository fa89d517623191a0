"""Paths of settings, found by what is above or below them without comparing each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from wsbridge.config.base import KeyPath


class KeyPathSet:
    """A set of paths of settings.

    Args:
        paths: Keys and indexes from the top of the file.
    """

    __slots__ = ("_above", "_paths")

    def __init__(self, paths: Iterable[KeyPath] = ()) -> None:
        self._paths = frozenset(paths)
        self._above = frozenset(path[:length] for path in self._paths for length in range(len(path) + 1))

    def has_above(self, path: KeyPath) -> bool:
        """Return whether a path is one of these, or inside of one."""
        return any(path[:length] in self._paths for length in range(len(path) + 1))

    def has_below(self, path: KeyPath) -> bool:
        """Return whether a path is one of these, or one of them is inside of it."""
        return path in self._above

    def overlaps(self, path: KeyPath) -> bool:
        """Return whether a path is one of these, inside of one, or around one."""
        return self.has_below(path) or self.has_above(path)

    def __iter__(self) -> Iterator[KeyPath]:
        return iter(self._paths)

    def __bool__(self) -> bool:
        return bool(self._paths)
