"""Lists of users."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.clients.program import program, run
from wsbridge.auth.passwords import (
    MAX_HTPASSWD_LINE_LENGTH,
    MAX_USERNAME_BYTES,
    BcryptHash,
    ScryptHash,
    check_username,
    parse_htpasswd,
)

BCRYPT = "$2y$05$abcdefghijklmnopqrstuuhKF09ZYWwH2zP/0fwE1X8e/Q1YNx/hO"
SCRYPT = "$scrypt$ln=12,r=8,p=1$3/4YqVozr5mKN8PsyM6TUQ$+EvvOGSZnv78+M3Hrc4WupI/vlqlt4jwB86o3JncudQ"


def test_users_of_both_kinds() -> None:
    """Each name has its hash; empty lines, comments, spaces at the end and CRLF do not count."""
    text = f"# users\r\n\r\nalice:{BCRYPT}\r\n  # more\n\t\nBob Müller:{SCRYPT} \t\r\n"
    users = parse_htpasswd(text)

    assert list(users) == ["alice", "Bob Müller"]
    assert users["alice"] == BcryptHash(BCRYPT)
    assert isinstance(users["Bob Müller"], ScryptHash)


def test_no_users() -> None:
    """A list may have none; whether that is an oversight is for others to say."""
    assert parse_htpasswd("") == parse_htpasswd("# alice\n\n") == {}


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        (f"a:{SCRYPT}\nb:{SCRYPT}\n\na:{BCRYPT}", "line 4: has the same user as line 1"),
        (
            "a:" + "x" * MAX_HTPASSWD_LINE_LENGTH,
            f"line 1: has {MAX_HTPASSWD_LINE_LENGTH + 2} characters, and the most is {MAX_HTPASSWD_LINE_LENGTH}",
        ),
        ("secret", "line 1: has no colon"),
        (f"{SCRYPT}:alice", "line 1: the text after the name is"),
        (f"alice{SCRYPT}bob:{SCRYPT}!", "line 1: the hash is damaged"),
        (f":{SCRYPT}", "line 1: a user's name cannot be empty"),
        (f" a:{SCRYPT}", "line 1: a user's name cannot have"),
        (f"a\x1b[1m:{SCRYPT}", "line 1: a user's name cannot have"),
        (f"a:{SCRYPT}\rb:{SCRYPT}", "line 1: the hash is damaged"),
        (f"{'ä' * 128}:{SCRYPT}", f"line 1: a user's name of 256 bytes is too long: the most is {MAX_USERNAME_BYTES}"),
        (f"a:{SCRYPT}:comment", "line 1: the hash is damaged"),
        (f"a:{BCRYPT[:-1]}", "line 1: the hash is damaged"),
        ("a:", 'line 1: the user has no hash: make a new one by "wsbridge hash-password"'),
    ],
)
def test_what_is_refused(text: str, wrong: str) -> None:
    """The line is named, and nothing of a password or hash."""
    with pytest.raises(ValueError, match=re.escape(wrong)) as refused:
        parse_htpasswd(text)
    assert "secret" not in str(refused.value)
    assert SCRYPT[30:] not in str(refused.value)


@pytest.mark.parametrize(
    ("hashed", "name"),
    [
        ("$apr1$1yPDArDh$iTIJZ5CMNbqIbQGmDqNZz/", "MD5 hash (apr1)"),
        ("$1$1yPDArDh$iTIJZ5CMNbqIbQGmDqNZz/", "MD5 hash (md5crypt)"),
        ("{SHA}2FZ7pP9W4TDVqZUVC7bLuXPDOfI=", "SHA-1 hash without salt"),
        ("{SSHA}2FZ7pP9W4TDVqZUVC7bLuXPDOfI=", "SHA-1 hash"),
        ("$2x$05$abc", "broken form of bcrypt"),
        ("$5$rounds=1000$abc", "SHA-2 hash of crypt(3)"),
        ("$6$abc", "SHA-2 hash of crypt(3)"),
        ("$y$j9T$abc", "yescrypt hash"),
        ("$argon2id$v=19$abc", "argon2 hash"),
        ("rqXexS6ZhobKA", "DES hash of crypt(3), which is guessed too fast, or a plain password"),
        ("correct horse", "plain passwords are not supported"),
    ],
)
def test_weak_hashes_are_refused_by_name(hashed: str, name: str) -> None:
    """What it is, in which line, and what to do instead; never the text itself."""
    with pytest.raises(ValueError, match=re.escape(name)) as refused:
        parse_htpasswd(f"alice:{SCRYPT}\nbob:{hashed}\n")
    assert str(refused.value).startswith("line 2: the text after the name is")
    assert str(refused.value).endswith('make a new one by "wsbridge hash-password" or "htpasswd -B"')
    assert hashed not in str(refused.value)


def test_names_for_the_command_line() -> None:
    """The same rule holds for all who write a line."""
    assert check_username("alice@example.org") == "alice@example.org"
    for wrong in ("", "a:b", "#a", "a\n", " a", "\udc80"):
        with pytest.raises(ValueError, match="a user's name"):
            check_username(wrong)


@pytest.mark.parametrize(
    ("option", "name"),
    [
        ("-m", "MD5 hash (apr1)"),
        ("-s", "SHA-1 hash without salt"),
        ("-d", "DES hash of crypt(3)"),
        ("-p", "plain passwords are not supported"),
    ],
)
def test_what_apaches_program_makes_by_other_options(tmp_path: Path, option: str, name: str) -> None:
    """Real files of htpasswd are refused by the name of the hash."""
    file = tmp_path / "users"
    run(program("htpasswd"), "-c", "-b", option, str(file), "alice", "correct horse")

    with pytest.raises(ValueError, match=re.escape(name)):
        parse_htpasswd(file.read_text())


def test_what_apaches_program_makes_by_bcrypt(tmp_path: Path) -> None:
    """Real files of htpasswd -B are accepted, whatever the cost."""
    file = tmp_path / "users"
    run(program("htpasswd"), "-c", "-B", "-b", str(file), "alice", "correct horse")
    run(program("htpasswd"), "-B", "-C", "6", "-b", str(file), "bob", "pässwort")
    users = parse_htpasswd(file.read_text())

    assert list(users) == ["alice", "bob"]
    assert users["alice"].verify(b"correct horse")
    assert users["bob"].verify("pässwort".encode())
    assert not users["bob"].verify(b"correct horse")
