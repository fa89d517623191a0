"""Lists in files (users, tokens, target tokens): read safely, and read again when they have changed."""

from __future__ import annotations

import math
import os
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Generic, NamedTuple, TypeVar

import trio

from wsbridge.config.regular_files import is_leftover, read_regular_file
from wsbridge.log.logger import log
from wsbridge.taskless import need_task
from wsbridge.worker_thread import NoThreadError, run_in_thread

CHECK_INTERVAL: Final = 1.0
"""Seconds between two checks of a file; it is only checked when its content is asked for."""
MIN_CHECK_INTERVAL: Final = 0.05
"""Seconds between two checks that are made because something was not found."""
MAX_CHECK_LOAD: Final = 0.05
"""Share of time that such checks may take; a directory of many files is checked less often."""
CHECK_TIMEOUT: Final = 2.0
"""Seconds after which a check is abandoned: its file system does not respond."""
LOAD_TIMEOUT: Final = 10.0
"""Seconds that reading a list may take before the daemon serves."""
MAX_LIST_FILE_BYTES: Final = 16 * 1024 * 1024
"""Maximum size of a list."""
MAX_TIMESTAMP_STEP: Final = 2.0
"""Seconds that a file system may give to two changes as the same time: 10 ms on most Linux kernels, 2 s on FAT."""

Content = TypeVar("Content")


class FileState(NamedTuple):
    """What changes whenever a file does; times in nanoseconds since 1970."""

    device: int
    inode: int
    modified_ns: int
    changed_ns: int
    size: int


FileSignature = tuple[tuple[str, FileState | None], ...]
"""The state of a file, or of a directory and, by their names, of its files."""


def list_files(directory: Path) -> list[Path]:
    """List the files of a directory by name, without subdirectories, hidden files and leftovers.

    A link that cannot be followed is listed, so that reading it reports why.

    Raises:
        OSError: It cannot be read.
    """
    with os.scandir(directory) as entries:
        return sorted(Path(entry.path) for entry in entries if not is_leftover(entry.name) and not _is_directory(entry))


