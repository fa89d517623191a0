"""Writes lines on a thread: the queue, the rate limit of events, batches, the report of lost lines, the descriptor."""

from __future__ import annotations

import errno
import os
import select
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Final

from structlog import DropEvent
from structlog.typing import EventDict, Processor

from wsbridge.log.events import LOG_EVENTS
from wsbridge.log.format import choose_format, line_processors, render, wants_colour
from wsbridge.log.logger import log


class EventRateLimiter:
    """A token bucket of one event. `allow` is for the callers, `take_suppressed_count` for the thread; neither locks.

    Args:
        rate: Records per second.
        burst: Records that may be written at once after a pause.
    """

    __slots__ = ("_burst", "_last", "_rate", "_reported", "_tokens", "suppressed")

    def __init__(self, rate: float, burst: float) -> None:
        self._rate, self._burst = rate, burst
        self._tokens, self._last = burst, 0.0
        self._reported = 0
        self.suppressed = 0
        """Records suppressed so far; it only ever grows."""

    def allow(self, now: float) -> bool:
        """Whether one more record may be written at `now` (monotonic seconds)."""
        passed = now - self._last
        self._last = now
        if passed > 0:
            self._tokens = min(self._burst, self._tokens + passed * self._rate)
        if self._tokens < 1:
            self.suppressed += 1
            return False
        self._tokens -= 1
        return True

    def take_suppressed_count(self) -> int:
        """How many were suppressed since the last call."""
        count = self.suppressed - self._reported
        self._reported += count
        return count


def event_rate_limiters() -> dict[str, EventRateLimiter]:
    """A new bucket for each limited event, by its name."""
    return {
        name: EventRateLimiter(*event.rate_limit) for name, event in LOG_EVENTS.items() if event.rate_limit is not None
    }


WRITE_POLL_INTERVAL: Final = 0.2
"""Seconds between two checks whether to give up, while the descriptor is full."""
MAX_WRITE_BYTES: Final = 65536
"""Bytes of one write(2)."""


class Output:
    """Writes whole lines to one descriptor, which it neither owns nor changes.

    Args:
        fd: The descriptor.
        partial_line: Whether what was written to it before ends within a line.
    """

    def __init__(self, fd: int, *, partial_line: bool = False) -> None:
        self._fd = fd
        self._partial_line = partial_line

    def write(self, data: bytes, give_up: Callable[[], bool]) -> int:
        """Write all of `data`, waiting while the descriptor is full.

        Args:
            data: Whole lines.
            give_up: Asked while the descriptor is full; True ends the attempt.

        Returns:
            How many bytes of `data` went out: all of them, or fewer after an error (reader gone, disk full) or after
            `give_up`. If the last line went out in part, the next write begins a new line.
        """
        if self._partial_line:
            data = b"\n" + data
        sent = self._send(data, give_up)
        newline = 1 if self._partial_line and sent else 0
        if sent:
            self._partial_line = data[sent - 1] != 0x0A
        return sent - newline

    def _send(self, data: bytes, give_up: Callable[[], bool]) -> int:
        view, sent = memoryview(data), 0
        while sent < len(view):
            try:
                if self._writable():
                    sent += os.write(self._fd, view[sent : sent + MAX_WRITE_BYTES])
                    continue
            except BlockingIOError:
                time.sleep(WRITE_POLL_INTERVAL / 20)  # another process filled it first
            except OSError:
                break
            if give_up():
                break
        return sent

    def _writable(self) -> bool:
        """Wait a little for space, or for the error that the next write will report."""
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        return bool(poll.poll(WRITE_POLL_INTERVAL * 1000))


BATCH_DELAY: Final = 0.010
"""Seconds that the first line of a batch waits for others."""
MAX_BATCH_LINES: Final = 512
LOSS_REPORT_INTERVAL: Final = 1.0
"""Least seconds between two reports of lost lines, and most between two batches, even if the second one is empty."""


