"""The audit file: content, permissions, and file system failures."""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.serving import Records, recording
from wsbridge.log.audit import AUDIT_QUEUE_RECORDS, AuditLog


@pytest.fixture
def records() -> Iterator[Records]:
    """What is logged."""
    with recording() as collected:
        yield collected


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Callable[[], AuditLog]]:
    """Open trails; closed at the end."""
    opened: list[AuditLog] = []

    def begin(name: str = "audit.jsonl") -> AuditLog:
        trail = AuditLog(tmp_path / name)
        trail.open()
        opened.append(trail)
        return trail

    yield begin
    for trail in opened:
        trail.close()


def lines(path: Path) -> list[dict[str, Any]]:
    """Read what was written."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def until(true: Callable[[], bool]) -> None:
    """Wait for the thread."""
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_records_are_framed_by_start_and_stop(begin: Callable[[], AuditLog], tmp_path: Path, records: Records) -> None:
    """Each record has its time and what the table has for it, and nothing else; the file is for its owner alone."""
    trail = begin()
    trail.emit(
        "access.granted", {"id": 1, "path": "/x?token=geheim", "identity": "alice", "nonsense": 1, "level": "info"}
    )
    trail.close()
    path = tmp_path / "audit.jsonl"
    first, second, third = lines(path)
    assert [line.pop("ts")[-1] for line in (first, second, third)] == ["Z"] * 3
    assert (first["event"], first["pid"]) == ("audit.started", os.getpid())
    assert second == {"event": "access.granted", "id": 1, "identity": "alice", "path": "/x?token=***"}
    assert third == {"event": "audit.stopped", "pid": os.getpid(), "dropped": 0}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert records.all == []


def test_a_file_that_is_there_is_appended_to(begin: Callable[[], AuditLog], tmp_path: Path) -> None:
    """Neither what it holds nor its mode is touched."""
    path = tmp_path / "audit.jsonl"
    path.write_text('{"event":"before"}\n')
    path.chmod(0o640)
    begin().close()
    assert [line["event"] for line in lines(path)] == ["before", "audit.started", "audit.stopped"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_record_that_was_cut_ends_at_its_line(begin: Callable[[], AuditLog], tmp_path: Path) -> None:
    """After a full disk or a crash the file may end within a record; the next one begins a line of its own."""
    path = tmp_path / "audit.jsonl"
    path.write_text('{"event":"bef')
    begin().close()
    first, *others = path.read_text().splitlines()
    assert first == '{"event":"bef'
    assert [json.loads(line)["event"] for line in others] == ["audit.started", "audit.stopped"]


@pytest.mark.parametrize("name", ["gone/audit.jsonl", "folder", "pipe"])
def test_a_file_that_cannot_be_opened(tmp_path: Path, name: str) -> None:
    """A directory, a missing path and a pipe are reported in one sentence; none of them hangs the start."""
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    trail = AuditLog(tmp_path / name)
    with pytest.raises(ValueError, match=rf"^audit: .*{name} cannot be opened: \w"):
        trail.open()
    trail.close()


@pytest.mark.parametrize("how", ["rename", "unlink", "replace"])
def test_a_file_that_was_moved_is_opened_again(begin: Callable[[], AuditLog], tmp_path: Path, how: str) -> None:
    """Without a signal and without a further record, within about a second; no record is lost on the way."""
    trail, path, old = begin(), tmp_path / "audit.jsonl", tmp_path / "audit.jsonl.1"
    trail.emit("access.denied", {"id": 1})
    until(lambda: path.exists() and '"id":1' in path.read_text())
    if how == "unlink":
        path.unlink()
    else:
        path.rename(old)
    if how == "replace":
        path.touch(0o600)
    else:
        until(path.exists)
    trail.emit("access.denied", {"id": 2})
    trail.close()
    assert [line.get("id") for line in lines(path)] == [2, None]
    if how != "unlink":
        assert [line.get("id") for line in lines(old)] == [None, 1]


def test_a_directory_that_vanished_is_reported_once(tmp_path: Path, records: Records) -> None:
    """The old file is written on, and when the directory is there again, so is the file."""
    (tmp_path / "logs").mkdir()
    path = tmp_path / "logs" / "audit.jsonl"
    trail = AuditLog(path)
    trail.open()
    (tmp_path / "logs").rename(tmp_path / "away")
    until(lambda: bool(records.of("audit.failed")))
    trail.emit("access.denied", {"id": 1})
    until(lambda: '"id":1' in (tmp_path / "away" / "audit.jsonl").read_text())
    (tmp_path / "logs").mkdir()
    until(path.exists)
    trail.emit("access.denied", {"id": 2})
    trail.close()
    assert [line.get("id") for line in lines(path)] == [2, None]
    (line,) = records.of("audit.failed")
    assert (line["file"], line["error"]) == (str(path), "No such file or directory")


def test_what_the_disk_does_not_take_is_reported(records: Records) -> None:
    """Records that a full disk lost are counted in the log, which is another stream."""
    trail = AuditLog(Path("/dev/full"))
    trail.open()
    for number in range(5):
        trail.emit("access.denied", {"id": number})
    trail.close()
    assert trail.dropped == 7
    assert sum(line["count"] for line in records.of("audit.dropped")) == 7


def test_a_disk_that_hangs_holds_nobody_up(tmp_path: Path, records: Records) -> None:
    """The queue is bounded, records beyond it are dropped and counted, and the end comes in time all the same."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        trail = AuditLog(pipe)
        trail.open()
        for number in range(3 * AUDIT_QUEUE_RECORDS):
            trail.emit("access.denied", {"id": number})
        assert trail.dropped > AUDIT_QUEUE_RECORDS
        assert trail._queue.qsize() <= AUDIT_QUEUE_RECORDS
        trail.stop(0.2)
        assert records.of("audit.dropped")
    finally:
        os.close(reader)


def test_without_a_thread_it_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As at the limit of tasks of the unit: one sentence says so, and the file is closed again."""

    def fail(_: object) -> None:
        raise RuntimeError("can't start new thread")

    trail, path = AuditLog(tmp_path / "audit.jsonl"), tmp_path / "audit.jsonl"
    with monkeypatch.context() as patch, pytest.raises(ValueError, match="cannot be opened: can't") as caught:
        patch.setattr("threading.Thread.start", fail)
        trail.open()
    assert isinstance(caught.value.__cause__, OSError)
    assert path not in [Path(f"/proc/self/fd/{fd}").resolve() for fd in os.listdir("/proc/self/fd")]  # noqa: PTH208
    trail.close()