def _is_directory(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a directory or a link to one; not for a loop of links, or one into a private directory."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def file_signature(path: Path) -> FileSignature:
    """Describe the state of a file or, for a directory, of itself and every file in it.

    The time of the last status change (ctime) is part of it: unlike size and mtime, no program can set it back.

    Raises:
        OSError: It does not exist or cannot be read.
    """
    found = path.stat()
    files = list_files(path) if stat.S_ISDIR(found.st_mode) else ()
    return (("", _state_of(found)), *((file.name, _entry_state(file)) for file in files))


def _state_of(found: os.stat_result) -> FileState:
    return FileState(found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size)


def _entry_state(file: Path) -> FileState | None:
    """That of a file in a directory; None for a broken link."""
    try:
        return _state_of(file.stat())
    except OSError:
        return None


def last_change(signature: FileSignature) -> float:
    """Return the latest ctime of a signature, in seconds since 1970."""
    return max(state.changed_ns for _, state in signature if state is not None) / 1e9


def parse_file(path: Path, parse: Callable[[str], Content]) -> Content:
    """Read a list that is a single text file.

    Args:
        path: The file.
        parse: Makes the content of its text; raises ValueError with what is wrong with it.

    Raises:
        OSError: It cannot be read.
        ValueError: What is wrong with it, as one sentence that names it.
    """
    try:
        data = read_regular_file(path, MAX_LIST_FILE_BYTES)
        if len(data) > MAX_LIST_FILE_BYTES:
            raise ValueError(f"has more than {MAX_LIST_FILE_BYTES} bytes")  # noqa: TRY301  named below, as the others
        return parse(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}: line {line}: is not UTF-8") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def load_now(path: Path, load: Callable[[Path], Content]) -> Content:
    """Read a list outside of the event loop, in a thread that is abandoned if the file system does not respond.

    Where there is no thread to be had, the caller waits for the file system instead.

    Raises:
        OSError: It cannot be read.
        ValueError: What is wrong with it, as one sentence that names it.
    """
    results: list[Content] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(load(path))
        except BaseException as error:  # raised again in the caller's thread
            errors.append(error)

    thread = threading.Thread(target=run, name="load", daemon=True)
    try:
        thread.start()
        thread.join(LOAD_TIMEOUT)
    except RuntimeError:  # there is none to be had
        run()
    if errors:
        raise errors[0]
    if not results:
        raise ValueError(f"{path}: its file system did not respond within {LOAD_TIMEOUT:g} s")
    return results[0]


class ReloadingFile(Generic[Content]):
    """The content of a file or directory, kept up to date; invalid content never replaces valid content.

    It is read when this is built, which blocks. Later checks run in a thread, never two at once, and only when the
    content is asked for; a thread whose file system does not respond is abandoned, and the last content stays in
    effect.

    Args:
        path: A file or a directory.
        load: Reads it; runs in a thread. Raises OSError, or ValueError with a sentence about what is wrong.

    Raises:
        ValueError: It cannot be read, or what `load` raised.
    """

    def __init__(self, path: Path, load: Callable[[Path], Content]) -> None:
        self._path = path
        self._load = load
        self._signature: FileSignature | None = None
        self._settled = False  # whether every later change must give another signature
        self._content, self._signature = load_now(path, lambda _: self._reload(None))
        self._next_check = -math.inf
        self._last_check = -math.inf
        self._check_seconds = 0.0
        self._lock = trio.Lock()
        self._thread = trio.CapacityLimiter(1)  # held as long as a thread runs, also an abandoned one
        self._last_error = ""

    @property
    def current(self) -> Content:
        """The last valid content."""
        return self._content

    async def get(self) -> Content:
        """Return the content; the first call after CHECK_INTERVAL checks the file, others do not wait for that."""
        now = trio.current_time()
        if now >= self._next_check:
            self._next_check = now + CHECK_INTERVAL
            await self._check_since(now)
        return self._content

    async def get_newer(self, since: float) -> Content:
        """Return the content as of a check that began at `since` or later.

        For something that was not found: it may have been written a moment ago. Such checks are at least
        MIN_CHECK_INTERVAL apart, and those that wait share one.

        Args:
            since: A time of `trio.current_time`.
        """
        await self._check_since(since)
        return self._content

    async def _check_since(self, since: float) -> None:
        await need_task()
        with trio.move_on_after(CHECK_TIMEOUT) as deadline:
            async with self._lock:
                if self._last_check < since and not self._thread.borrowed_tokens:
                    pause = max(MIN_CHECK_INTERVAL, self._check_seconds / MAX_CHECK_LOAD)
                    await trio.sleep_until(self._last_check + min(pause, CHECK_INTERVAL))
                    await self._check()
        if deadline.cancelled_caught and self._thread.borrowed_tokens:
            self._report(f"{self._path}: its file system did not respond within {CHECK_TIMEOUT:g} s")

    async def _check(self) -> None:
        self._last_check = trio.current_time()
        try:
            known = self._signature
            self._content, self._signature = await run_in_thread(lambda: self._reload_and_time(known), self._thread)
        except ValueError as error:
            self._report(str(error))
        except NoThreadError as error:
            self._report(f"{self._path}: {error.strerror}")
        else:
            self._last_error = ""

    def _report(self, problem: str) -> None:
        if problem != self._last_error:
            self._last_error = problem
            log.error("file.reload_failed", file=str(self._path), detail=problem)

    def _reload_and_time(self, known_signature: FileSignature | None) -> tuple[Content, FileSignature]:
        began = time.monotonic()
        try:
            return self._reload(known_signature)
        finally:
            self._check_seconds = time.monotonic() - began

    def _reload(self, known_signature: FileSignature | None) -> tuple[Content, FileSignature]:
        """Read it if its signature is not the known one, or if it changed shortly before it was read with that.

        A file that changes while it is read is read once more; one that keeps changing is left to the next check.
        """
        try:
            for _ in range(3):
                now, before = time.time(), file_signature(self._path)
                if before == known_signature and self._settled:
                    return self._content, before
                content = self._load(self._path)
                if file_signature(self._path) == before:
                    self._settled = now > last_change(before) + MAX_TIMESTAMP_STEP
                    if before == known_signature and content == self._content:
                        return self._content, before
                    if known_signature is not None:
                        log.info("file.reloaded", file=str(self._path))
                    return content, before
        except OSError as error:
            raise ValueError(f"{self._path}: cannot be read: {error.strerror}") from None
        raise ValueError(f"{self._path}: changes while it is read")
