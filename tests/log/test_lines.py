"""The thread behind a stream of lines, whatever the stream; `test_writer` has the log's own."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from wsbridge.log.logger import Record
from wsbridge.log.writer import LineWriter, Output, render_safely


def render(record: Record) -> bytes:
    """Make a line; some records cannot be rendered."""
    if record.fields["event"] == "bad":
        raise ZeroDivisionError
    return f"{record.fields['event']} {record.fields.get('n', '')}\n".encode()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Both ends of a pipe."""
    ends = os.pipe()
    yield ends
    for fd in ends:
        os.close(fd)


def record(event: str, **facts: object) -> Record:
    """Make a record of now."""
    return Record(0.0, "info", {"event": event, **facts})


def test_records_become_lines_in_order(pipe: tuple[int, int]) -> None:
    """All that was put before the stop is written, and nothing is lost."""
    writer = LineWriter("test", render, Output(pipe[1]), 100)
    for number in range(50):
        writer.put(record("line", n=number))
    writer._thread.start()
    assert writer.stop()
    assert os.read(pipe[0], 65536).decode().split("\n")[:-1] == [f"line {number}" for number in range(50)]
    assert writer.dropped == 0


def test_the_queue_is_bounded(pipe: tuple[int, int]) -> None:
    """Beyond its limit records are dropped and counted."""
    writer = LineWriter("test", render, Output(pipe[1]), 3)
    for number in range(5):
        writer.put(record("line", n=number))
    assert writer.dropped == 2


def test_a_record_that_cannot_be_rendered_is_a_line_all_the_same() -> None:
    """The line names the event and the error, and none of the values."""
    assert render_safely(render, record("bad", secret="x")) == b"internal_error \n"
