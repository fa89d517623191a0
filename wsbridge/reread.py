"""Reread: what a file says, read again when the file has changed; what it last said well is kept.

Lives here: reading a file of text, and noticing changes, at most once a second and in a thread. Must not live here:
what any file means; `load` knows that. Used for lists that change while the bridge runs: users, tokens, targets.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, Generic, TypeVar

import trio

from wsbridge.log import log

EVERY: Final = 1.0
"""Seconds between two looks at a file; none is looked at while nobody asks."""
THREADS: Final = 4
"""Files looked at at a time."""

LARGEST: Final = 16 * 1024 * 1024
"""Bytes of a list."""

Said = TypeVar("Said")
Signature = tuple[object, ...]


def signature(path: Path) -> Signature:
    """Give what changes with a file or, for a folder, with any file in it.

    Raises:
        OSError: It is not there or cannot be read.
    """
    found = path.stat()
    own: Signature = (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size)
    if not path.is_dir():
        return own
    with os.scandir(path) as entries:
        inner = sorted((entry.name, entry.stat()) for entry in entries)
    return (own, *((name, stat.st_ino, stat.st_mtime_ns, stat.st_size) for name, stat in inner))


def parsed(path: Path, parse: Callable[[str], Said]) -> Said:
    """Read a list that is one file of text.

    Args:
        path: The file.
        parse: Makes something of its text, or a ValueError of what is wrong with it.

    Raises:
        OSError: It cannot be read.
        ValueError: What is wrong with it, as one sentence that names it.
    """
    with path.open("rb") as file:
        data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise ValueError(f"{path}: has more than {LARGEST} bytes")
    try:
        return parse(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}: line {line}: is not UTF-8") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


class Reread(Generic[Said]):
    """What a file says.

    Built at start, where it reads the file at once and blocks; later looks are in threads.

    Args:
        path: A file or a folder.
        load: Reads it; runs in a thread. A sentence of what is wrong with it is a ValueError.

    Raises:
        ValueError: It cannot be read, or `load` says what is wrong with it.
    """

    def __init__(self, path: Path, load: Callable[[Path], Said]) -> None:
        self._path = path
        self._load = load
        self._signature: Signature | None = None
        self._said, self._signature = self._read(None)
        self._looked: float | None = None
        self._limiter: trio.CapacityLimiter | None = None
        self._told = ""

    @property
    def last(self) -> Said:
        """What it last said well."""
        return self._said

    async def get(self) -> Said:
        """Give what it says; the one who asks first after a second has it looked at, others need not wait for that."""
        now = trio.current_time()
        if self._looked is None or now >= self._looked + EVERY:
            self._looked = now
            await self._look()
        return self._said

    async def _look(self) -> None:
        if self._limiter is None:
            self._limiter = trio.CapacityLimiter(THREADS)
        try:
            self._said, self._signature = await trio.to_thread.run_sync(
                self._read, self._signature, limiter=self._limiter
            )
        except ValueError as error:
            if str(error) != self._told:
                self._told = str(error)
                log.error("file.unusable", file=str(self._path), detail=str(error))
            return
        self._told = ""

    def _read(self, known: Signature | None) -> tuple[Said, Signature]:
        """Read it if it is not the one that is known; runs in a thread.

        A file that changes while it is read is read once more; one that goes on changing is left to the next look.
        """
        try:
            for _ in range(3):
                before = signature(self._path)
                if before == known:
                    return self._said, before
                said = self._load(self._path)
                if signature(self._path) == before:
                    if known is not None:
                        log.info("file.reread", file=str(self._path))
                    return said, before
        except OSError as error:
            raise ValueError(f"{self._path}: cannot be read: {error.strerror}") from None
        raise ValueError(f"{self._path}: changes while it is read")
