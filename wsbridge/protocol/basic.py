"""Basic credentials: a name and a password in the Authorization header (RFC 7617).

Lives here: reading the header, and the challenge that asks for it. Must not live here: whether they are right.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Final

from wsbridge.protocol.head import Headers

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class BasicCredentials:
    """What a client shows.

    Attributes:
        name: As sent; holds no control characters and no colon.
        password: UTF-8; never in `repr`.
    """

    name: str
    password: bytes

    def __repr__(self) -> str:
        return "BasicCredentials(***)"


@dataclass(frozen=True, slots=True)
class BadBasic:
    """Credentials that cannot be read.

    Attributes:
        text: Why, for the log; holds nothing of them.
    """

    text: str


def challenge(realm: str) -> str:
    """Give the value of WWW-Authenticate.

    Args:
        realm: Printable ASCII without quotes and backslashes.
    """
    return f'Basic realm="{realm}", charset="UTF-8"'


def read_basic(headers: Headers) -> BasicCredentials | BadBasic | None:
    """Read the credentials of a request; None where it shows none of this scheme."""
    values = headers.get_all(b"authorization")
    schemes = [value.partition(b" ")[0].lower() for value in values]
    if b"basic" not in schemes:
        return None
    if len(values) > 1:
        return BadBasic(f"the request has {len(values)} Authorization headers")
    token = values[0].partition(b" ")[2].strip(b" ")
    try:
        data = base64.b64decode(token, validate=True)
    except binascii.Error:
        data = b""
    if base64.b64encode(data) != token:  # what decodes all the same: too much padding, bits that count for nothing
        return BadBasic("the Basic credentials are not base64")
    try:
        name, colon, password = data.decode().partition(":")
    except UnicodeDecodeError:
        return BadBasic("the Basic credentials are not UTF-8")
    if not colon:
        return BadBasic("the Basic credentials have no colon")
    if _CONTROL.search(name) or _CONTROL.search(password):
        return BadBasic("the Basic credentials have control characters in them")
    return BasicCredentials(name, password.encode())
