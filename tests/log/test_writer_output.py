"""Output: descriptors that are full, gone or out of space."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from wsbridge.log.writer import Output


def never() -> bool:
    """No."""
    return False


def at_once() -> bool:
    """Yes."""
    return True


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe whose writing end does not block."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    yield reader, writer
    for fd in (reader, writer):
        try:
            os.close(fd)
        except OSError:
            continue


def fill(fd: int) -> int:
    """Write until there is no room; give how much went in."""
    size = 0
    try:
        while True:
            size += os.write(fd, b"x" * 4096)
    except BlockingIOError:
        return size


def read(fd: int, size: int) -> bytes:
    """Read exactly so much."""
    data = b""
    while len(data) < size:
        data += os.read(fd, size - len(data))
    return data


def test_writes_all(pipe: tuple[int, int]) -> None:
    """What fits is written at once."""
    assert Output(pipe[1]).write(b"one\n", at_once) == 4
    assert os.read(pipe[0], 100) == b"one\n"


def test_waits_for_a_slow_reader(pipe: tuple[int, int]) -> None:
    """More than the pipe holds goes out as the reader reads."""
    data = b"".join(b"%07d\n" % n for n in range(100_000))
    got: list[bytes] = []
    thread = threading.Thread(target=lambda: got.append(read(pipe[0], len(data))))
    thread.start()

    sent = Output(pipe[1]).write(data, never)
    thread.join()

    assert sent == len(data)
    assert got == [data]


def test_gives_up_on_a_full_pipe_and_mends_the_torn_line(pipe: tuple[int, int]) -> None:
    """After a write that ended within a line, the next starts a new one; the count is that of the bytes written."""
    reader, writer = pipe
    filled = fill(writer)
    read(reader, 4096)
    output = Output(writer)
    line = b"y" * 8191 + b"\n"

    assert output.write(line, at_once) == 4096
    assert output.write(b"lost\n", at_once) == 0
    read(reader, filled)
    assert output.write(b"next\n", at_once) == 5
    assert os.read(reader, 100) == b"\nnext\n"
    assert output.write(b"more\n", at_once) == 5
    assert os.read(reader, 100) == b"more\n"


def test_reader_gone(pipe: tuple[int, int]) -> None:
    """A pipe without a reader loses the lines and raises nothing."""
    os.close(pipe[0])

    assert Output(pipe[1]).write(b"x\n", never) == 0


def test_disk_full() -> None:
    """No space left loses the lines and raises nothing."""
    fd = os.open("/dev/full", os.O_WRONLY)
    try:
        assert Output(fd).write(b"x\n", never) == 0
    finally:
        os.close(fd)


def test_closed_descriptor() -> None:
    """A descriptor that is not open loses the lines and raises nothing."""
    assert Output(999_999).write(b"x\n", never) == 0


def test_regular_file(tmp_path: Path) -> None:
    """A file accepts all of it."""
    fd = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    try:
        assert Output(fd).write(b"x\n" * 100_000, never) == 200_000
    finally:
        os.close(fd)

    assert (tmp_path / "log").read_bytes() == b"x\n" * 100_000
