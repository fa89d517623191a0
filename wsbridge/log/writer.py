"""Writer thread, queue, rate limit per event, output."""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Final

from wsbridge.log.events import LOG_EVENTS
from wsbridge.log.format import Render, choose_format, renderer, wants_colour
from wsbridge.log.logger import Record, normalise_fields, sink


class EventRateLimiter:
    """Tokens of one event. `take` is for the callers, `untold` for the writer; neither locks.

    Args:
        rate: Records a second.
        burst: Records that may come at once after a quiet time.
    """

    __slots__ = ("_burst", "_last", "_rate", "_reported", "_tokens", "suppressed")

    def __init__(self, rate: float, burst: float) -> None:
        self._rate, self._burst = rate, burst
        self._tokens, self._last = burst, 0.0
        self._reported = 0
        self.suppressed = 0
        """Records refused so far; only ever grows."""

    def allow(self, now: float) -> bool:
        """Whether one more record may be written at `now` (seconds; a clock set back gives nothing)."""
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
        """How many were refused since the last call."""
        count = self.suppressed - self._reported
        self._reported += count
        return count


def event_rate_limiters() -> dict[str, EventRateLimiter]:
    """A fresh bucket for each limited event, by its name."""
    return {
        name: EventRateLimiter(*event.rate_limit) for name, event in LOG_EVENTS.items() if event.rate_limit is not None
    }


WRITE_POLL_INTERVAL: Final = 0.2
"""Seconds between two looks at whether to give up, while the descriptor is full."""
MAX_WRITE_BYTES: Final = 65536
"""Bytes of one system call."""


class Output:
    """Writes whole lines to one descriptor, which it neither owns nor changes."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._partial_line = False

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
        mended = 1 if self._partial_line and sent else 0
        if sent:
            self._partial_line = data[sent - 1] != 0x0A
        return sent - mended

    def _send(self, data: bytes, give_up: Callable[[], bool]) -> int:
        view, sent = memoryview(data), 0
        while sent < len(view):
            try:
                if self._writable():
                    sent += os.write(self._fd, view[sent : sent + MAX_WRITE_BYTES])
                    continue
            except BlockingIOError:
                time.sleep(WRITE_POLL_INTERVAL / 20)  # somebody else filled it first
            except OSError:
                break
            if give_up():
                break
        return sent

    def _writable(self) -> bool:
        """Wait a little for room, or for the error that the next write will report."""
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        return bool(poll.poll(WRITE_POLL_INTERVAL * 1000))


BATCH_DELAY: Final = 0.010
"""Seconds that the first record of a batch waits for others."""
MAX_BATCH_RECORDS: Final = 512
"""Records of one batch at the most."""
SLICE_RECORDS: Final = 8
"""Records rendered before the interpreter is left to the event loop."""
SLICE_PAUSE: Final = 0.0002
"""Seconds it is left for; without, each system call of the loop could wait for as long as a batch takes to render."""
LOSS_REPORT_INTERVAL: Final = 1.0
"""Seconds at least between two tellings of what was lost, and at most between two batches, though an empty one."""


class LineWriter:
    """The thread and its queue.

    Args:
        name: Of the thread.
        render: Makes a line of a record.
        output: Where the lines go.
        queue: Records that may wait; more are dropped and counted.
    """

    def __init__(self, name: str, render: Render, output: Output, max_queue: int) -> None:
        self._max_queue = max_queue
        self._queue: SimpleQueue[Record | None] = SimpleQueue()  # its put is reentrant: signal handlers may log
        self._render = render
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
        """Records lost so far: the queue was full or the output failed. Exact if one thread puts."""
        return self._overflow + self._failed

    def put(self, record: Record) -> None:
        """Queue one record. Runs on the calling thread; never blocks, never raises."""
        if self._queue.qsize() >= self._max_queue:
            self._overflow += 1
            return
        normalise_fields(record.fields)
        self._queue.put(record)

    def stop(self, timeout: float = 2.0) -> bool:
        """Write what is queued and end the thread. Blocks, so call it when the event loop is done.

        Args:
            timeout: Seconds to give the output.

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
                self._write(batch, self._loss_records(last=not running))
            except Exception:  # out of memory, most likely: these lines are lost, the next ones need not be
                self._failed += len(batch)
            if self._timed_out():
                self._failed += self._queue.qsize()
                return

    def _next_batch(self) -> tuple[list[Record], bool]:
        """The next batch, empty after a while without records, and whether more may follow."""
        try:
            first = self._queue.get(timeout=LOSS_REPORT_INTERVAL)
        except Empty:
            return [], True
        if first is None:
            return [], False
        if self._queue.qsize() < MAX_BATCH_RECORDS:
            self._stopping.wait(BATCH_DELAY)
        batch, more = self._drain_queue(MAX_BATCH_RECORDS - 1)
        return [first, *batch], more

    def _drain_queue(self, limit: int) -> tuple[list[Record], bool]:
        batch: list[Record] = []
        try:
            while len(batch) < limit:
                record = self._queue.get_nowait()
                if record is None:
                    return batch, False
                batch.append(record)
        except Empty:
            pass
        return batch, True

    def _loss_records(self, *, last: bool) -> list[Record]:
        """Records for this very stream that tell of records lost; `_write` is given them behind the batch."""
        return []

    def _write(self, batch: list[Record], loss_records: list[Record]) -> bool:
        """Write a batch and what tells of losses; tell whether all of it went out."""
        lines: list[bytes] = []
        for record in batch:
            lines.append(render_safely(self._render, record))
            if len(lines) % SLICE_RECORDS == 0 and not self._stopping.is_set():
                time.sleep(SLICE_PAUSE)
        lines += [render_safely(self._render, record) for record in loss_records]
        if not lines:
            return True
        data = b"".join(lines)
        sent = self._output.write(data, self._timed_out)
        if sent == len(data):
            return True
        for line in lines[: len(batch)]:
            sent -= len(line)
            if sent < 0:
                self._failed += 1
        return False

    def _timed_out(self) -> bool:
        return self._stopping.is_set() and time.monotonic() > self._deadline


