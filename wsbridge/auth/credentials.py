"""Credentials: the one token that a request shows, from the places where it may stand.

Lives here: the places, their part of a section, and finding the token. Must not live here: whether a token is good
(`bearer` and other ways that take tokens).
"""

from __future__ import annotations

import re
from binascii import Error, a2b_base64, b2a_base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Final

from pydantic import AfterValidator, Field, PlainValidator, WithJsonSchema

from wsbridge.auth.caller import Caller
from wsbridge.auth.identity import Denied
from wsbridge.config.choice import filled, unique
from wsbridge.config.section import AuthSection
from wsbridge.config.text import WORD, as_text
from wsbridge.protocol.cookies import cookies_named
from wsbridge.protocol.handshake import CARRIER

LARGEST: Final = 8192
"""Bytes of a token."""
CHALLENGE: Final = 'Bearer realm="wsbridge"'
"""WWW-Authenticate of ways that take tokens (RFC 6750 section 3), the same whatever was wrong."""

AUTHORIZATION: Final = "authorization"
SUBPROTOCOL: Final = "subprotocol"
COOKIE: Final = "cookie:"

_TOKEN = re.compile(rb"[!-~]+")
_BASE64URL = re.compile(r"[A-Za-z0-9_-]+")
_OTHER_ALPHABET = bytes.maketrans(b"-_", b"+/")
_SAME_ALPHABET = bytes.maketrans(b"+/", b"-_")


def read_source(value: object) -> str:
    """Read a place where a token may stand: `authorization`, `subprotocol` or `cookie:NAME`."""
    text = as_text(value)
    if text not in (AUTHORIZATION, SUBPROTOCOL) and not re.fullmatch(COOKIE + WORD, text):
        raise ValueError(f'"{text}" is none of authorization, subprotocol and "cookie:NAME"')
    return text


Source = Annotated[
    str,
    PlainValidator(read_source),
    WithJsonSchema({"type": "string", "pattern": f"^({AUTHORIZATION}|{SUBPROTOCOL}|{COOKIE}{WORD})$"}),
]


class TokenSection(AuthSection):
    """The base of the sections of all ways that take a token."""

    sources: Annotated[tuple[Source, ...], AfterValidator(filled), AfterValidator(unique)] = Field(
        (AUTHORIZATION, SUBPROTOCOL), alias="from"
    )
    """Where the token may stand: authorization, subprotocol, and cookie:NAME."""

    def takes_cookies(self) -> bool:
        """See `AuthSection.takes_cookies`: if a place is one."""
        return any(source.startswith(COOKIE) for source in self.sources)


@dataclass(frozen=True, slots=True)
class Shown:
    """A token that a request shows.

    Attributes:
        token: Printable ASCII without blanks, `LARGEST` bytes at most.
        source: Where it stands, as `TokenSection.sources` has it.
    """

    token: str = field(repr=False)
    source: str

    @property
    def by_cookie(self) -> bool:
        """Whether a cookie alone shows it."""
        return self.source.startswith(COOKIE)


def denied(detail: str, *, tried: bool = True) -> Denied:
    """Deny a client whose token is missing, malformed or not good."""
    return Denied(detail, tried=tried, challenges=(CHALLENGE,))


def token_of(caller: Caller, sources: Sequence[str]) -> Shown | Denied:
    """Find the token that a request shows.

    Args:
        caller: Whose request.
        sources: Where to look.

    Returns:
        It, or why there is none: no place has one, one is malformed, or two differ. One that stands in several places
        is told from the first that is no cookie.
    """
    if caller.request is None:
        return denied("plain TCP shows no token", tried=False)
    found: list[Shown] = []
    for source in sources:
        shown = _at(caller, source)
        if isinstance(shown, Denied):
            return shown
        if shown is not None:
            found.append(shown)
    if not found:
        return denied(f"no token in {', '.join(sources)}", tried=False)
    if any(shown.token != found[0].token for shown in found):
        return denied(f"the tokens in {' and '.join(shown.source for shown in found)} differ")
    return next((shown for shown in found if not shown.by_cookie), found[0])


def _at(caller: Caller, source: str) -> Shown | Denied | None:
    """Look in one place; None if no token stands there."""
    if source == AUTHORIZATION:
        raw = _in_authorization(caller)
    elif source == SUBPROTOCOL:
        raw = _in_subprotocols(caller)
    else:
        raw = _in_cookie(caller, source.removeprefix(COOKIE))
    if raw is None or isinstance(raw, Denied):
        return raw
    if len(raw) > LARGEST:
        return denied(f"the token in {source} has {len(raw)} bytes, and the limit is {LARGEST}")
    if not _TOKEN.fullmatch(raw):
        return denied(f"the token in {source} is empty or has characters that no token has")
    return Shown(raw.decode("ascii"), source)


def _in_authorization(caller: Caller) -> bytes | Denied | None:
    """Take the header apart (RFC 6750 section 2.1); credentials of another scheme are no token."""
    assert caller.request is not None  # noqa: S101 (`token_of` asks)
    values = caller.request.headers.get_all(b"authorization")
    if len(values) > 1:
        return denied(f"the request has {len(values)} Authorization headers")
    for value in values:
        scheme, _, rest = value.partition(b" ")
        if scheme.lower() == b"bearer":
            return rest.strip(b" ")
    return None


def _in_subprotocols(caller: Caller) -> bytes | Denied | None:
    """Find the one that carries a token; it is base64url without padding (RFC 4648 section 5)."""
    carriers = [name for name in caller.protocols if name.startswith(CARRIER)]
    if len(carriers) > 1:
        return denied(f"the request offers {len(carriers)} subprotocols with a token")
    for carrier in carriers:
        return _decoded(carrier.removeprefix(CARRIER))
    return None


def _decoded(text: str) -> bytes | Denied:
    """Decode the canonical form alone, so that a token has one spelling."""
    coded = text.encode("ascii")
    if _BASE64URL.fullmatch(text):
        try:
            raw = a2b_base64(coded.translate(_OTHER_ALPHABET) + b"=" * (-len(coded) % 4))
        except Error:
            raw = b""
        if b2a_base64(raw, newline=False).rstrip(b"=").translate(_SAME_ALPHABET) == coded:
            return raw
    return denied("the token in subprotocol is not base64url without padding")


def _in_cookie(caller: Caller, name: str) -> bytes | Denied | None:
    """Find the cookie; one that is empty was taken back by a page."""
    assert caller.request is not None  # noqa: S101 (`token_of` asks)
    values = cookies_named(caller.request.headers, name)
    if len(values) > 1:
        return denied(f"the request has {len(values)} cookies {name}")
    return values[0] if values and values[0] else None
