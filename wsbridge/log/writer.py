"""The writer: the log's stream of lines, which tells of its own losses.

Lives here: what the log does besides writing lines (`lines`): floods of one event are cut short, and what was lost or
left out is told in the log itself. Must not live here: the queue and the thread.
"""

from __future__ import annotations

import time

from wsbridge.log.limit import buckets
from wsbridge.log.lines import BATCH, TELL, LineWriter, render_safely
from wsbridge.log.output import Output
from wsbridge.log.record import Record, gate, settle
from wsbridge.log.render import choose_format, renderer, wants_colour


class LogWriter(LineWriter):
    """Writes the log. Made by `wsbridge.log.start`.

    Attributes:
        format: console, json or journal.
    """

    def __init__(self, fd: int, format: str, queue: int) -> None:  # noqa: A002  the name of the setting
        super().__init__("wsbridge-log", renderer(format, colour=wants_colour(fd)), Output(fd), queue)
        self.format = format
        self._buckets = buckets()

    @property
    def suppressed(self) -> int:
        """Records left out so far because their event came too often."""
        return sum(bucket.suppressed for bucket in self._buckets.values())

    def open(self) -> None:
        """Start the thread and point the log at it."""
        self._thread.start()
        gate.point_at(self.put)

    def put(self, record: Record) -> None:
        """See `LineWriter.put`."""
        bucket = self._buckets.get(record.facts["event"])
        if bucket is not None and not bucket.take(record.time):
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
        if gate.put == self.put:
            gate.point_at(write_now if ended else _throw_away)
        if ended:
            self._write(self._take(BATCH)[0], [])
        return ended

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

    def _write(self, batch: list[Record], losses: list[Record]) -> bool:
        if not super()._write(batch, losses):
            return False
        self._told += sum(loss.facts["count"] for loss in losses if loss.facts["event"] == "log.dropped")
        return True


def write_now(record: Record) -> None:
    """Write one record to standard error on the calling thread: before `start` and after `stop`."""
    settle(record.facts)
    name = choose_format("auto", 2)
    Output(2).write(render_safely(renderer(name, colour=wants_colour(2)), record), lambda: True)


def _throw_away(_record: Record) -> None:
    pass
