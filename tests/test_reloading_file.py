"""Files that are read again when they change."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from tests.serving import recording
from wsbridge import reloading_file
from wsbridge.reloading_file import CHECK_INTERVAL, ReloadingFile, file_signature, load_now, parse_file


def numbers(path: Path) -> list[int]:
    """Read a file of numbers."""
    found = []
    for at, line in enumerate(path.read_text().splitlines(), 1):
        if not line.isdigit():
            raise ValueError(f"{path}: line {at} is no number")
        found.append(int(line))
    return found


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Give a file that is good."""
    path = tmp_path / "numbers"
    path.write_text("1\n2\n")
    return path


async def test_a_change_is_seen_after_a_second(file: Path, mock_clock: MockClock) -> None:
    """Within a second nobody looks; after it the next who asks gets what the file says now."""
    reread = ReloadingFile(file, numbers)
    assert await reread.get() == [1, 2]
    file.write_text("3\n")
    assert await reread.get() == [1, 2]
    mock_clock.jump(CHECK_INTERVAL)
    with recording() as records:
        assert await reread.get() == [3]
    assert [record["file"] for record in records.of("file.reloaded")] == [str(file)]


async def test_a_replaced_file_is_seen(file: Path, mock_clock: MockClock) -> None:
    """A rename over it, as editors do, counts even if size and time are the same."""
    reread = ReloadingFile(file, numbers)
    other = file.with_name("other")
    other.write_text("3\n4\n")
    other.replace(file)
    assert await reread.get() == [3, 4]


async def test_what_it_last_said_well_is_kept(file: Path, mock_clock: MockClock) -> None:
    """A bad line, or no file at all, changes nothing and is reported once for each fault."""
    reread = ReloadingFile(file, numbers)
    with recording() as records:
        file.write_text("3\nfour\n")
        for _ in range(3):
            assert await reread.get() == [1, 2]
            mock_clock.jump(CHECK_INTERVAL)
        file.unlink()
        assert await reread.get() == [1, 2]
        mock_clock.jump(CHECK_INTERVAL)
        file.write_text("5\n")
        assert await reread.get() == [5]
    details = [record["detail"] for record in records.of("file.reload_failed")]
    assert details == [f"{file}: line 2 is no number", f"{file}: cannot be read: No such file or directory"]
    assert reread.current == [5]


def test_a_file_that_is_bad_at_the_start_is_an_error(file: Path) -> None:
    """Nothing good is known of it then."""
    file.write_text("one\n")
    with pytest.raises(ValueError, match="line 1 is no number"):
        ReloadingFile(file, numbers)
    file.unlink()
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        ReloadingFile(file, numbers)


def test_a_file_that_changes_while_it_is_read(file: Path) -> None:
    """It is read again, and given up if it goes on changing: half a list must not pass for a whole one."""
    left = [1]

    def changing(path: Path) -> list[int]:
        found = numbers(path)
        if left and left.pop():
            path.write_text("1\n2\n3\n")
        return found

    assert ReloadingFile(file, changing).current == [1, 2, 3]
    sizes = iter(range(4, 100))

    def for_ever(path: Path) -> list[int]:
        path.write_text("1\n" * next(sizes))
        return []

    with pytest.raises(ValueError, match="changes while it is read"):
        ReloadingFile(file, for_ever)


def test_a_directory_changes_with_its_files(tmp_path: Path) -> None:
    """A file in it that is written, added or removed is a change."""
    seen = {file_signature(tmp_path)}
    (tmp_path / "a").write_text("1")
    seen.add(file_signature(tmp_path))
    (tmp_path / "a").write_text("22")
    seen.add(file_signature(tmp_path))
    (tmp_path / "b").write_text("1")
    seen.add(file_signature(tmp_path))
    assert len(seen) == 4


def test_a_list_is_text_of_a_bounded_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte order mark is ignored; an error names the file, and the line if it has one."""
    path = tmp_path / "list"
    path.write_bytes(b"\xef\xbb\xbfone\ntwo\n")
    assert parse_file(path, str.splitlines) == ["one", "two"]
    path.write_bytes(b"one\n\xff\n")
    with pytest.raises(ValueError, match=r"list: line 2: is not UTF-8"):
        parse_file(path, str.splitlines)
    path.write_text("five\n")
    with pytest.raises(ValueError, match=r"list: invalid literal"):
        parse_file(path, int)
    monkeypatch.setattr("wsbridge.reloading_file.MAX_LIST_FILE_BYTES", 4)
    with pytest.raises(ValueError, match=r"list: has more than 4 bytes"):
        parse_file(path, str.splitlines)


async def test_what_was_not_found_is_looked_up_in_the_current_state(file: Path) -> None:
    """A token can be used as soon as it was written, also within the second in which the file was checked."""
    reread = ReloadingFile(file, numbers)
    for number in range(3, 8):
        asked = trio.current_time()
        assert number not in await reread.get()
        file.write_text(f"{number}\n")
        assert number in await reread.get_newer(trio.current_time())
        assert number in await reread.get_newer(asked)  # no further check


async def test_many_lookups_share_a_check(file: Path) -> None:
    """Checks are bounded in number, whatever a client tries."""
    loads = []

    def load(path: Path) -> list[int]:
        loads.append(path)
        return numbers(path)

    reread = ReloadingFile(file, load)
    file.write_text("3\n")

    async def miss() -> None:
        assert await reread.get_newer(trio.current_time()) == [3]

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(200):
            nursery.start_soon(miss)
    assert len(loads) == 2
    assert trio.current_time() - began < 10


async def test_lookups_one_after_the_other_are_slowed_down(file: Path) -> None:
    """A client that tries one token after the other does not have the file checked each time."""
    reread = ReloadingFile(file, numbers)
    began = trio.current_time()
    for _ in range(4):
        await reread.get_newer(trio.current_time())
    assert trio.current_time() - began >= 3 * reloading_file.MIN_CHECK_INTERVAL


def test_a_change_that_keeps_size_and_mtime_is_seen(file: Path) -> None:
    """The time of the status change cannot be set back."""
    before = file_signature(file)
    times = file.stat()
    file.write_text("3\n4\n")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert file.stat().st_mtime_ns == times.st_mtime_ns
    assert file_signature(file) != before


async def test_a_second_change_at_the_same_time_is_seen(
    file: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Most kernels give changes within some milliseconds the same time, so that a signature may be that of both."""
    before = file_signature(file)
    monkeypatch.setattr(reloading_file, "file_signature", lambda path: before)
    reread = ReloadingFile(file, numbers)
    file.write_text("3\n4\n")
    with recording() as records:
        content = await reread.get()
        assert content == [3, 4]
        mock_clock.jump(CHECK_INTERVAL)
        assert await reread.get() is content
    assert len(records.of("file.reloaded")) == 1


