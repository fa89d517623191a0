"""Scrypt: our own form of a password's hash, which needs no library.

Lives here: making, reading and verifying one (RFC 7914, by OpenSSL). Must not live here: whose password it is
(`htpasswd`), and when to verify one, which takes a core for a tenth of a second (`passwords`).

The form is that of the PHC string format, base64 without padding: `$scrypt$ln=15,r=8,p=1$SALT$HASH`, where 2 to the
power of `ln` is the cost, `r` the block size and `p` the parallelization.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, replace
from typing import Final

LN, R, P = 15, 8, 1
"""Of new hashes: 32 MiB of memory and about 0.1 s."""
SALT, DIGEST = 16, 32
"""Bytes of new hashes."""
LEAST_WORK: Final = 2**15
"""Smallest cost times block size times parallelization that is taken; less would be guessed too fast."""
MOST_WORK: Final = 2**21
"""The largest: about 1 s for each password that is tried."""
MOST_MEMORY: Final = 64 * 1024 * 1024
"""Bytes of memory that verifying may take, for each thread that does it."""

_FORM: Final = re.compile(
    r"\$scrypt\$ln=([1-9][0-9]?),r=([1-9][0-9]{0,2}),p=([1-9][0-9]{0,2})\$([A-Za-z0-9+/]{11,86})\$([A-Za-z0-9+/]{22,86})"
)


@dataclass(frozen=True, slots=True)
class Scrypt:
    """The hash of one password.

    Attributes:
        ln: Binary logarithm of the cost.
        r: Block size.
        p: Parallelization.
        salt: What makes equal passwords differ.
        digest: The hash itself.
    """

    ln: int
    r: int
    p: int
    salt: bytes
    digest: bytes

    @property
    def text(self) -> str:
        """The form that stands in files."""
        return f"$scrypt$ln={self.ln},r={self.r},p={self.p}${_base64(self.salt)}${_base64(self.digest)}"

    def verify(self, password: bytes) -> bool:
        """Tell whether a password is the one; takes a core for long, and gives the interpreter free meanwhile."""
        return hmac.compare_digest(_derive(password, self.ln, self.r, self.p, self.salt, len(self.digest)), self.digest)

    def decoy(self) -> Scrypt:
        """Give a hash that is verified at the same cost and that no password has."""
        return replace(self, digest=bytes(len(self.digest)))


def read(text: str) -> Scrypt:
    """Read a hash.

    Args:
        text: `$scrypt$…`.

    Raises:
        ValueError: What is wrong with it; the sentence holds nothing of salt and hash.
    """
    found = _FORM.fullmatch(text)
    if found is None:
        raise ValueError("is damaged: it must be $scrypt$ln=…,r=…,p=…$SALT$HASH")
    ln, r, p = (int(number) for number in found.groups()[:3])
    work, memory = (r * p) << ln, (128 * r) << ln
    if memory > MOST_MEMORY:
        raise ValueError(f"would take {memory} bytes of memory to verify, and the most is {MOST_MEMORY}")
    if not LEAST_WORK <= work <= MOST_WORK:
        raise ValueError(f"has a cost (2^ln * r * p) of {work}, and it must be from {LEAST_WORK} to {MOST_WORK}")
    if ln >= 16 * r:
        raise ValueError(f"has ln={ln} with r={r}, and ln must be less than 16 * r")
    try:
        made = Scrypt(ln, r, p, _bytes(found[4]), _bytes(found[5]))
    except binascii.Error:
        made = None
    if made is None or made.text != text:
        raise ValueError("is damaged: its base64 is not that of any bytes")
    return made


def make(password: bytes, ln: int = LN, r: int = R, p: int = P) -> Scrypt:
    """Make the hash of a password, with a new salt; takes a core for long."""
    salt = secrets.token_bytes(SALT)
    return Scrypt(ln, r, p, salt, _derive(password, ln, r, p, salt, DIGEST))


def _derive(password: bytes, ln: int, r: int, p: int, salt: bytes, size: int) -> bytes:
    memory = 128 * r * ((1 << ln) + p + 2)
    return hashlib.scrypt(password, salt=salt, n=1 << ln, r=r, p=p, dklen=size, maxmem=memory)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode().rstrip("=")


def _bytes(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4))
