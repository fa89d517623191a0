"""Users with the hashes of their passwords, as `htpasswd -B` and `wsbridge hash-password` write them.

Lives here: text to users. Must not live here: reading a file, and verifying a password.
"""

from __future__ import annotations

import re
from typing import Final

from wsbridge.auth import bcrypt, scrypt
from wsbridge.auth.bcrypt import Bcrypt
from wsbridge.auth.scrypt import Scrypt

Stored = Bcrypt | Scrypt
"""The hash of a password, of either kind."""

LONGEST_LINE: Final = 1024
"""Characters of a line."""
LONGEST_NAME: Final = 255
"""Bytes of a user's name; htpasswd takes no longer one."""
REMEDY: Final = 'make a new one by "wsbridge hash-password" or "htpasswd -B"'

_READERS: Final = (
    ("$2a$", bcrypt.read),
    ("$2b$", bcrypt.read),
    ("$2y$", bcrypt.read),
    ("$scrypt$", scrypt.read),
)
_REFUSED: Final = (
    (re.compile(r"\$apr1\$"), "is an MD5 hash (apr1), which is guessed too fast"),
    (re.compile(r"\$1\$"), "is an MD5 hash (md5crypt), which is guessed too fast"),
    (re.compile(r"\{SHA\}", re.IGNORECASE), "is a SHA-1 hash without salt, which is guessed too fast"),
    (re.compile(r"\{SSHA\}", re.IGNORECASE), "is a SHA-1 hash, which is guessed too fast"),
    (re.compile(r"\$2x?\$"), "is a hash of a broken form of bcrypt"),
    (re.compile(r"\$5\$|\$6\$"), "is a SHA-2 hash of crypt(3), a form that is not taken here"),
    (re.compile(r"\$(?:y|gy|7)\$"), "is a yescrypt hash of crypt(3), a form that is not taken here"),
    (re.compile(r"\$argon2"), "is an argon2 hash, a form that is not taken here"),
    (re.compile(r"[./0-9A-Za-z]{13}\Z"), "is a DES hash of crypt(3), which is guessed too fast, or a plain password"),
    (re.compile(r""), "is no hash of a known form; a plain password is not taken"),
)
"""What else may stand there, and why it is refused; the first that fits is told."""


def parse(text: str) -> dict[str, Stored]:
    """Read a list of users: lines of `name:hash`, empty ones and those that begin with # left out.

    Raises:
        ValueError: What is wrong with it, with the line. No text of it is told, no name either: where a colon
            is missing or misplaced, a hash or a password would pass for one.
    """
    users: dict[str, Stored] = {}
    lines: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if len(line) > LONGEST_LINE:
            raise ValueError(f"line {number}: has {len(line)} characters, and the most is {LONGEST_LINE}")
        entry = line.removesuffix("\r").rstrip(" \t")
        if not entry or entry.lstrip(" \t").startswith("#"):
            continue
        try:
            name, stored = _entry(entry)
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
        if name in users:
            raise ValueError(f"line {number}: has the same user as line {lines[name]}")
        users[name], lines[name] = stored, number
    return users


def check_name(name: str) -> str:
    """Check that a text can be a user's name; give it.

    Raises:
        ValueError: What is wrong with it.
    """
    if not name:
        raise ValueError("a user's name cannot be empty")
    if ":" in name:
        raise ValueError("a user's name cannot have a colon in it")
    if not name.isprintable() or name.strip() != name or name.startswith("#"):
        raise ValueError("a user's name cannot have control characters in it, begin with #, or have blanks around it")
    if len(name.encode()) > LONGEST_NAME:
        raise ValueError(f"a user's name of {len(name.encode())} bytes is too long: the most is {LONGEST_NAME}")
    return name


def _entry(line: str) -> tuple[str, Stored]:
    name, colon, hashed = line.partition(":")
    if not colon:
        raise ValueError("has no colon: a line is name:hash")
    check_name(name)
    for begin, read in _READERS:
        if hashed.startswith(begin):
            try:
                return name, read(hashed)
            except ValueError as error:
                raise ValueError(f"the hash {error}") from None
    if not hashed:
        raise ValueError(f"the user has no hash: {REMEDY}")
    why = next(why for form, why in _REFUSED if form.match(hashed))
    raise ValueError(f"what stands behind the name {why}: {REMEDY}")