class LineWriter:
    """A thread that writes lines from a bounded queue.

    Args:
        name: Name of the thread.
        output: Where the lines go.
        max_queue: Lines that may wait; more are dropped and counted.
    """

    def __init__(self, name: str, output: Output, max_queue: int) -> None:
        self._max_queue = max_queue
        self._queue: SimpleQueue[bytes | None] = SimpleQueue()  # its put is reentrant: signal handlers may log
        self._output = output
        self._overflow = 0  # counted by the callers
        self._failed = 0  # counted by the thread
        self._reported = 0
        self._next_report = 0.0
        self._stopping = threading.Event()
        self._deadline = float("inf")
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def dropped(self) -> int:
        """Lines lost so far: the queue was full or the output failed. Exact if one thread puts."""
        return self._overflow + self._failed

    def has_room(self) -> bool:
        """Whether a line may be put; if not, one is counted as lost. Asked before the line is rendered."""
        if self._queue.qsize() < self._max_queue:
            return True
        self._overflow += 1
        return False

    def put(self, line: bytes) -> None:
        """Queue one line. Runs on the calling thread and never blocks."""
        self._queue.put(line)

    def start_thread(self) -> None:
        """Start the thread.

        Raises:
            OSError: There is no thread to be had.
        """
        try:
            self._thread.start()
        except RuntimeError as error:
            raise OSError(errno.EAGAIN, str(error)) from None

    def stop(self, timeout: float = 2.0) -> bool:
        """Write what is queued and end the thread. Blocks: to be called after the event loop.

        Args:
            timeout: Seconds that the output may need.

        Returns:
            Whether the thread ended in time.
        """
        self._deadline = time.monotonic() + timeout
        self._stopping.set()
        self._queue.put(None)
        self._thread.join(timeout + 2 * WRITE_POLL_INTERVAL)
        return not self._thread.is_alive()

    def _run(self) -> None:
        running = True
        while running:
            batch, running = self._next_batch()
            try:
                self._write(batch, last=not running)
            except Exception:  # out of memory, most likely: these lines are lost, the next ones need not be
                self._failed += len(batch)
            if self._timed_out():
                self._failed += len(self._drain_queue(self._queue.qsize())[0])
                self._report_losses(last=True)
                return

    def _next_batch(self) -> tuple[list[bytes], bool]:
        """The next batch, empty after a while without lines, and whether more may follow."""
        try:
            first = self._queue.get(timeout=LOSS_REPORT_INTERVAL)
        except Empty:
            return [], True
        if first is None:
            return [], False
        if self._queue.qsize() < MAX_BATCH_LINES:
            self._stopping.wait(BATCH_DELAY)
        batch, more = self._drain_queue(MAX_BATCH_LINES - 1)
        return [first, *batch], more

    def _drain_queue(self, limit: int) -> tuple[list[bytes], bool]:
        batch: list[bytes] = []
        try:
            while len(batch) < limit:
                line = self._queue.get_nowait()
                if line is None:
                    return batch, False
                batch.append(line)
        except Empty:
            pass
        return batch, True

    def _report_losses(self, *, last: bool) -> tuple[list[bytes], int]:
        """Lines for this very output that report lost lines, and how many lost lines they report."""
        return [], 0

    def _write(self, batch: list[bytes], *, last: bool) -> None:
        """Write a batch, and behind it the report of losses."""
        reports, lost = self._report_losses(last=last)
        data = b"".join([*batch, *reports])
        sent = self._output.write(data, self._timed_out) if data else 0
        if sent == len(data):
            self._reported += lost
            return
        for line in batch:
            sent -= len(line)
            if sent < 0:
                self._failed += 1

    def _timed_out(self) -> bool:
        return self._stopping.is_set() and time.monotonic() > self._deadline


class LogWriter(LineWriter):
    """Writes the log; `wsbridge.log.start_log` makes it.

    Attributes:
        format: console, json or journal.
    """

    def __init__(self, fd: int, format: str, max_queue: int) -> None:  # noqa: A002  the name of the setting
        super().__init__("wsbridge-log", Output(fd), max_queue)
        self._fd = fd
        self.format = format
        self._processors = line_processors(format, colour=wants_colour(fd))
        self._rate_limiters = event_rate_limiters()

    @property
    def suppressed(self) -> int:
        """Records suppressed so far by the rate limit of their event."""
        return sum(self.suppressed_by_event().values())

    def suppressed_by_event(self) -> dict[str, int]:
        """Return how many records of each limited event were suppressed so far."""
        return {name: limiter.suppressed for name, limiter in self._rate_limiters.items()}

    def open(self) -> None:
        """Start the thread and send the log to it.

        Raises:
            OSError: There is no thread to be had.
        """
        self.start_thread()
        self._attach()

    def set_format(self, format: str) -> None:  # noqa: A002  the name of the setting
        """Render what is logged from now on in another format: auto, console, json or journal.

        Raises:
            ValueError: The format is unknown.
        """
        self.format = choose_format(format, self._fd)
        self._processors = line_processors(self.format, colour=wants_colour(self._fd))
        self._attach()

    def _attach(self) -> None:
        log.set_output([self._admit, *self._processors], self.put)

    def stop(self, timeout: float = 2.0) -> bool:
        """Write what is queued, end the thread, and have later records written at once by their callers.

        Blocks: to be called after the event loop. Where the output is stuck, later records are discarded.

        Args:
            timeout: Seconds that the output may need.

        Returns:
            Whether the thread ended in time.
        """
        ended = super().stop(timeout)
        if log.put == self.put:
            if ended:
                write_immediately()
            else:
                log.set_output([_discard], self.put)
        if ended:
            self._write(self._drain_queue(MAX_BATCH_LINES)[0], last=True)
        return ended

    def _admit(self, _logger: object, _level: str, fields: EventDict) -> EventDict:
        """A structlog processor that drops what is suppressed, or what the queue has no room for."""
        bucket = self._rate_limiters.get(fields["event"])
        if (bucket is not None and not bucket.allow(time.monotonic())) or not self.has_room():
            raise DropEvent
        return fields

    def _report_losses(self, *, last: bool) -> tuple[list[bytes], int]:
        now = time.monotonic()
        if now < self._next_report and not last:
            return [], 0
        reports: list[EventDict] = []
        for name, limiter in self._rate_limiters.items():
            if count := limiter.take_suppressed_count():
                reports.append({"event": "log.suppressed", "suppressed_event": name, "count": count})
        if lost := self.dropped - self._reported:
            reports.append({"event": "log.dropped", "count": lost})
        if reports:
            self._next_report = now + LOSS_REPORT_INTERVAL
        return [render(self._processors, "warning", fields) for fields in reports], lost


def write_immediately() -> None:
    """Have the callers of the log write to standard error: before the thread has started and after it has ended."""
    log.set_output([_render_for_stderr], _write_to_stderr)


def _render_for_stderr(_logger: object, level: str, fields: EventDict) -> bytes:
    processors: list[Processor] = line_processors(choose_format("auto", 2), colour=wants_colour(2))
    return render(processors, level, fields)


def _write_to_stderr(line: bytes) -> None:
    Output(2).write(line, lambda: True)


def _discard(_logger: object, _level: str, _fields: EventDict) -> EventDict:
    raise DropEvent
