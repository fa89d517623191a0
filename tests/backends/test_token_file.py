"""Lists of tokens, in the formats of websockify."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsbridge.backends import token_file
from wsbridge.backends.token_file import TokenFileReader, TokenListFormat, parse_token_target
from wsbridge.config.urls import Target


def read_token_file(path: Path, form: TokenListFormat) -> Mapping[str, Target]:
    """Read a list once."""
    return TokenFileReader(form)(path)


def shown(path: Path, form: TokenListFormat = "lines") -> dict[str, str]:
    """Read a list, its targets as text."""
    return {token: str(target) for token, target in read_token_file(path, form).items()}


def problems(path: Path, form: TokenListFormat = "lines") -> list[str]:
    """Read a directory and return its problems."""
    reader = TokenFileReader(form)
    reader(path)
    return reader.problems


def test_a_file_of_lines(tmp_path: Path) -> None:
    """Comments, blank lines, spaces around, line ends of Windows, a byte order mark, IPv6, sockets, odd tokens."""
    file = tmp_path / "tokens"
    file.write_bytes(
        b"\xef\xbb\xbf# comment\r\n\r\n"
        b"token1: host1.example.org:5900\r\n"
        b"  token2:   10.0.0.2:5901  \n"
        b"a:b: [2001:db8::1]:22\n"
        b"vm\xc3\xbc:\tLOCALHOST:1\n"
        b"sock: unix_socket:/run/vnc/a.sock\n"
        b"other: unix:/run/vnc/b.sock\n"
        b"bare: ::1:5900\n"
        b"\t# token3: host3:1\r"
        b"mac: 10.0.0.9:9\r"
    )
    assert shown(file) == {
        "token1": "tcp://host1.example.org:5900",
        "token2": "tcp://10.0.0.2:5901",
        "a:b": "tcp://[2001:db8::1]:22",
        "vmü": "tcp://localhost:1",
        "sock": "unix:/run/vnc/a.sock",
        "other": "unix:/run/vnc/b.sock",
        "bare": "tcp://[::1]:5900",
        "mac": "tcp://10.0.0.9:9",
    }


def test_a_directory_of_files_of_lines(tmp_path: Path) -> None:
    """All its files count, also links to files; hidden ones and subdirectories do not."""
    (tmp_path / "b").write_text("two: 10.0.0.2:2\n")
    (tmp_path / "a").write_text("one: 10.0.0.1:1\n")
    (tmp_path / ".hidden").write_text("nonsense")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "c").write_text("three: 10.0.0.3:3\n")
    (tmp_path / "linked").symlink_to(tmp_path / "inner" / "c")
    assert list(shown(tmp_path)) == ["one", "two", "three"]


def test_a_directory_of_files_named_by_their_token(tmp_path: Path) -> None:
    """Each has its target alone; a token can be no path, since nothing is opened for one."""
    (tmp_path / "vm1").write_text("10.0.0.1:5900\r\n")
    (tmp_path / "vm2").write_text("\n[::1]:5900")
    assert shown(tmp_path, "files") == {"vm1": "tcp://10.0.0.1:5900", "vm2": "tcp://[::1]:5900"}


def test_an_empty_list_leads_nowhere(tmp_path: Path) -> None:
    """It is filled later."""
    assert shown(tmp_path) == {}
    (tmp_path / "x").write_text("# nobody yet\n")
    assert shown(tmp_path / "x") == {}


@pytest.mark.parametrize(
    "line",
    [
        *(
            "s3cret",
            "s3cret 10.0.0.1:22",
            "s3cret:10.0.0.1:22",
            ": 10.0.0.1:22",
            "s3cret: 10.0.0.1",
            "s3cret: 10.0.0.1:",
        ),
        *(
            "s3cret: 10.0.0.1:0",
            "s3cret: 10.0.0.1:65536",
            "s3cret: 2130706433:22",
            "s3cret: 127.1:22",
            "s3cret: a b:22",
        ),
        *(
            "s3cret: ::1:",
            "s3cret: 2001:db8::1",
            "s3cret: [::1]",
            "s3cret: [fe80::1%eth0]:22",
            "s3cret: 10.0.0.1:22 # office",
            "s3cret: a: b:1",
        ),
        *(
            "s3cret: unix_socket:x",
            "s3cret: unix:/run/../x",
            "s3cret: http://a:1",
            "s3cret: 10.0.0.1:22\0",
            "s3cret: [a]:1",
        ),
    ],
)
def test_a_bad_line_is_named_and_not_shown(tmp_path: Path, line: str) -> None:
    """The list is not used; the number of the line is reported, its text is not."""
    file = tmp_path / "tokens"
    file.write_text(f"good: 10.0.0.1:22\n{line}\n")
    with pytest.raises(ValueError, match="line 2") as caught:
        read_token_file(file, "lines")
    assert str(file) in str(caught.value)
    assert "s3cret" not in str(caught.value)
    unseparated = line in ("s3cret 10.0.0.1:22", "s3cret:10.0.0.1:22")
    assert ("a colon and a space are required after the token" in str(caught.value)) == unseparated


def test_many_bad_lines(tmp_path: Path) -> None:
    """The first are named, the rest counted."""
    file = tmp_path / "tokens"
    file.write_text("bad\n" * 12)
    with pytest.raises(ValueError, match="line 5: not of the form token: host:port; and 7 more"):
        read_token_file(file, "lines")


def test_a_duplicate_token(tmp_path: Path) -> None:
    """In one file it is an error; of two files, the first by name counts, and the other one is reported."""
    (tmp_path / "a").write_text("t: 10.0.0.1:22\nt: 10.0.0.2:22\n")
    with pytest.raises(ValueError, match="a: line 2: the token is a duplicate"):
        read_token_file(tmp_path / "a", "lines")
    (tmp_path / "a").write_text("t: 10.0.0.1:22\n")
    (tmp_path / "b").write_text("x: 10.0.0.1:22\nt: 10.0.0.2:22\n")
    assert shown(tmp_path) == {"t": "tcp://10.0.0.1:22", "x": "tcp://10.0.0.1:22"}
    (problem,) = problems(tmp_path)
    assert "b: has a token that a file before it has as well" in problem


@pytest.mark.parametrize("text", ["", "\udcff", "10.0.0.1:1\n10.0.0.2:2\n", "t: 10.0.0.1:1"])
def test_a_file_of_one_target_has_one_line(tmp_path: Path, text: str) -> None:
    """Its name is a token, and so it is not shown."""
    (tmp_path / "s3cret").write_bytes(text.encode("utf-8", "surrogateescape"))
    (tmp_path / "good").write_text("10.0.0.1:1")
    assert list(shown(tmp_path, "files")) == ["good"]
    (problem,) = problems(tmp_path, "files")
    assert problem.startswith(f"{tmp_path}: a file")
    assert "s3cret" not in problem


def test_what_is_no_list(tmp_path: Path) -> None:
    """A missing file, a FIFO, a device, invalid UTF-8, a file instead of a directory."""
    (tmp_path / "latin").write_bytes(b"a: 10.0.0.1:1\n\xff: 10.0.0.2:2\n")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "null").symlink_to(os.devnull)
    with pytest.raises(FileNotFoundError):
        read_token_file(tmp_path / "gone", "lines")
    for name, words in (
        ("pipe", "is not a regular file"),
        ("null", "is not a regular file"),
        ("latin", "line 2 is not UTF-8"),
    ):
        with pytest.raises(ValueError, match=words):
            read_token_file(tmp_path / name, "lines")
    with pytest.raises(ValueError, match="is not a directory"):
        read_token_file(tmp_path / "latin", "files")


def test_a_list_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over all files of a directory."""
    monkeypatch.setattr(token_file, "MAX_TOKEN_FILE_BYTES", 20)
    (tmp_path / "a").write_text("a: 10.0.0.1:1\n")
    (tmp_path / "b").write_text("b: 10.0.0.1:1\n")
    assert list(shown(tmp_path)) == ["a"]
    assert "20 bytes in total" in problems(tmp_path)[0]
    (tmp_path / "a").write_text("a: 10.0.0.1:1\n" * 2)
    with pytest.raises(ValueError, match="20 bytes in total"):
        read_token_file(tmp_path / "a", "lines")


