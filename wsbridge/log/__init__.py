"""The log: one record is one line, written by a thread of its own, never by the event loop.

Reading order, which is the way of a record: `record` (what the caller does: level, time, plain values, a bounded
queue), `limit` (floods of one event are cut short), `lines` (the thread: batches), `writer` (lost records told later),
`redact` (secrets), `render` (JSON, console, journal), `output` (the descriptor, which may be full or gone).
`events` is the table of all names. Everyone imports `log` from here; only the daemon and the commands call `start`.
Must not live here: any fact about a connection.
"""

from __future__ import annotations

from wsbridge.log.format import FORMATS, choose_format
from wsbridge.log.logger import Logger, log, sink
from wsbridge.log.writer import LogWriter, write_now

__all__ = ["log", "start_log", "Logger", "LogWriter", "FORMATS"]

sink.set_target(write_now)


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
        max_queue: Records that may wait; more are dropped, counted, and told by `log.dropped`.

    Raises:
        ValueError: The level or the format is unknown.
    """
    writer = LogWriter(fd=fd, format=choose_format(format, fd), max_queue=max_queue)
    log.set_level(level)
    writer.open()
    return writer
