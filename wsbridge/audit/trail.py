"""The trail: the file of the audit, which other programs may rename or remove at any time.

Lives here: opening it, opening it anew, and telling the log of what is lost. Must not live here: batches and lines
(`log.lines`, `log.render`), what a record says (`account`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from wsbridge import __version__
from wsbridge.audit.events import EVENTS
from wsbridge.log import log
from wsbridge.log.lines import TELL, LineWriter
from wsbridge.log.output import Output
from wsbridge.log.record import Record
from wsbridge.log.render import event_line

QUEUE: Final = 10_000
"""Records that may wait for the disk; more are dropped, counted, and told in the log."""
MODE: Final = 0o600
"""Of a file that is made; one that is there keeps its own."""
_FLAGS: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK


class Trail(LineWriter):
    """The audit's file, and the thread that writes it.

    Args:
        path: Of the file; its folder must exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None
        self._trouble = ""
        super().__init__("wsbridge-audit", event_line, Output(-1), QUEUE)

    def open(self) -> None:
        """Open the file, start the thread, and say that the audit begins.

        Raises:
            ValueError: The file cannot be opened; one sentence.
        """
        try:
            self._reopen()
        except OSError as error:
            raise ValueError(f"audit: {self._path} cannot be opened: {error.strerror}") from None
        self._thread.start()
        self.tell("started", {"pid": os.getpid(), "version": __version__})

    def tell(self, event: str, facts: Mapping[str, object]) -> None:
        """Queue one record; never blocks.

        Args:
            event: Its name in the table.
            facts: What is known; of it, what the table has for the event is written.
        """
        record = {"event": event, **{key: facts[key] for key in EVENTS[event].keys if key in facts}}
        self.put(Record(time.time(), "info", record))

    def close(self) -> None:
        """Say that the audit ends, write what is queued, and close the file. Blocks for two seconds at the most."""
        if self._fd is None:
            return
        self.tell("stopped", {"pid": os.getpid(), "dropped": self.dropped})
        if self.stop():  # else the thread still writes to it
            os.close(self._fd)
            self._fd = None
        self._losses(last=True)

    def _reopen(self) -> None:
        fd = os.open(self._path, _FLAGS, MODE)
        if self._fd is not None:
            os.close(self._fd)
        self._fd, self._output = fd, Output(fd)

    def _write(self, batch: list[Record], losses: list[Record]) -> bool:
        self._follow()
        return super()._write(batch, losses)

    def _follow(self) -> None:
        """Open the file anew if its name no longer leads to it; where that fails, go on with the old one."""
        trouble = ""
        try:
            if not self._is_there():
                self._reopen()
        except OSError as error:
            trouble = error.strerror or str(error)
        if trouble != self._trouble:
            self._trouble = trouble
            if trouble:
                log.error("audit.failed", file=self._path, error=trouble)

    def _is_there(self) -> bool:
        assert self._fd is not None  # noqa: S101 (the thread runs only while it is open)
        try:
            return os.path.samestat(self._path.stat(), os.fstat(self._fd))
        except FileNotFoundError:
            return False

    def _losses(self, *, last: bool) -> list[Record]:
        """Tell the log, not this stream, which may be what fails."""
        now = time.monotonic()
        lost = self.dropped - self._told
        if lost and (last or now >= self._next_telling):
            self._told += lost
            self._next_telling = now + TELL
            log.warning("audit.dropped", file=self._path, count=lost)
        return []
