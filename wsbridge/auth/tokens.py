"""Tokens, known by their hashes: a list of lines `NAME sha256:HEX [expires=…] [routes=a,b]`.

Lives here: text to tokens and a token to its line. Must not live here: reading a file, and who shows a token.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Final

from wsbridge.config.text import NAME

LONGEST_LINE: Final = 4096
"""Characters of a line."""
MOST_TOLD: Final = 5
"""Bad lines that are told at once."""

_OWNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@+-]{0,63}")
_HASH = re.compile(r"sha256:([0-9A-Fa-f]{64})")
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_MOMENT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")


@dataclass(frozen=True, slots=True)
class Token:
    """A token of the list.

    Attributes:
        name: Who it stands for.
        digest: Its SHA-256, 32 bytes. It needs no salt: a token is random, so there is nothing to guess.
        expires: Seconds since 1970 from which it is not taken; None for never.
        routes: The routes it is for; None for all that take tokens of this list.
    """

    name: str
    digest: bytes
    expires: float | None = None
    routes: frozenset[str] | None = None

    @property
    def short(self) -> str:
        """The first of its hash, which tells it from others of the same name."""
        return self.digest[:8].hex()

    def line(self) -> str:
        """Write it as the list has it."""
        parts = [self.name, f"sha256:{self.digest.hex()}"]
        if self.expires is not None:
            parts.append(f"expires={datetime.fromtimestamp(self.expires, UTC):%Y-%m-%dT%H:%M:%SZ}")
        if self.routes is not None:
            parts.append(f"routes={','.join(sorted(self.routes))}")
        return " ".join(parts)


def digest_of(token: str) -> bytes:
    """Give what a token is known by."""
    return sha256(token.encode("utf-8")).digest()


def read_owner(text: str) -> str:
    """Read the name that a token stands for."""
    if not _OWNER.fullmatch(text):
        raise ValueError("the name must be 1 to 64 letters, digits and _ . @ + -, the first a letter or digit")
    return text


def read_moment(text: str) -> float:
    """Read a moment of UTC, `2027-01-01T00:00:00Z`, or the begin of a day, `2027-01-01`.

    Returns:
        Seconds since 1970.
    """
    whole = f"{text}T00:00:00Z" if _DAY.fullmatch(text) else text
    try:
        if _MOMENT.fullmatch(whole):
            return datetime.strptime(whole, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError:
        pass
    raise ValueError("expires must be a moment such as 2027-01-01T00:00:00Z, or a day such as 2027-01-01")


def read_routes(text: str) -> frozenset[str]:
    """Read the names of routes, with commas between them."""
    names = text.split(",")
    if not all(re.fullmatch(NAME, name) for name in names):
        raise ValueError("routes must be names of routes with commas between them and no blanks")
    return frozenset(names)


def parse(text: str) -> Mapping[bytes, Token]:
    """Read a list of tokens; empty lines, and those that begin with #, are left out.

    Returns:
        The tokens by their hashes; may be empty.

    Raises:
        ValueError: The numbers of the bad lines, with what is wrong with each; nothing of what stands there is told.
    """
    tokens: dict[bytes, Token] = {}
    lines: dict[bytes, int] = {}
    bad: list[str] = []
    for number, line in enumerate(text.split("\n"), 1):
        entry = line.strip(" \t\r")
        if not entry or entry.startswith("#"):
            continue
        try:
            token = _entry(entry)
            if token.digest in tokens:
                raise ValueError(f"the token stands in line {lines[token.digest]} already")  # noqa: TRY301  one telling for all
        except ValueError as error:
            bad.append(f"line {number}: {error}")
            continue
        tokens[token.digest] = token
        lines[token.digest] = number
    if bad:
        more = f"; and {len(bad) - MOST_TOLD} more" if len(bad) > MOST_TOLD else ""
        raise ValueError("; ".join(bad[:MOST_TOLD]) + more)
    return tokens


def _entry(entry: str) -> Token:
    if len(entry) > LONGEST_LINE:
        raise ValueError(f"has {len(entry)} characters, and the most is {LONGEST_LINE}")
    name, *rest = re.split(r"[ \t]+", entry)
    read_owner(name)
    found = _HASH.fullmatch(rest[0]) if rest else None
    if found is None:
        raise ValueError(
            'after the name must stand sha256: and 64 hexadecimal digits; "wsbridge new-token" makes a line'
        )
    expires: float | None = None
    routes: frozenset[str] | None = None
    for part in rest[1:]:
        key, _, value = part.partition("=")
        if key == "expires" and expires is None:
            expires = read_moment(value)
        elif key == "routes" and routes is None:
            routes = read_routes(value)
        else:
            raise ValueError("after the hash may stand expires=… and routes=…, each once and without blanks")
    return Token(name, bytes.fromhex(found[1]), expires, routes)
