"""Lines: a thread that takes records from a bounded queue and writes their lines in batches.

Lives here: the queue, the batches, and the count of what is lost. Must not live here: the look of a line (`render`),
the descriptor's moods (`output`), what a stream does besides (`writer`, `wsbridge.audit`). The event loop only ever
calls `LineWriter.put`, which does not block.
"""

from __future__ import annotations

import threading
import time
from queue import Empty, SimpleQueue
from typing import Final

from wsbridge.log.output import POLL, Output
from wsbridge.log.record import Record, settle
from wsbridge.log.render import Render

GATHER: Final = 0.010
"""Seconds that the first record of a batch waits for others."""
BATCH: Final = 512
"""Records of one batch at the most."""
SLICE: Final = 8
"""Records rendered before the interpreter is left to the event loop."""
REST: Final = 0.0002
"""Seconds it is left for; without, each system call of the loop could wait for as long as a batch takes to render."""
TELL: Final = 1.0
"""Seconds at least between two tellings of what was lost, and at most between two batches, though an empty one."""


class LineWriter:
    """The thread and its queue.

    Args:
        name: Of the thread.
        render: Makes a line of a record.
        output: Where the lines go.
        queue: Records that may wait; more are dropped and counted.
    """

    def __init__(self, name: str, render: Render, output: Output, queue: int) -> None:
        self._limit = queue
        self._queue: SimpleQueue[Record | None] = SimpleQueue()  # its put is reentrant: signal handlers may log
        self._render = render
        self._output = output
        self._overflow = 0  # counted by the callers
        self._failed = 0  # counted by the thread
        self._told = 0
        self._next_telling = 0.0
        self._stopping = threading.Event()
        self._deadline = float("inf")
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def dropped(self) -> int:
        """Records lost so far: the queue was full or the output failed. Exact if one thread puts."""
        return self._overflow + self._failed

    def put(self, record: Record) -> None:
        """Queue one record. Runs on the calling thread; never blocks, never raises."""
        if self._queue.qsize() >= self._limit:
            self._overflow += 1
            return
        settle(record.facts)
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
        self._thread.join(timeout + 2 * POLL)
        return not self._thread.is_alive()

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
        """Records for this very stream that tell of records lost; `_write` is given them behind the batch."""
        return []

    def _write(self, batch: list[Record], losses: list[Record]) -> bool:
        """Write a batch and what tells of losses; tell whether all of it went out."""
        lines: list[bytes] = []
        for record in batch:
            lines.append(render_safely(self._render, record))
            if len(lines) % SLICE == 0 and not self._stopping.is_set():
                time.sleep(REST)
        lines += [render_safely(self._render, record) for record in losses]
        if not lines:
            return True
        data = b"".join(lines)
        sent = self._output.write(data, self._given_up)
        if sent == len(data):
            return True
        for line in lines[: len(batch)]:
            sent -= len(line)
            if sent < 0:
                self._failed += 1
        return False

    def _given_up(self) -> bool:
        return self._stopping.is_set() and time.monotonic() > self._deadline


def render_safely(render: Render, record: Record) -> bytes:
    """The record's line, or a line that says why there is none: a value must not end the writer."""
    try:
        return render(record)
    except Exception as error:  # the writer outlives any value
        facts = {"event": "bug", "where": "log", "detail": f"{record.facts.get('event')!r}: {type(error).__name__}"}
        return render(Record(record.time, "error", facts))
