"""The writer: the thread that takes records from a bounded queue and writes their lines in batches.

Lives here: the queue, the batches, what is lost and how that is told. Must not live here: the look of a line
(`render`), the descriptor's moods (`output`). The event loop only ever calls `LogWriter.put`, which does not block.
"""

from __future__ import annotations

import threading
import time
from queue import Empty, SimpleQueue
from typing import Final

from wsbridge.log.limit import buckets
from wsbridge.log.output import POLL, Output
from wsbridge.log.record import Record, gate, settle
from wsbridge.log.render import Render, choose_format, renderer, wants_colour

GATHER: Final = 0.010
"""Seconds that the first record of a batch waits for others."""
BATCH: Final = 512
"""Records of one batch at the most."""
SLICE: Final = 8
"""Records rendered before the interpreter is left to the event loop."""
REST: Final = 0.0002
"""Seconds it is left for; without, each system call of the loop could wait for as long as a batch takes to render."""
TELL: Final = 1.0
"""Seconds at least between two tellings of what was dropped or suppressed."""


class LogWriter:
    """The thread and its queue. Made by `wsbridge.log.start`.

    Attributes:
        format: console, json or journal.
    """

    def __init__(self, fd: int, format: str, queue: int) -> None:  # noqa: A002  the name of the setting
        self.format = format
        self._limit = queue
        self._queue: SimpleQueue[Record | None] = SimpleQueue()  # its put is reentrant: signal handlers may log
        self._buckets = buckets()
        self._render = renderer(format, colour=wants_colour(fd))
        self._output = Output(fd)
        self._overflow = 0  # counted by the callers
        self._failed = 0  # counted by the thread
        self._told = 0
        self._next_telling = 0.0
        self._stopping = threading.Event()
        self._deadline = float("inf")
        self._thread = threading.Thread(target=self._run, name="wsbridge-log", daemon=True)

    @property
    def dropped(self) -> int:
        """Records lost so far: the queue was full or the output failed. Exact if one thread logs."""
        return self._overflow + self._failed

    @property
    def suppressed(self) -> int:
        """Records left out so far because their event came too often."""
        return sum(bucket.suppressed for bucket in self._buckets.values())

    def open(self) -> None:
        """Start the thread and point the log at it."""
        self._thread.start()
        gate.point_at(self.put)

    def put(self, record: Record) -> None:
        """Queue one record. Runs on the calling thread; never blocks, never raises."""
        bucket = self._buckets.get(record.facts["event"])
        if bucket is not None and not bucket.take(record.time):
            return
        if self._queue.qsize() >= self._limit:
            self._overflow += 1
            return
        settle(record.facts)
        self._queue.put(record)

    def stop(self, timeout: float = 2.0) -> bool:
        """Write what is queued, end the thread, and let later records be written at once by their callers.

        Blocks, so call it when the event loop is done. Where the output is stuck, later records are thrown away.

        Args:
            timeout: Seconds to give the output.

        Returns:
            Whether the thread ended in time.
        """
        self._deadline = time.monotonic() + timeout
        self._stopping.set()
        self._queue.put(None)
        self._thread.join(timeout + 2 * POLL)
        ended = not self._thread.is_alive()
        if gate.put == self.put:
            gate.point_at(write_now if ended else _throw_away)
        if ended:
            self._write(self._take(BATCH)[0], [])
        return ended

    def _run(self) -> None:
        running = True
        while running:
            batch, running = self._gather()
            try:
                self._write(batch, self._losses(last=not running))
            except Exception:  # out of memory, most likely: these lines are lost, the next ones need not be
                self._failed += len(batch)
            if self._given_up():
                self._failed += self._queue.qsize()
                return

    def _gather(self) -> tuple[list[Record], bool]:
        """The next batch, empty after a while without records, and whether more may follow."""
        try:
            first = self._queue.get(timeout=TELL)
        except Empty:
            return [], True
        if first is None:
            return [], False
        if self._queue.qsize() < BATCH:
            self._stopping.wait(GATHER)
        batch, more = self._take(BATCH - 1)
        return [first, *batch], more

    def _take(self, most: int) -> tuple[list[Record], bool]:
        batch: list[Record] = []
        try:
            while len(batch) < most:
                record = self._queue.get_nowait()
                if record is None:
                    return batch, False
                batch.append(record)
        except Empty:
            pass
        return batch, True

    def _losses(self, *, last: bool) -> list[Record]:
        """Records that tell of other records, at most once a `TELL`; `_write` notes them as told."""
        now = time.monotonic()
        if now < self._next_telling and not last:
            return []
        wall = time.time()
        losses = [Record(wall, "warning", {"event": "log.suppressed", "of": name, "count": count})
                  for name, bucket in self._buckets.items() if (count := bucket.untold())]  # fmt: skip
        if lost := self.dropped - self._told:
            losses.append(Record(wall, "warning", {"event": "log.dropped", "count": lost}))
        if losses:
            self._next_telling = now + TELL
        return losses

    def _write(self, batch: list[Record], losses: list[Record]) -> None:
        lines: list[bytes] = []
        for record in batch:
            lines.append(render_safely(self._render, record))
            if len(lines) % SLICE == 0 and not self._stopping.is_set():
                time.sleep(REST)
        lines += [render_safely(self._render, record) for record in losses]
        if not lines:
            return
        data = b"".join(lines)
        sent = self._output.write(data, self._given_up)
        if sent == len(data):
            self._told += sum(loss.facts["count"] for loss in losses if loss.facts["event"] == "log.dropped")
            return
        for line in lines[: len(batch)]:
            sent -= len(line)
            if sent < 0:
                self._failed += 1

    def _given_up(self) -> bool:
        return self._stopping.is_set() and time.monotonic() > self._deadline


def write_now(record: Record) -> None:
    """Write one record to standard error on the calling thread: before `start` and after `stop`."""
    settle(record.facts)
    name = choose_format("auto", 2)
    Output(2).write(render_safely(renderer(name, colour=wants_colour(2)), record), lambda: True)


def render_safely(render: Render, record: Record) -> bytes:
    """The record's line, or a line that says why there is none: a value must not end the writer."""
    try:
        return render(record)
    except Exception as error:  # the writer outlives any value
        facts = {"event": "bug", "where": "log", "detail": f"{record.facts.get('event')!r}: {type(error).__name__}"}
        return render(Record(record.time, "error", facts))


def _throw_away(_record: Record) -> None:
    pass
