"""The log writer: batches, losses, the rate limit of events, and the end."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from wsbridge.log import start_log
from wsbridge.log.logger import log
from wsbridge.log.writer import EventRateLimiter, LineWriter, LogWriter, Output, event_rate_limiters, write_immediately


class Reader:
    """The reading end of a pipe, as JSON lines."""

    def __init__(self) -> None:
        self.fd, self.writing_fd = os.pipe()
        self._file = os.fdopen(self.fd, "rb")

    def line(self) -> dict[str, Any]:
        return dict(json.loads(self._file.readline()))

    def rest(self) -> list[dict[str, Any]]:
        """Close the writing end and read what is left."""
        return [json.loads(line) for line in self.raw_lines()]

    def raw_lines(self) -> list[bytes]:
        """Do the same without the last line if that was cut."""
        os.close(self.writing_fd)
        self.writing_fd = -1
        return [line for line in self._file if line.endswith(b"\n")]

    def close(self) -> None:
        self._file.close()
        if self.writing_fd >= 0:
            os.close(self.writing_fd)


@pytest.fixture
def reader() -> Iterator[Reader]:
    """A pipe to log into, 4 KiB small."""
    pipe = Reader()
    fcntl.fcntl(pipe.writing_fd, fcntl.F_SETPIPE_SZ, 4096)
    yield pipe
    pipe.close()


@pytest.fixture
def begin(reader: Reader) -> Iterator[Callable[..., LogWriter]]:
    """Starts a writer on the pipe; it and the log are put right at the end."""
    started: list[LogWriter] = []

    def begin(level: str = "info", form: str = "json", queue: int = 10_000) -> LogWriter:
        started.append(start_log(level, form, reader.writing_fd, queue))
        return started[-1]

    yield begin
    os.set_blocking(reader.fd, False)
    for writer in started:
        writer.stop(0)
        while writer._thread.is_alive():  # or it would write into what gets its descriptor's number next
            reader._file.read()
            writer._thread.join(0.01)
    log.set_level("info")
    write_immediately()


def test_lines_in_order(reader: Reader, begin: Callable[..., LogWriter]) -> None:
    """Records come out as lines in the order of the calls; `stop` writes the last."""
    writer = begin()
    for number in range(20):
        log.info("connection.closed", id=number)

    assert writer.stop()
    lines = reader.rest()
    assert [line["id"] for line in lines] == list(range(20))
    assert {line["event"] for line in lines} == {"connection.closed"}
    assert writer.dropped == 0


def test_written_without_stop(reader: Reader, begin: Callable[..., LogWriter]) -> None:
    """A single record is written soon, with no other after it."""
    begin()

    log.info("daemon.ready", pid=1)

    assert reader.line()["event"] == "daemon.ready"


def test_level_of_start(reader: Reader, begin: Callable[..., LogWriter]) -> None:
    """`start` sets the level."""
    writer = begin("warning")

    log.info("daemon.ready")
    log.warning("config.warning")
    writer.stop()

    assert [line["level"] for line in reader.rest()] == ["warning"]


@pytest.mark.parametrize("blocking", [True, False])
def test_full_pipe_drops_and_tells(reader: Reader, begin: Callable[..., LogWriter], blocking: bool) -> None:
    """With nobody reading, calls return, memory stays bounded, and losses are reported when there is room again."""
    os.set_blocking(reader.writing_fd, blocking)
    writer = begin(queue=100)
    before = time.thread_time()
    for number in range(5000):
        log.info("connection.closed", id=number, detail="x" * 500)
    spent = time.thread_time() - before

    assert spent < 1
    assert writer.dropped >= 5000 - 100 - 600
    got: list[dict[str, Any]] = []
    reports: list[dict[str, Any]] = []
    while len(got) + sum(line["count"] for line in reports) < 5000:
        line = reader.line()
        (reports if line["event"] == "log.dropped" else got).append(line)
    assert sum(line["count"] for line in reports) == writer.dropped == 5000 - len(got)
    assert {line["level"] for line in reports} == {"warning"}
    assert [line["id"] for line in got] == sorted(line["id"] for line in got)


def test_stop_gives_up_on_a_stuck_output(reader: Reader, begin: Callable[..., LogWriter]) -> None:
    """`stop` returns in time though nobody reads, and later records do not block either."""
    os.set_blocking(reader.writing_fd, False)
    writer = begin()
    for _ in range(100):
        log.info("connection.closed", detail="x" * 500)
    before = time.monotonic()

    writer.stop(timeout=0.05)

    assert time.monotonic() - before < 5
    assert writer.dropped > 0


def test_stop_gives_up_on_a_blocking_output(reader: Reader, begin: Callable[..., LogWriter]) -> None:
    """A write that blocks in the kernel is left behind; later records are thrown away."""
    writer = begin()
    for _ in range(100):
        log.info("connection.closed", detail="x" * 500)

    assert not writer.stop(timeout=0.05)
    log.error("internal_error")  # would block forever, were it written


def test_reader_gone(reader: Reader, begin: Callable[..., LogWriter]) -> None:
    """Without a reader all is dropped and counted, and nothing else happens."""
    writer = begin()
    os.set_blocking(reader.fd, False)
    with open(os.devnull) as null:  # noqa: PTH123  a descriptor to put in the pipe's place
        os.dup2(null.fileno(), reader.fd)

    for _ in range(10):
        log.info("connection.closed")

    assert writer.stop()
    assert writer.dropped == 10


def test_disk_full_then_room(tmp_path: Path) -> None:
    """Lines dropped for lack of space are counted, and reported when there is space again."""
    full, room = os.open("/dev/full", os.O_WRONLY), os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    writer = start_log("info", "json", full)
    try:
        log.info("daemon.ready")
        deadline = time.monotonic() + 10
        while not writer.dropped and time.monotonic() < deadline:
            threading.Event().wait(0.005)
        os.dup2(room, full)
        log.info("daemon.draining")
    finally:
        writer.stop()
        os.close(full)
        os.close(room)

    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["daemon.draining", "log.dropped"]
    assert lines[1]["count"] == 1


def test_floods_are_cut(reader: Reader, begin: Callable[..., LogWriter]) -> None:
    """An event that clients can cause at will is rate-limited, and the rest counted; other events are not limited."""
    writer = begin()
    reading: list[list[dict[str, Any]]] = []
    thread = threading.Thread(target=lambda: reading.append([json.loads(line) for line in reader._file]))
    thread.start()
    for _ in range(1000):
        log.info("connection.rejected", reason="bad_request")
        log.info("connection.closed")
    writer.stop()
    os.close(reader.writing_fd)
    reader.writing_fd = -1
    thread.join()

    events = [line["event"] for line in reading[0]]
    reports = [line for line in reading[0] if line["event"] == "log.suppressed"]
    assert events.count("connection.closed") == 1000
    assert 200 <= events.count("connection.rejected") <= 400
    assert {line["suppressed_event"] for line in reports} == {"connection.rejected"}
    assert sum(line["count"] for line in reports) == 1000 - events.count("connection.rejected") == writer.suppressed


def test_an_error_of_the_writer_costs_one_batch(reader: Reader, begin: Callable[..., LogWriter]) -> None:
    """Whatever goes wrong while a batch is written, the thread lives on and the loss is reported."""
    writer = begin()
    right, once = writer._write, threading.Event()

    def wrong(batch: Any, *, last: bool) -> None:
        if batch and not once.is_set():
            once.set()
            raise MemoryError
        right(batch, last=last)

    writer._write = wrong
    log.info("daemon.ready")
    assert once.wait(10)
    log.info("daemon.draining")
    writer.stop()

    lines = reader.rest()
    assert sorted((line["event"], line.get("count")) for line in lines) == [
        ("daemon.draining", None),
        ("log.dropped", 1),
    ]


def test_records_from_many_threads(reader: Reader, begin: Callable[..., LogWriter]) -> None:
    """Any thread may log."""
    writer = begin()
    threads = [threading.Thread(target=lambda: [log.info("connection.closed") for _ in range(10)]) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert writer.stop()
    assert len(reader.rest()) == 30


def test_a_signal_handler_may_log(reader: Reader, begin: Callable[..., LogWriter]) -> None:
    """A signal in the middle of a call, whose handler logs too, does not lock up."""
    writer = begin("info", "json", 20)
    before = signal.signal(signal.SIGALRM, lambda *_: log.info("daemon.draining"))
    seen = threading.Thread(target=lambda: [None for _ in reader._file])
    seen.start()
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        for _ in range(3000):
            log.info("connection.closed")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    ended = writer.stop(10)
    os.close(reader.writing_fd)
    reader.writing_fd = -1
    seen.join()

    assert ended


def test_a_second_start(reader: Reader, begin: Callable[..., LogWriter]) -> None:
    """The newest writer gets the records; stopping an older one does not change that."""
    first, second = begin(), begin()

    first.stop()
    log.info("daemon.ready")
    second.stop()

    assert [line["event"] for line in reader.rest()] == ["daemon.ready"]


def test_before_start_and_after_stop() -> None:
    """Without a writer records go to standard error at once, in order with those of the writer."""
    program = """
        from wsbridge.log import log, start_log
        log.warning("config.warning", detail="before")
        writer = start_log("info", "json")
        log.info("daemon.ready")
        assert writer.stop()
        log.info("daemon.stopped")
    """

    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True)

    assert [json.loads(line)["event"] for line in done.stderr.splitlines()] == [
        "config.warning",
        "daemon.ready",
        "daemon.stopped",
    ]
    assert done.stdout == ""


def test_unknown_format_starts_nothing() -> None:
    """A wrong format or level leaves the log as it was."""
    threads, before = threading.active_count(), log.put

    with pytest.raises(ValueError, match="log format"):
        start_log("info", "xml")
    with pytest.raises(ValueError, match="log level"):
        start_log("loud", "json")

    assert threading.active_count() == threads
    assert log.put == before


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


def test_lines_left_at_the_deadline_are_counted_once(reader: Reader, begin: Callable[..., LogWriter]) -> None:
    """Each line is written or dropped, and what ends the thread is no line."""
    os.set_blocking(reader.writing_fd, False)
    writer = begin()
    for number in range(2000):
        log.info("connection.closed", id=number, detail="x" * 500)
    assert writer.stop(timeout=0.05) or writer.stop(timeout=1)  # a busy machine may run the thread only then

    lost = writer.dropped
    assert 2000 - len(reader.raw_lines()) == lost > 1000


def test_burst_then_rate() -> None:
    """After a burst only so many a second pass; quiet time fills the bucket again, up to the burst."""
    bucket = EventRateLimiter(rate=10, burst=20)

    assert sum(bucket.allow(1000.0) for _ in range(100)) == 20
    assert sum(bucket.allow(1001.0) for _ in range(100)) == 10
    assert sum(bucket.allow(2000.0) for _ in range(100)) == 20


def test_refused_are_counted_and_reported_once() -> None:
    """What was refused is reported once."""
    bucket = EventRateLimiter(rate=1, burst=1)
    for _ in range(5):
        bucket.allow(1000.0)

    assert bucket.suppressed == 4
    assert [bucket.take_suppressed_count(), bucket.take_suppressed_count()] == [4, 0]


def test_clock_set_back() -> None:
    """A clock that is set back neither fills the bucket nor stops it for good."""
    bucket = EventRateLimiter(rate=10, burst=20)
    for _ in range(20):
        bucket.allow(1000.0)

    assert not bucket.allow(500.0)
    assert bucket.allow(501.0)


def test_which_events() -> None:
    """The events that clients or load cause at will are limited, and no other; fewest are those that are all alike."""
    passed = {name: sum(bucket.allow(1000.0) for _ in range(1000)) for name, bucket in event_rate_limiters().items()}

    assert passed == {
        "accept.error": 5,
        "connection.shed": 5,
        "connection.banned": 5,
        "connection.rejected": 200,
        "http.request": 200,
        "loop.lag": 3,
        "loop.stalled": 3,
    }
