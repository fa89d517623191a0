"""Basic credentials (RFC 7617) and cookies (RFC 6265) of a request."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Final

from wsbridge.protocol.http1 import Headers
from wsbridge.reasons import Reason, Rejected

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class BasicCredentials:
    """User name and password of a request.

    Attributes:
        username: As sent; holds no control characters and no colon.
        password: UTF-8; never in `repr`.
    """

    username: str
    password: bytes

    def __repr__(self) -> str:
        return "BasicCredentials(***)"


def basic_challenge(realm: str) -> str:
    """Return the value of WWW-Authenticate.

    Args:
        realm: Printable ASCII without quotes and backslashes.
    """
    return f'Basic realm="{realm}", charset="UTF-8"'


def parse_basic(headers: Headers) -> BasicCredentials | None:
    """Read the credentials of a request; None where it has none of this scheme.

    Raises:
        Rejected: They cannot be read; the detail holds nothing of them.
    """
    values = headers.get_all(b"authorization")
    schemes = [value.partition(b" ")[0].lower() for value in values]
    if b"basic" not in schemes:
        return None
    if len(values) > 1:
        raise _malformed(f"the request has {len(values)} Authorization headers")
    token = values[0].partition(b" ")[2].strip(b" ")
    try:
        data = base64.b64decode(token, validate=True)
    except binascii.Error:
        data = b""
    if base64.b64encode(data) != token:  # b64decode accepts excess padding and unused bits that are not zero
        raise _malformed("the Basic credentials are not base64")
    try:
        name, colon, password = data.decode().partition(":")
    except UnicodeDecodeError:
        raise _malformed("the Basic credentials are not UTF-8") from None
    if not colon:
        raise _malformed("the Basic credentials have no colon")
    if _CONTROL.search(name) or _CONTROL.search(password):
        raise _malformed("the Basic credentials have control characters in them")
    return BasicCredentials(name, password.encode())


def _malformed(detail: str) -> Rejected:
    return Rejected(Reason.UNAUTHENTICATED, detail, failed_login=True)


def cookie_values(headers: Headers, name: str) -> list[bytes]:
    """Return all values that a request has for one cookie, in linear time.

    A pair without `=` is not a cookie of that name. Quotes around a value, which RFC 6265 section 4.1.1 lets servers
    put there, are not part of it.

    Args:
        headers: Of the request; several Cookie lines, which HTTP/2 allows and proxies may leave, count as one.
        name: Compared with its case.

    Returns:
        One value for each occurrence of the cookie; a browser with one cookie of that name sends it once.
    """
    wanted = name.encode("ascii")
    found: list[bytes] = []
    for line in headers.get_all(b"cookie"):
        for pair in line.split(b";"):
            key, equals, value = pair.partition(b"=")
            if equals and key.strip(b" \t") == wanted:
                value = value.strip(b" \t")
                quoted = len(value) >= 2 and value[:1] == value[-1:] == b'"'
                found.append(value[1:-1] if quoted else value)
    return found
