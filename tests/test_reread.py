"""What a file says, read again when it has changed."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from tests.serving import recording
from wsbridge.reloading_file import CHECK_INTERVAL, ReloadingFile, file_signature, parse_file


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


async def test_a_change_is_seen_after_a_second(file: Path, autojump_clock: MockClock) -> None:
    """Within a second nobody looks; after it the next who asks gets what the file says now."""
    reread = ReloadingFile(file, numbers)
    assert await reread.get() == [1, 2]
    file.write_text("3\n")
    assert await reread.get() == [1, 2]
    await trio.sleep(CHECK_INTERVAL)
    with recording() as records:
        assert await reread.get() == [3]
    assert [record["file"] for record in records.of("file.reloaded")] == [str(file)]


async def test_a_replaced_file_is_seen(file: Path, autojump_clock: MockClock) -> None:
    """A rename over it, as editors do, counts even if size and time are the same."""
    reread = ReloadingFile(file, numbers)
    other = file.with_name("other")
    other.write_text("3\n4\n")
    other.replace(file)
    assert await reread.get() == [3, 4]


async def test_what_it_last_said_well_is_kept(file: Path, autojump_clock: MockClock) -> None:
    """A bad line, or no file at all, changes nothing and is told once for each fault."""
    reread = ReloadingFile(file, numbers)
    with recording() as records:
        file.write_text("3\nfour\n")
        for _ in range(3):
            assert await reread.get() == [1, 2]
            await trio.sleep(CHECK_INTERVAL)
        file.unlink()
        assert await reread.get() == [1, 2]
        await trio.sleep(CHECK_INTERVAL)
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


def test_a_folder_changes_with_its_files(tmp_path: Path) -> None:
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
    """A byte order mark is no part of it; what cannot be read is told with its file, and with a line if it has one."""
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
