"""The audit log: a file of its own, reopened when it was renamed or removed."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from wsbridge import __version__
from wsbridge.log.events import AUDIT_EVENTS
from wsbridge.log.format import AUDIT_PROCESSORS, render
from wsbridge.log.logger import log
from wsbridge.log.writer import LOSS_REPORT_INTERVAL, LineWriter, Output

AUDIT_QUEUE_RECORDS: Final = 10_000
"""Records that may wait for the disk; more are dropped, counted, and reported in the log."""
AUDIT_FILE_MODE: Final = 0o600
"""Mode of a new file; an existing one keeps its own."""
_OPEN_FLAGS: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK


class AuditLog(LineWriter):
    """The audit file and the thread that writes it.

    Args:
        path: The file; its directory must exist.

    Attributes:
        path: As given.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None
        self._last_error = ""
        super().__init__("wsbridge-audit", Output(-1), AUDIT_QUEUE_RECORDS)

    def open(self) -> None:
        """Open the file, start the thread, and write `audit.started`.

        Raises:
            ValueError: The file cannot be opened, or there is no thread to be had; one sentence.
        """
        try:
            self._reopen()
            self.start_thread()
        except OSError as error:
            self._close_file()
            raise ValueError(f"audit: {self.path} cannot be opened: {error.strerror}") from error
        self.emit("audit.started", {"pid": os.getpid(), "version": __version__})

    def emit(self, event: str, fields: Mapping[str, object]) -> None:
        """Queue one record; never blocks.

        Args:
            event: Its name in the table.
            fields: The facts; those that the table has for the event are written.
        """
        if self.has_room():
            record = {"event": event, **{key: fields[key] for key in AUDIT_EVENTS[event].keys if key in fields}}
            self.put(render(AUDIT_PROCESSORS, "info", record))

    def close(self) -> None:
        """Write `audit.stopped` and what is queued, and close the file. Blocks for two seconds at most."""
        if self._fd is None:
            return
        self.emit("audit.stopped", {"pid": os.getpid(), "dropped": self.dropped})
        if self.stop():  # else the thread still writes to it
            self._close_file()
        self._report_losses(last=True)

    def _close_file(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _reopen(self) -> None:
        fd = os.open(self.path, _OPEN_FLAGS, AUDIT_FILE_MODE)
        if self._fd is not None:
            os.close(self._fd)
        self._fd, self._output = fd, Output(fd, partial_line=_ends_within_line(self.path))

    def _write(self, batch: list[bytes], *, last: bool) -> None:
        self._reopen_if_moved()
        super()._write(batch, last=last)

    def _reopen_if_moved(self) -> None:
        """Open the file again if it was renamed or removed; if that fails, continue with the old one."""
        error_text = ""
        try:
            if not self._is_current_file():
                self._reopen()
        except OSError as error:
            error_text = error.strerror or str(error)
        if error_text != self._last_error:
            self._last_error = error_text
            if error_text:
                log.error("audit.failed", file=self.path, error=error_text)

    def _is_current_file(self) -> bool:
        assert self._fd is not None  # noqa: S101 (the thread runs only while it is open)
        try:
            return os.path.samestat(self.path.stat(), os.fstat(self._fd))
        except FileNotFoundError:
            return False

    def _report_losses(self, *, last: bool) -> tuple[list[bytes], int]:
        """Report in the log, not in this file, which may be what fails."""
        now = time.monotonic()
        lost = self.dropped - self._reported
        if lost and (last or now >= self._next_report):
            self._reported += lost
            self._next_report = now + LOSS_REPORT_INTERVAL
            log.warning("audit.dropped", file=self.path, count=lost)
        return [], 0


def _ends_within_line(path: Path) -> bool:
    """Return whether the last record of a file is incomplete, as after a full disk; False if it cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
        try:
            size = os.fstat(fd).st_size  # 0 if it is no regular file
            return size > 0 and os.pread(fd, 1, size - 1) != b"\n"
        finally:
            os.close(fd)
    except OSError:
        return False