def test_a_bad_file_never_hides_the_others(tmp_path: Path) -> None:
    """It is reported, and its last valid content stays in effect; a new one has none."""
    (tmp_path / "a").write_text("one: 10.0.0.1:1\n")
    (tmp_path / "b").write_text("two: 10.0.0.2:2\n")
    reader = TokenFileReader("lines")
    assert set(reader(tmp_path)) == {"one", "two"}
    (tmp_path / "a").write_text("one: 10.0.0.1:1\nthree 10.0.0.3:3\n")
    (tmp_path / "c").write_text("nonsense")
    os.mkfifo(tmp_path / "d")
    (tmp_path / "e").symlink_to(tmp_path / "gone")
    (tmp_path / "g").symlink_to("g")
    (tmp_path / "f").write_text("four: 10.0.0.4:4\n")
    assert set(reader(tmp_path)) == {"one", "two", "four"}
    assert [problem.partition(":")[0] for problem in reader.problems] == [str(tmp_path / name) for name in "acdeg"]
    (tmp_path / "a").unlink()
    assert set(reader(tmp_path)) == {"two", "four"}


def test_leftovers_of_editors_are_ignored(tmp_path: Path) -> None:
    """A revoked token does not come back from a backup, and a lock link is no file."""
    (tmp_path / "list").write_text("one: 10.0.0.1:1\n")
    (tmp_path / ".#list").symlink_to("user@host.example.1234")
    for name in ("list~", "#list#", ".list.swp", "list.bak", "list.tmp", "list.rpmsave", "list.dpkg-old"):
        (tmp_path / name).write_text("old: 10.0.0.9:9\nbad")
    assert list(shown(tmp_path)) == ["one"]
    assert problems(tmp_path) == []


@given(st.binary(max_size=200) | st.text("ab:#. \r\n[]0123", max_size=60).map(str.encode))
def test_any_file_gives_targets_or_one_sentence(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    """Nothing else is raised, and what is given is well-formed."""
    file = tmp_path_factory.getbasetemp() / "fuzzed"
    file.write_bytes(data)
    try:
        found = read_token_file(file, "lines")
    except ValueError as error:
        assert str(file) in str(error)
        return
    for token, target in found.items():
        assert token
        assert target.scheme in ("tcp", "unix")
        assert parse_token_target(str(target).removeprefix("tcp://")) == target


@given(st.text(max_size=40))
def test_any_text_is_a_target_or_none(text: str) -> None:
    """Nothing but a ValueError is raised."""
    with contextlib.suppress(ValueError):
        assert parse_token_target(text).scheme in ("tcp", "unix")
