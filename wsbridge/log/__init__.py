"""The log: a record is rendered where it is made, as one line, and written by a thread, never by the event loop.

A record passes `logger` (level; structlog), `writer` (rate limit, bounded queue), `format` (bounded values, redaction,
JSON, journal or console) and, on the thread, `writer` again. `events` has the names of all events and keys. `audit` is
the audit log. Modules import `log` from `logger`; only the daemon and the commands call `start_log`.
"""

from __future__ import annotations

from wsbridge.log.format import FORMATS, choose_format
from wsbridge.log.logger import Logger, log
from wsbridge.log.writer import LogWriter, write_immediately

__all__ = ["log", "start_log", "Logger", "LogWriter", "FORMATS"]

write_immediately()


def start_log(
    level: str = "info",
    format: str = "auto",  # noqa: A002  the name of the setting
    fd: int = 2,
    max_queue: int = 10_000,
) -> LogWriter:
    """Start the writing thread and send all further records to it.

    Before this call, and after the writer's `stop`, records are written to standard error at once. Calling it again
    points `log` at the new writer; the old one still has to be stopped.

    Args:
        level: Least level that is written: debug, info, warning or error.
        format: auto, console, json or journal; auto is journal when `fd` is the journal's stream, console on a
            terminal, else JSON.
        fd: Descriptor to write to, blocking or not. It is neither changed nor closed.
        max_queue: Lines that may wait; more are dropped, counted, and reported by `log.dropped`.

    Raises:
        ValueError: The level or the format is unknown.
        OSError: There is no thread to be had.
    """
    writer = LogWriter(fd=fd, format=choose_format(format, fd), max_queue=max_queue)
    log.set_level(level)
    writer.open()
    return writer
