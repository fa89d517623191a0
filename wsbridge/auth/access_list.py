"""Lists of users and tokens that open connections depend on, where `on_revoke` is `close`."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from wsbridge.reloading_file import ReloadingFile

REVOCATION_DELAY: Final = 5.0
"""Seconds that a list must stay as it is before it ends connections: until then it may be half-written."""

_Content = TypeVar("_Content")

AccessListKey = tuple[str, Path]
"""Kind of the authentication method, and the file."""


class AccessList(Generic[_Content]):
    """One list; all generations that have its file share it.

    Args:
        key: What it is known by.
        file: Its content.
        holds: Returns whether a content has an entry; also for a content without any entries, which is more likely
            due to a full disk than meant.
    """

    def __init__(
        self, key: AccessListKey, file: ReloadingFile[_Content], holds: Callable[[_Content, Any], bool]
    ) -> None:
        self.key = key
        self.file = file
        self._holds = holds
        self._content = file.current
        self._since = time.monotonic()

    async def refresh(self) -> None:
        """Read the file again, if it has changed; the last valid content stays if it cannot be used."""
        content = await self.file.get()
        if content is not self._content:
            self._content, self._since = content, time.monotonic()

    @property
    def age(self) -> float:
        """Seconds since its content has changed."""
        return time.monotonic() - self._since

    def revokes(self, entry: Hashable) -> bool:
        """Return whether an entry has been removed, and the list has not changed since for REVOCATION_DELAY."""
        is_settled = self.file.current is self._content and self.age >= REVOCATION_DELAY
        return is_settled and not self._holds(self._content, entry)


def share_list(
    lists: MutableMapping[AccessListKey, AccessList[Any]],
    key: AccessListKey,
    load: Callable[[Path], _Content],
    holds: Callable[[_Content, Any], bool],
) -> AccessList[_Content]:
    """Return the list with this key; if there is none, make it, which blocks. See `AccessList` and `ReloadingFile`.

    Raises:
        ValueError: The file cannot be used; one sentence.
    """
    found = lists.get(key)
    if found is None:
        found = lists[key] = AccessList(key, ReloadingFile(key[1], load), holds)
    return found


@dataclass(frozen=True, slots=True)
class ListEntry:
    """What authenticated a client: an entry that its list must go on to have.

    Attributes:
        access_list: The list.
        key: The entry, as its method knows it; plain values, which another process can read.
        subject: What the log calls it.
    """

    access_list: AccessList[Any]
    key: tuple[str | bytes, ...] = field(repr=False)
    subject: str
