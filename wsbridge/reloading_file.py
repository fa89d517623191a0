"""ReloadingFile: re-read a list when it changed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, Generic, TypeVar

import trio

from wsbridge.log.logger import log

CHECK_INTERVAL: Final = 1.0
"""Seconds between two looks at a file; none is looked at while nobody asks."""
MAX_RELOAD_THREADS: Final = 4
"""Files looked at at a time."""

MAX_LIST_FILE_BYTES: Final = 16 * 1024 * 1024
"""Bytes of a list."""

Content = TypeVar("Content")
FileSignature = tuple[object, ...]


def file_signature(path: Path) -> FileSignature:
    """Give what changes with a file or, for a folder, with any file in it.

    Raises:
        OSError: It is not there or cannot be read.
    """
    found = path.stat()
    own: FileSignature = (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size)
    if not path.is_dir():
        return own
    with os.scandir(path) as entries:
        inner = sorted((entry.name, entry.stat()) for entry in entries)
    return (own, *((name, stat.st_ino, stat.st_mtime_ns, stat.st_size) for name, stat in inner))


def parse_file(path: Path, parse: Callable[[str], Content]) -> Content:
    """Read a list that is one file of text.

    Args:
        path: The file.
        parse: Makes something of its text, or a ValueError of what is wrong with it.

    Raises:
        OSError: It cannot be read.
        ValueError: What is wrong with it, as one sentence that names it.
    """
    with path.open("rb") as file:
        data = file.read(MAX_LIST_FILE_BYTES + 1)
    if len(data) > MAX_LIST_FILE_BYTES:
        raise ValueError(f"{path}: has more than {MAX_LIST_FILE_BYTES} bytes")
    try:
        return parse(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}: line {line}: is not UTF-8") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


class ReloadingFile(Generic[Content]):
    """What a file says.

    Built at start, where it reads the file at once and blocks; later looks are in threads.

    Args:
        path: A file or a folder.
        load: Reads it; runs in a thread. A sentence of what is wrong with it is a ValueError.

    Raises:
        ValueError: It cannot be read, or `load` says what is wrong with it.
    """

    def __init__(self, path: Path, load: Callable[[Path], Content]) -> None:
        self._path = path
        self._load = load
        self._signature: FileSignature | None = None
        self._content, self._signature = self._reload(None)
        self._last_check: float | None = None
        self._limiter: trio.CapacityLimiter | None = None
        self._last_error = ""

    @property
    def current(self) -> Content:
        """What it last said well."""
        return self._content

    async def get(self) -> Content:
        """Give what it says; the one who asks first after a second has it looked at, others need not wait for that."""
        now = trio.current_time()
        if self._last_check is None or now >= self._last_check + CHECK_INTERVAL:
            self._last_check = now
            await self._check()
        return self._content

    async def _check(self) -> None:
        if self._limiter is None:
            self._limiter = trio.CapacityLimiter(MAX_RELOAD_THREADS)
        try:
            self._content, self._signature = await trio.to_thread.run_sync(
                self._reload, self._signature, limiter=self._limiter
            )
        except ValueError as error:
            if str(error) != self._last_error:
                self._last_error = str(error)
                log.error("file.reload_failed", file=str(self._path), detail=str(error))
            return
        self._last_error = ""

    def _reload(self, known_signature: FileSignature | None) -> tuple[Content, FileSignature]:
        """Read it if it is not the one that is known; runs in a thread.

        A file that changes while it is read is read once more; one that goes on changing is left to the next look.
        """
        try:
            for _ in range(3):
                before = file_signature(self._path)
                if before == known_signature:
                    return self._content, before
                said = self._load(self._path)
                if file_signature(self._path) == before:
                    if known_signature is not None:
                        log.info("file.reloaded", file=str(self._path))
                    return said, before
        except OSError as error:
            raise ValueError(f"{self._path}: cannot be read: {error.strerror}") from None
        raise ValueError(f"{self._path}: changes while it is read")
