"""The thread behind a stream of lines, whatever the stream; `test_writer` has the log's own."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from wsbridge.log.writer import LineWriter, Output


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Both ends of a pipe."""
    ends = os.pipe()
    yield ends
    for fd in ends:
        os.close(fd)


def test_lines_are_written_in_order(pipe: tuple[int, int]) -> None:
    """All that was put before the stop is written, and nothing is lost."""
    writer = LineWriter("test", Output(pipe[1]), 100)
    for number in range(50):
        writer.put(f"line {number}\n".encode())
    writer._thread.start()
    assert writer.stop()
    assert os.read(pipe[0], 65536).decode().split("\n")[:-1] == [f"line {number}" for number in range(50)]
    assert writer.dropped == 0


def test_the_queue_is_bounded(pipe: tuple[int, int]) -> None:
    """Beyond its limit lines are dropped and counted."""
    writer = LineWriter("test", Output(pipe[1]), 3)
    for _ in range(5):
        if writer.has_room():
            writer.put(b"line\n")
    assert writer.dropped == 2