async def test_a_file_that_did_not_change_lately_is_not_read_again(
    file: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once its time is over, the signature says whether it changed."""
    monkeypatch.setattr(reloading_file, "MAX_TIMESTAMP_STEP", -1.0)
    loads: list[Path] = []

    def load(path: Path) -> list[int]:
        loads.append(path)
        return numbers(path)

    reread = ReloadingFile(file, load)
    for _ in range(3):
        mock_clock.jump(CHECK_INTERVAL)
        assert await reread.get() == [1, 2]
    assert len(loads) == 1


async def test_a_fifo_is_never_waited_for(file: Path, mock_clock: MockClock) -> None:
    """Neither at the start nor where it replaces the file while the daemon runs."""
    reread = ReloadingFile(file, lambda path: parse_file(path, str.split))
    file.unlink()
    os.mkfifo(file)
    with recording() as records:
        assert await reread.get() == ["1", "2"]
    assert [record["detail"] for record in records.of("file.reload_failed")] == [f"{file}: is not a regular file"]
    with pytest.raises(ValueError, match="is not a regular file"):
        ReloadingFile(file, lambda path: parse_file(path, str.split))


async def test_a_directory_in_its_place_takes_no_descriptors(file: Path, mock_clock: MockClock) -> None:
    """As Docker makes one for a file that is not there; however often it is looked at."""
    reread = ReloadingFile(file, lambda path: parse_file(path, str.split))
    file.unlink()
    file.mkdir()
    with recording() as records:
        await reread.get()
        before = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(3):
            mock_clock.jump(CHECK_INTERVAL)
            assert await reread.get() == ["1", "2"]
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    details = [record["detail"] for record in records.of("file.reload_failed")]
    assert details == [f"{file}: cannot be read: Is a directory"]


async def test_without_a_thread_the_last_content_stays(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As at the limit of tasks of the unit: clients with a valid token are not rejected."""
    reread = ReloadingFile(file, numbers)
    file.write_text("3\n")

    async def fail(*_: object, **_options: object) -> None:
        raise RuntimeError("can't start new thread")

    with recording() as records, monkeypatch.context() as patch:
        patch.setattr(trio.to_thread, "run_sync", fail)
        assert await reread.get() == [1, 2]
        assert await reread.get_newer(trio.current_time()) == [1, 2]
    assert [record["detail"] for record in records.of("file.reload_failed")] == [f"{file}: can't start new thread"]
    assert await reread.get_newer(trio.current_time()) == [3]


async def test_a_hung_file_system_delays_one_check(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last content stays in effect; the check is logged and left behind, and no second one is started."""
    monkeypatch.setattr(reloading_file, "CHECK_TIMEOUT", 0.1)
    monkeypatch.setattr(reloading_file, "CHECK_INTERVAL", 0.0)
    release, started = threading.Event(), []

    def load(path: Path) -> list[int]:
        started.append(path)
        if len(started) > 1:
            release.wait(20)
        return numbers(path)

    reread = ReloadingFile(file, load)
    file.write_text("3\n")
    try:
        with recording() as records, trio.fail_after(9):
            for _ in range(5):
                assert await reread.get() == [1, 2]
                assert await reread.get_newer(trio.current_time()) == [1, 2]
        assert [record["detail"] for record in records.of("file.reload_failed")] == [
            f"{file}: its file system did not respond within 0.1 s"
        ]
        assert len(started) == 2
    finally:
        release.set()
    with trio.fail_after(9):
        while await reread.get() != [3]:
            await trio.sleep(0.01)


def test_loading_gives_up_on_a_hung_file_system(file: Path) -> None:
    """`check` and the start report it, and the process ends although the thread still waits."""
    script = (
        "import sys, threading; from pathlib import Path; from wsbridge import reloading_file as r\n"
        "r.LOAD_TIMEOUT = 0.05\n"
        "try: r.load_now(Path('/x'), lambda path: threading.Event().wait())\n"
        "except ValueError as error: print(error)"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=20, check=True)
    assert ended.stdout == "/x: its file system did not respond within 0.05 s\n"
    assert load_now(file, numbers) == [1, 2]
    with pytest.raises(FileNotFoundError):
        load_now(file.with_name("gone"), numbers)


def test_without_a_thread_it_is_read_all_the_same(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As at the limit of tasks of the unit: an error would be taken for one of the configuration."""

    def fail(_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr("threading.Thread.start", fail)
        assert load_now(file, numbers) == [1, 2]
        with pytest.raises(FileNotFoundError):
            load_now(file.with_name("gone"), numbers)