def render_safely(render: Render, record: Record) -> bytes:
    """The record's line, or a line that says why there is none: a value must not end the writer."""
    try:
        return render(record)
    except Exception as error:  # the writer outlives any value
        facts = {
            "event": "internal_error",
            "component": "log",
            "detail": f"{record.fields.get('event')!r}: {type(error).__name__}",
        }
        return render(Record(record.time, "error", facts))


class LogWriter(LineWriter):
    """Writes the log. Made by `wsbridge.log.start`.

    Attributes:
        format: console, json or journal.
    """

    def __init__(self, fd: int, format: str, max_queue: int) -> None:  # noqa: A002  the name of the setting
        super().__init__("wsbridge-log", renderer(format, colour=wants_colour(fd)), Output(fd), max_queue)
        self.format = format
        self._rate_limiters = event_rate_limiters()

    @property
    def suppressed(self) -> int:
        """Records left out so far because their event came too often."""
        return sum(bucket.suppressed for bucket in self._rate_limiters.values())

    def open(self) -> None:
        """Start the thread and point the log at it."""
        self._thread.start()
        sink.set_target(self.put)

    def put(self, record: Record) -> None:
        """See `LineWriter.put`."""
        bucket = self._rate_limiters.get(record.fields["event"])
        if bucket is not None and not bucket.allow(record.time):
            return
        super().put(record)

    def stop(self, timeout: float = 2.0) -> bool:
        """Write what is queued, end the thread, and let later records be written at once by their callers.

        Blocks, so call it when the event loop is done. Where the output is stuck, later records are thrown away.

        Args:
            timeout: Seconds to give the output.

        Returns:
            Whether the thread ended in time.
        """
        ended = super().stop(timeout)
        if sink.put == self.put:
            sink.set_target(write_now if ended else _discard)
        if ended:
            self._write(self._drain_queue(MAX_BATCH_RECORDS)[0], [])
        return ended

    def _loss_records(self, *, last: bool) -> list[Record]:
        """Records that tell of other records, at most once a `TELL`; `_write` notes them as told."""
        now = time.monotonic()
        if now < self._next_report and not last:
            return []
        wall = time.time()
        losses = []
        for name, limiter in self._rate_limiters.items():
            if count := limiter.take_suppressed_count():
                losses.append(
                    Record(wall, "warning", {"event": "log.suppressed", "suppressed_event": name, "count": count})
                )
        if lost := self.dropped - self._reported:
            losses.append(Record(wall, "warning", {"event": "log.dropped", "count": lost}))
        if losses:
            self._next_report = now + LOSS_REPORT_INTERVAL
        return losses

    def _write(self, batch: list[Record], loss_records: list[Record]) -> bool:
        if not super()._write(batch, loss_records):
            return False
        self._reported += sum(loss.fields["count"] for loss in loss_records if loss.fields["event"] == "log.dropped")
        return True


def write_now(record: Record) -> None:
    """Write one record to standard error on the calling thread: before `start` and after `stop`."""
    normalise_fields(record.fields)
    name = choose_format("auto", 2)
    Output(2).write(render_safely(renderer(name, colour=wants_colour(2)), record), lambda: True)


def _discard(_record: Record) -> None:
    pass
