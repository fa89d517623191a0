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

from pydantic import AfterValidator, PlainValidator, WithJsonSchema

from wsbridge.auth.identity import unauthenticated
from wsbridge.config.base import AuthSection
from wsbridge.config.types import TOKEN_REGEX, as_text
from wsbridge.config.unions import check_unique, non_empty
from wsbridge.context import ConnectionContext
from wsbridge.protocol.credentials import cookie_values
from wsbridge.protocol.handshake import TOKEN_SUBPROTOCOL_PREFIX
from wsbridge.reasons import Rejected

MAX_TOKEN_BYTES: Final = 8192
"""Bytes of a token."""
BEARER_CHALLENGE: Final = 'Bearer realm="wsbridge"'
"""WWW-Authenticate of ways that take tokens (RFC 6750 section 3), the same whatever was wrong."""

AUTHORIZATION: Final = "authorization"
SUBPROTOCOL: Final = "subprotocol"
COOKIE_PREFIX: Final = "cookie:"

_TOKEN = re.compile(rb"[!-~]+")
_BASE64URL = re.compile(r"[A-Za-z0-9_-]+")
_BASE64URL_TO_BASE64 = bytes.maketrans(b"-_", b"+/")
_BASE64_TO_BASE64URL = bytes.maketrans(b"+/", b"-_")


def read_token_source(value: object) -> str:
    """Read a place where a token may stand: `authorization`, `subprotocol` or `cookie:NAME`."""
    text = as_text(value)
    if text not in (AUTHORIZATION, SUBPROTOCOL) and not re.fullmatch(COOKIE_PREFIX + TOKEN_REGEX, text):
        raise ValueError(f'"{text}" is none of authorization, subprotocol and "cookie:NAME"')
    return text


TokenSource = Annotated[
    str,
    PlainValidator(read_token_source),
    WithJsonSchema({"type": "string", "pattern": f"^({AUTHORIZATION}|{SUBPROTOCOL}|{COOKIE_PREFIX}{TOKEN_REGEX})$"}),
]


class TokenSection(AuthSection):
    """The base of the sections of all ways that take a token."""

    sources: Annotated[tuple[TokenSource, ...], AfterValidator(non_empty), AfterValidator(check_unique)] = (
        AUTHORIZATION,
        SUBPROTOCOL,
    )
    """Where the token is read from: authorization, subprotocol and cookie:NAME."""

    def accepts_cookies(self) -> bool:
        """See `AuthSection.takes_cookies`: if a place is one."""
        return any(source.startswith(COOKIE_PREFIX) for source in self.sources)


@dataclass(frozen=True, slots=True)
class TokenFound:
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
        return self.source.startswith(COOKIE_PREFIX)


def token_denied(detail: str, *, failed_login: bool = True, genuine: bool = False) -> Rejected:
    """Return the rejection of a client whose token is missing, malformed or not valid; a genuine one is no guess."""
    return unauthenticated(
        detail, failed_login=failed_login and not genuine, genuine=genuine, challenges=(BEARER_CHALLENGE,)
    )


def find_token(context: ConnectionContext, sources: Sequence[str]) -> TokenFound:
    """Find the token that a request shows.

    Args:
        context: Whose request.
        sources: Where to look.

    Returns:
        The token; one that appears in several places is taken from the first that is no cookie.

    Raises:
        Rejected: No place has one, one is malformed, or two differ.
    """
    if context.request is None:
        raise token_denied("plain TCP shows no token", failed_login=False)
    found: list[TokenFound] = []
    for source in sources:
        shown = _find_in(context, source)
        if shown is not None:
            found.append(shown)
    if not found:
        raise token_denied(f"no token in {', '.join(sources)}", failed_login=False)
    if any(shown.token != found[0].token for shown in found):
        raise token_denied(f"the tokens in {' and '.join(shown.source for shown in found)} differ")
    return next((shown for shown in found if not shown.by_cookie), found[0])


def _find_in(context: ConnectionContext, source: str) -> TokenFound | None:
    """Look in one place; None if no token stands there."""
    if source == AUTHORIZATION:
        raw = _in_authorization(context)
    elif source == SUBPROTOCOL:
        raw = _in_subprotocols(context)
    else:
        raw = _in_cookie(context, source.removeprefix(COOKIE_PREFIX))
    if raw is None:
        return None
    if len(raw) > MAX_TOKEN_BYTES:
        raise token_denied(f"the token in {source} has {len(raw)} bytes, and the limit is {MAX_TOKEN_BYTES}")
    if not _TOKEN.fullmatch(raw):
        raise token_denied(f"the token in {source} is empty or has characters that no token has")
    return TokenFound(raw.decode("ascii"), source)


def _in_authorization(context: ConnectionContext) -> bytes | None:
    """Take the header apart (RFC 6750 section 2.1); credentials of another scheme are no token."""
    assert context.request is not None  # noqa: S101 (`token_of` asks)
    values = context.request.headers.get_all(b"authorization")
    if len(values) > 1:
        raise token_denied(f"the request has {len(values)} Authorization headers")
    for value in values:
        scheme, _, rest = value.partition(b" ")
        if scheme.lower() == b"bearer":
            return rest.strip(b" ")
    return None


def _in_subprotocols(context: ConnectionContext) -> bytes | None:
    """Find the one that carries a token; it is base64url without padding (RFC 4648 section 5)."""
    carriers = [name for name in context.subprotocols if name.startswith(TOKEN_SUBPROTOCOL_PREFIX)]
    if len(carriers) > 1:
        raise token_denied(f"the request offers {len(carriers)} subprotocols with a token")
    for carrier in carriers:
        return _decode_base64url(carrier.removeprefix(TOKEN_SUBPROTOCOL_PREFIX))
    return None


def _decode_base64url(text: str) -> bytes:
    """Decode the canonical form alone, so that a token has one spelling."""
    coded = text.encode("ascii")
    if _BASE64URL.fullmatch(text):
        try:
            raw = a2b_base64(coded.translate(_BASE64URL_TO_BASE64) + b"=" * (-len(coded) % 4))
        except Error:
            raw = b""
        if b2a_base64(raw, newline=False).rstrip(b"=").translate(_BASE64_TO_BASE64URL) == coded:
            return raw
    raise token_denied("the token in subprotocol is not base64url without padding")


def _in_cookie(context: ConnectionContext, name: str) -> bytes | None:
    """Find the cookie; one that is empty was taken back by a page."""
    assert context.request is not None  # noqa: S101 (`token_of` asks)
    values = cookie_values(context.request.headers, name)
    if len(values) > 1:
        raise token_denied(f"the request has {len(values)} cookies {name}")
    return values[0] if values and values[0] else None
