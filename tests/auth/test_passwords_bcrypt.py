"""Hashes by `htpasswd -B`."""

from __future__ import annotations

import re
import sys

import bcrypt
import pytest

from wsbridge.auth.passwords import BcryptHash, bcrypt_available, parse_bcrypt

BODY = "abcdefghijklmnopqrstuuhKF09ZYWwH2zP/0fwE1X8e/Q1YNx/hO"


def made(password: bytes, prefix: str = "$2y$") -> BcryptHash:
    """Hash a password at the least cost."""
    return parse_bcrypt(prefix + bcrypt.hashpw(password, bcrypt.gensalt(4)).decode()[4:])


@pytest.mark.parametrize("prefix", ["$2y$", "$2b$", "$2a$"])
def test_the_right_password_alone_is_right(prefix: str) -> None:
    """All three names of the form are verified."""
    stored = made("pässwort".encode(), prefix)

    assert stored.verify("pässwort".encode())
    assert not any(stored.verify(wrong) for wrong in (b"", b"passwort"))


def test_a_password_that_is_too_long_is_wrong() -> None:
    """Bytes past the 72nd are not left out, as bcrypt alone would do."""
    stored = made(b"x" * 72)

    assert stored.verify(b"x" * 72)
    assert not stored.verify(b"x" * 73)


def test_a_decoy_is_nobodys() -> None:
    """It has kind and cost, and not even the right password fits it."""
    stored = made(b"x")

    assert parse_bcrypt(stored.dummy_hash().text).text[:29] == stored.text[:29]
    assert not stored.dummy_hash().verify(b"x")


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("$2y$05$" + BODY[:-1], "is damaged: a bcrypt hash has 60 characters of ./A-Za-z0-9 and $, this one has 59"),
        ("$2y$05$" + BODY[:-1] + "P", "is damaged"),
        ("$2y$05$" + BODY.replace("uu", "uv"), "is damaged"),
        ("$2y$5$" + BODY + "O", "is damaged"),
        ("$2y$03$" + BODY, "has the cost 3, and it must be from 4 to 15"),
        ("$2y$16$" + BODY, "has the cost 16, and it must be from 4 to 15"),
        ("$2x$05$" + BODY, "is damaged"),
    ],
)
def test_what_is_refused(text: str, wrong: str) -> None:
    """Damage and absurd costs are reported without the hash."""
    with pytest.raises(ValueError, match=re.escape(wrong)) as refused:
        parse_bcrypt(text)
    assert BODY[:8] not in str(refused.value)


def test_whether_the_library_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked for and nothing else happens."""
    assert bcrypt_available()
    monkeypatch.setitem(sys.modules, "bcrypt", None)
    assert not bcrypt_available()
