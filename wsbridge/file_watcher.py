"""Certificates and keys in files: what is made of them is replaced, within seconds, when the files have changed."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Hashable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, TypeVar

import trio

from wsbridge.config.certificates import chain_expiry_warnings, expiry_warning_start, read_certificates
from wsbridge.config.regular_files import read_regular_file
from wsbridge.log.logger import log
from wsbridge.reloading_file import (
    CHECK_TIMEOUT,
    LOAD_TIMEOUT,
    MAX_LIST_FILE_BYTES,
    MAX_TIMESTAMP_STEP,
    FileSignature,
    file_signature,
    last_change,
)
from wsbridge.worker_thread import NoThreadError, run_in_thread

if TYPE_CHECKING:
    from cryptography import x509

WATCH_INTERVAL: Final = 2.0
"""Seconds between two checks of all files."""
EXPIRY_INTERVAL: Final = 86_400.0
"""Seconds between two warnings of the same certificate."""
FAILURES_BEFORE_REPORT: Final = 2
"""Checks that have to fail before that is reported: a certificate and its key are rarely replaced at the same time."""

_Content = TypeVar("_Content")


class _State(NamedTuple):
    """The files that a content was made of.

    Attributes:
        signatures: One for each file.
        digest: Of all of them.
        settled: Whether every later change must give other signatures.
    """

    signatures: tuple[FileSignature, ...]
    digest: bytes
    settled: bool


class _Loaded(NamedTuple):
    content: Any
    state: _State
    chain: Sequence[x509.Certificate]


class Watched(Generic[_Content]):
    """What is made of some files, always as of their last valid content. It is made when this is built, which blocks.

    Args:
        files: Read by `load`.
        load: Makes the content; runs in a thread. Raises ValueError with one sentence that names the file.
        certificate: Which of the files is a certificate chain that is served, or shown to servers; None for none.

    Attributes:
        files: As given, without duplicates.
        certificate: As given.
        current: The content.
        on_change: Called when `current` has been replaced.

    Raises:
        ValueError: A file cannot be read, or what `load` raised.
    """

    def __init__(self, files: Sequence[Path], load: Callable[[], _Content], certificate: Path | None = None) -> None:
        self.files = tuple(dict.fromkeys(files))
        self.certificate = certificate
        self.on_change: list[Callable[[], None]] = []
        self._load = load
        self._failures = 0
        self._last_error = ""
        self.current: _Content
        self.current, self._state, self._chain = self.read(None)
        self._warned = time.time() if self.expiry_warnings(time.time()) else -math.inf  # W008 has been logged

    @property
    def device(self) -> int:
        """The file system of the first file."""
        return self._state.signatures[0][0][1].device  # type: ignore[union-attr]  # the entry of a file itself has one

    def has_changed(self) -> bool:
        """Return whether the files may have changed; a failure counts. Runs in a thread."""
        try:
            signatures = tuple(map(file_signature, self.files))
        except OSError:
            return True
        return bool(self._failures) or not self._state.settled or signatures != self._state.signatures

    def read(self, known: bytes | None) -> _Loaded:
        """Read the files, and make the content if it is not the known one. Runs in a thread.

        Args:
            known: Digest of the files that `current` was made of; None: there is none yet.

        Raises:
            ValueError: A file cannot be used, or changes while it is read; one sentence.
        """
        for _ in range(3):
            try:
                now, before = time.time(), tuple(map(file_signature, self.files))
                digest = _digest(self.files)
                same = digest == known
                content = self.current if same else self._load()
                chain = self._chain if same else () if self.certificate is None else read_certificates(self.certificate)
                if tuple(map(file_signature, self.files)) == before:
                    settled = all(now > last_change(one) + MAX_TIMESTAMP_STEP for one in before)
                    return _Loaded(content, _State(before, digest, settled), chain)
            except OSError as error:
                raise ValueError(f"{error.filename}: cannot be read: {error.strerror}") from None
        raise ValueError(f"{self.files[0]}: changes while it is read")

    def replace(self, loaded: _Loaded) -> list[Path]:
        """Put into effect what `read` returned.

        Returns:
            The files that have another signature; none if their content is the same.
        """
        self._failures, self._last_error = 0, ""
        before, self._state = self._state, loaded.state
        if loaded.state.digest == before.digest:
            return []
        self.current, self._chain, self._warned = loaded.content, loaded.chain, -math.inf
        for call in self.on_change:
            call()
        changes = zip(self.files, before.signatures, loaded.state.signatures, strict=True)
        return [file for file, old, new in changes if old != new] or [self.files[0]]

    def fail(self, detail: str, *, at_once: bool) -> bool:
        """Note that a check has failed; return whether to report that.

        Args:
            detail: The cause, each of which is reported once.
            at_once: Whether the first failure counts, too.
        """
        self._failures += 1
        if (self._failures < FAILURES_BEFORE_REPORT and not at_once) or detail == self._last_error:
            return False
        self._last_error = detail
        return True

    def read_if_changed(self) -> _Loaded:
        """Read the files as `read` does, and keep `current` if their content is the same."""
        return self.read(self._state.digest)

    def expiry_warnings(self, now: float) -> list[str]:
        """Return what to warn of in the certificate that is in use.

        Args:
            now: Seconds since 1970.
        """
        if self.certificate is None or not self._chain:
            return []
        return list(chain_expiry_warnings(self._chain, self.certificate, datetime.fromtimestamp(now, UTC)))

    def due_warnings(self, now: float) -> list[str]:
        """Return what to warn of now; nothing if that was done in the last EXPIRY_INTERVAL."""
        if not self._chain or now < self._warned + EXPIRY_INTERVAL or now < expiry_warning_start(self._chain):
            return []
        self._warned = now
        return self.expiry_warnings(now)

    @property
    def expires(self) -> str | None:
        """When the certificate expires."""
        return f"{self._chain[0].not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}" if self._chain else None


def _digest(files: Sequence[Path]) -> bytes:
    found = hashlib.sha256()
    for file in files:
        try:
            data = read_regular_file(file, MAX_LIST_FILE_BYTES)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from None
        found.update(hashlib.sha256(data).digest())
    return found.digest()


def _shown_file(watched: Watched[Any]) -> Path:
    """Return the file by which a log line names all of them."""
    return watched.certificate or watched.files[0]


def _find_changed(group: Sequence[Watched[Any]]) -> list[Watched[Any]]:
    return [one for one in group if one.has_changed()]


class FileWatcher:
    """Checks all files of one configuration, and replaces what is made of those that have changed.

    The checks run in threads, one for each file system, which are abandoned if that does not respond.

    Args:
        wall_clock: Seconds since 1970, for the end of certificates.
    """

    def __init__(self, wall_clock: Callable[[], float] = time.time) -> None:
        self._wall_clock = wall_clock
        self._watched: dict[Hashable, Watched[Any]] = {}
        self._threads: dict[int, trio.CapacityLimiter] = {}

    def watch(
        self, key: Hashable, files: Sequence[Path], load: Callable[[], _Content], certificate: Path | None = None
    ) -> Watched[_Content]:
        """Make something of files, or return what was already made for the same key; blocks. See `Watched`.

        Args:
            key: The same for the same content.
            files: Read by `load`.
            load: Makes the content.
            certificate: Which of the files is a certificate chain.

        Raises:
            ValueError: A file cannot be used; one sentence.
        """
        found = self._watched.get(key)
        if found is None:
            found = self._watched[key] = Watched(files, load, certificate)
        return found

    async def run(self) -> None:
        """Check, again and again, until cancelled."""
        watched = [one for one in self._watched.values() if one.files]
        while watched:
            await trio.sleep(WATCH_INTERVAL)
            groups: dict[int, list[Watched[Any]]] = {}
            for one in watched:
                groups.setdefault(one.device, []).append(one)
            async with trio.open_nursery() as nursery:
                for device, group in groups.items():
                    thread = self._threads.setdefault(device, trio.CapacityLimiter(1))
                    if not thread.borrowed_tokens:  # as it is by an abandoned thread
                        nursery.start_soon(self._check_safely, group, thread)
            self._warn_of_expiry(watched)

    async def _check_safely(self, group: list[Watched[Any]], thread: trio.CapacityLimiter) -> None:
        """Check the files of one file system; a bug, or no thread to be had, must not end the connections."""
        try:
            await self._check(group, thread)
        except NoThreadError as error:
            self._report_failure(group[0], f"{_shown_file(group[0])}: {error.strerror}")
        except Exception as error:
            self._report_bug(group[0], error)

    def _report_bug(self, watched: Watched[Any], error: Exception) -> None:
        if watched.fail(repr(error), at_once=True):
            log.exception("internal_error", component="file watcher")

    async def _check(self, group: list[Watched[Any]], thread: trio.CapacityLimiter) -> None:
        changed: list[Watched[Any]] = []
        with trio.move_on_after(CHECK_TIMEOUT) as deadline:
            changed = await run_in_thread(lambda: _find_changed(group), thread)
        if deadline.cancelled_caught:
            self._report_failure(group[0], CHECK_TIMEOUT)
        reloaded: list[tuple[str, Path]] = []
        for one in changed:
            loaded: _Loaded | None = None
            with trio.move_on_after(LOAD_TIMEOUT) as deadline:
                try:
                    loaded = await run_in_thread(one.read_if_changed, thread)
                except ValueError as error:
                    self._report_failure(one, str(error))
                except NoThreadError:
                    raise
                except Exception as error:
                    self._report_bug(one, error)
            if deadline.cancelled_caught:
                self._report_failure(one, LOAD_TIMEOUT)
                return
            for file in one.replace(loaded)[:1] if loaded is not None else ():
                event = "file.reloaded" if one.certificate is None else "certificate.reloaded"
                if (event, file) not in reloaded:
                    reloaded.append((event, file))
                    log.info(event, file=str(file), **({} if one.expires is None else {"expires": one.expires}))

    def _report_failure(self, watched: Watched[Any], cause: str | float) -> None:
        """Report that files cannot be used.

        Args:
            watched: What was made of them before, and stays in effect.
            cause: One sentence, or the seconds within which the file system did not respond.
        """
        file = _shown_file(watched)
        hung = isinstance(cause, float)
        detail = f"{file}: its file system did not respond within {cause:g} s" if hung else str(cause)
        if watched.fail(detail, at_once=hung):
            event = "file.reload_failed" if watched.certificate is None else "certificate.reload_failed"
            log.error(event, file=str(file), detail=detail)

    def _warn_of_expiry(self, watched: Sequence[Watched[Any]]) -> None:
        now, warned = self._wall_clock(), set()
        for one in watched:
            for text in one.due_warnings(now):
                if text not in warned:
                    warned.add(text)
                    log.warning("certificate.expiring", file=str(one.certificate), expires=one.expires, detail=text)
