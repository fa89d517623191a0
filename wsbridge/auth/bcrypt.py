"""Bcrypt: the hash of a password that `htpasswd -B` makes.

Lives here: reading and verifying one; the library is loaded where it is first needed. Must not live here: whose
password it is (`htpasswd`), and when to verify one (`passwords`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

COSTS: Final = range(4, 16)
"""Binary logarithms of the cost that are taken; 15 is about 3 s for each password that is tried."""
LONGEST: Final = 72
"""Bytes of a password that bcrypt looks at; a longer one is never right."""
DIGEST: Final = 31
"""Characters of the hash itself, at the end."""

_FORM: Final = re.compile(r"\$2[aby]\$([0-9]{2})\$[./A-Za-z0-9]{21}[.Oeu][./A-Za-z0-9]{30}[.CGKOSWaeimquy26]")


@dataclass(frozen=True, slots=True)
class Bcrypt:
    """The hash of one password.

    Attributes:
        text: `$2y$…`, checked by `read`.
    """

    text: str

    def verify(self, password: bytes) -> bool:
        """Tell whether a password is the one; takes a core for long, and gives the interpreter free meanwhile.

        One that is too long takes as long as any other.
        """
        import bcrypt

        right = bcrypt.checkpw(password[:LONGEST], self.text.encode())
        return right and len(password) <= LONGEST

    def decoy(self) -> Bcrypt:
        """Give a hash that is verified at the same cost and that no password has."""
        return replace(self, text=self.text[:-DIGEST] + "." * DIGEST)


def read(text: str) -> Bcrypt:
    """Read a hash.

    Args:
        text: `$2y$…`, `$2b$…` or `$2a$…`.

    Raises:
        ValueError: What is wrong with it; the sentence holds nothing of salt and hash.
    """
    found = _FORM.fullmatch(text)
    if found is None:
        raise ValueError(f"is damaged: a bcrypt hash has 60 characters of ./A-Za-z0-9 and $, this one has {len(text)}")
    if int(found[1]) not in COSTS:
        raise ValueError(f"has the cost {int(found[1])}, and it must be from {COSTS[0]} to {COSTS[-1]}")
    return Bcrypt(text)


def available() -> bool:
    """Tell whether the library is installed."""
    try:
        import bcrypt  # noqa: F401  only whether it is there
    except ImportError:
        return False
    return True
